// Builds docs/api/ from the docstrings of what src/index.ts exports, with a page of every function's options made from
// their definitions: `npm run docs`, after a build. An export without a docstring of its own type fails it. TypeDoc is
// installed here on its first run (package.json beside this says why).

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const typedoc = join(here, "node_modules/typedoc/bin/typedoc");
const pages = join(here, "pages");

/** By the function of the library that takes them. */
const definitions = {
  train: ["train", "trainDefinition"],
  evaluate: ["eval", "evalDefinition"],
  generate: ["generate", "generateDefinition"],
  merge: ["merge", "mergeDefinition"],
  exportGguf: ["export", "exportDefinition"],
  quantize: ["quantize", "quantizeDefinition"],
  plan: ["plan", "planDefinition"],
  compare: ["compare", "compareDefinition"],
};

if (!existsSync(join(root, "dist/index.js")))
  throw new Error("lowrank is not built yet: run `npm run build` first");
if (!existsSync(typedoc))
  run("npm", ["install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", here]);
mkdirSync(pages, { recursive: true });
writeFileSync(join(pages, "options.md"), await optionsPage());
run(process.execPath, [typedoc, "--options", join(here, "typedoc.json"), ...process.argv.slice(2)]);

/** A table for each function: option, what it must be, default, meaning. */
async function optionsPage() {
  const parts = ["---\ntitle: Options\n---\n"];
  for (const [name, [file, exported]] of Object.entries(definitions)) {
    const url = pathToFileURL(join(root, `dist/config/${file}-options.js`)).href;
    const { groups, summary } = (await import(url))[exported];
    parts.push(`# ${name}()\n\n${summary}\n`);
    for (const [heading, fields] of Object.entries(groups)) {
      parts.push(`**${heading}**\n\n| option | expected | default | meaning |\n|---|---|---|---|`);
      for (const [key, field] of Object.entries(fields)) {
        const fallback = field.required
          ? "required"
          : field.kind === "switch"
            ? field.defaultOn
            : field.defaultText;
        const cells = [`\`${key}\``, field.expected, fallback ?? "", field.description];
        parts.push(`| ${cells.map((cell) => String(cell).replaceAll("|", "\\|")).join(" | ")} |`);
      }
      parts.push("");
    }
  }
  return `${parts.join("\n")}\n`;
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}
