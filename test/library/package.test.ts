// The package as users of TypeScript get it: packed, unpacked into an empty project, compiled strictly without
// skipLibCheck, run. The programs are examples/library's. Not here: what the functions do in detail (library.test.ts).

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const tsc = join(root, "node_modules/typescript/bin/tsc");
const examples = join(root, "examples/library");
let project: string;

beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), "lowrank-package-"));
  const [{ filename }] = JSON.parse(
    execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", project], {
      cwd: root,
      encoding: "utf8",
    }),
  ) as [{ filename: string }];
  const modules = join(project, "node_modules");
  mkdirSync(modules);
  execFileSync("tar", ["-xzf", join(project, filename), "-C", modules]);
  cpSync(join(modules, "package"), join(modules, "lowrank"), { recursive: true });
  rmSync(join(modules, "package"), { recursive: true });
  // What installing adds: the dependencies, and the addon, which is built already here.
  symlinkSync(join(root, "node_modules"), join(modules, "lowrank/node_modules"));
  rmSync(join(modules, "lowrank/native/build"), { recursive: true, force: true });
  symlinkSync(join(root, "native/build"), join(modules, "lowrank/native/build"));
  writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module", private: true }));
});
afterAll(() => rmSync(project, { recursive: true, force: true }));

/** Compiles files of the project as a strict user would; returns what the compiler says. */
function compile(files: readonly string[], module: "nodenext" | "esnext" = "nodenext"): string {
  const resolution = module === "nodenext" ? "nodenext" : "bundler";
  writeFileSync(
    join(project, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        ...{ strict: true, skipLibCheck: false, module, moduleResolution: resolution, target: "es2022" },
        ...{ lib: ["es2023", "dom", "esnext.disposable"], types: [], outDir: "out", rootDir: "." },
      },
      files,
    }),
  );
  try {
    execFileSync(process.execPath, [tsc, "-p", project], { cwd: project, encoding: "utf8" });
    return "";
  } catch (error) {
    return (error as { stdout: string }).stdout;
  }
}

/** Node's own globals, as far as the examples use them: an empty project has no @types/node. */
const globals = "declare const process: { argv: string[]; stdout: { write(text: string): void } };\n";

describe("the packed library in an empty project", () => {
  const names = readdirSync(examples).filter((name) => name.endsWith(".ts"));

  it("compiles strictly, under both resolutions", () => {
    for (const name of names) cpSync(join(examples, name), join(project, name));
    writeFileSync(join(project, "globals.d.ts"), globals);
    expect(compile(["globals.d.ts", ...names], "esnext")).toBe("");
    expect(compile(["globals.d.ts", ...names])).toBe("");
  });

  it.each(names)("runs %s", (name) => {
    const output = execFileSync(process.execPath, [join("out", name.replace(/ts$/, "js"))], {
      cwd: project,
      encoding: "utf8",
    });
    expect(output).toMatch(
      { "own-loop.ts": /red|blue/, "first-run.ts": /perplexity 1\.\d\d/ }[name] ?? /GGUF|peak/i,
    );
  });

  it("refuses a misspelt option, a wrong type and a missing one at compile time", () => {
    const program = (options: string) => `import { train } from "lowrank";\ntrain(${options});\n`;
    const good = `{ model: "tiny", data: [{ text: "a" }], out: "runs/x", rank: 8 }`;
    writeFileSync(join(project, "good.ts"), program(good));
    writeFileSync(join(project, "misspelt.ts"), program(good.replace("rank", "rnak")));
    writeFileSync(join(project, "wrong.ts"), program(good.replace("8", '"8"')));
    writeFileSync(join(project, "missing.ts"), program(good.replace('out: "runs/x", ', "")));
    expect(compile(["good.ts"])).toBe("");
    const refused = compile(["misspelt.ts", "wrong.ts", "missing.ts"]).split(/\n(?=\S)/);
    const of = (file: string) => refused.filter((line) => line.includes(file)).join("\n");
    expect(of("misspelt.ts")).toContain("rnak");
    expect(of("wrong.ts")).toContain("not assignable to type 'number'");
    expect(of("missing.ts")).toContain("out");
  });
});
