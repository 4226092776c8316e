// Runs test files by another Node than this one, such as one of another architecture under qemu's user emulation, of
// Windows under Wine or of musl, over an addon that tools/prebuild.mjs compiled for it. vitest has parts of its own for
// each platform, so tests and sources are compiled here to plain JavaScript and run one after the other by the little
// runner of plain-runner.mjs. For the machines of whoever changes native code; CI runs none of it.
//   node tools/test-elsewhere.mjs --node "qemu-aarch64-static -L SYSROOT .../bin/node" --target linux-arm64 FILE ...
// FILE is a test, such as test/conformance/backend.test.ts; --only TEXT runs the tests whose names contain it.

import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));

function fail(reason) {
  console.error(`test-elsewhere: ${reason}`);
  process.exit(1);
}

/** Sources and tests as JavaScript in a folder that else looks like this one. */
function compileInto(work) {
  const config = join(work, "tsconfig.json");
  const compilerOptions = {
    rootDir: root,
    outDir: work,
    noCheck: true,
    declaration: false,
    sourceMap: false,
  };
  const include = ["src", "test", "native"].map((folder) => join(root, folder));
  const typeRoots = [join(root, "node_modules/@types")];
  writeFileSync(
    config,
    JSON.stringify({
      extends: join(root, "tsconfig.json"),
      compilerOptions: { ...compilerOptions, typeRoots },
      include,
    }),
  );
  const { status } = spawnSync(
    process.execPath,
    [join(root, "node_modules/typescript/bin/tsc"), "-p", config],
    {
      stdio: "inherit",
    },
  );
  if (status !== 0) fail("the tests do not compile");
  writeFileSync(join(work, "package.json"), readFileSync(join(root, "package.json")));
  for (const entry of readdirSync(root)) {
    if (!existsSync(join(work, entry)) && entry !== ".git") symlinkSync(join(root, entry), join(work, entry));
  }
  linkData(join(root, "test"), join(work, "test"));
  copyFileSync(join(root, "tools", "plain-runner.mjs"), join(work, "runner.mjs"));
}

/** What is not compiled, goldens above all, is linked; imports of vitest become imports of the runner. */
function linkData(from, to) {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, copy] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory() && existsSync(copy)) linkData(source, copy);
    else if (!/\.ts$/.test(entry.name)) symlinkSync(source, copy);
    else if (existsSync(copy.replace(/ts$/, "js"))) {
      const path = copy.replace(/ts$/, "js");
      const up = "../".repeat(relative(root, from).split(sep).length);
      writeFileSync(path, readFileSync(path, "utf8").replace(/from "vitest"/g, `from "${up}runner.mjs"`));
    }
  }
}

const { values, positionals } = parseArgs({
  options: {
    node: { type: "string", default: process.execPath },
    target: { type: "string" },
    only: { type: "string", default: "" },
  },
  allowPositionals: true,
});
if (positionals.length === 0) fail("name test files");
const addon = values.target && join(root, "native/build/cross", values.target, "lowrank.node");
if (addon && !existsSync(addon))
  fail(`there is no ${addon}: run tools/prebuild.mjs --target ${values.target}`);

const work = mkdtempSync(join(tmpdir(), "lowrank-elsewhere-"));
try {
  compileInto(work);
  const files = positionals.map((file) => `./${file.replace(/\.ts$/, ".js")}`);
  const lines = files.map(
    (file) => `await runFile(${JSON.stringify(file)}, ${JSON.stringify(values.only)});`,
  );
  writeFileSync(
    join(work, "main.mjs"),
    `import { finish, runFile } from "./runner.mjs";\n${lines.join("\n")}\nfinish();\n`,
  );
  const [command, ...words] = values.node.split(" ");
  const { status, error } = spawnSync(command, [...words, join(work, "main.mjs")], {
    cwd: work,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, ...(addon ? { LOWRANK_ADDON: addon } : {}) },
  });
  if (error) fail(`${command}: ${error.message}`);
  process.exitCode = status ?? 1;
} finally {
  rmSync(work, { recursive: true });
}
