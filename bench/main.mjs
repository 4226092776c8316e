// Benchmarks by name: `npm run bench -- NAME [options]`, after `npm run build`. NAME is a kernel, whose calls are those of
// test/conformance/cases (each is held against the reference before it is timed), or a script of this folder:
// against-peft, gemm, paging, ... `npm run --silent bench -- NAME --json` prints one JSON document. Without a name: a list.

import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));
/** Parts of the kernels' benchmark, no benchmarks themselves. */
const parts = ["main.mjs", "kernels.mjs", "random-gguf.mjs"];

/** Path of every script by the name it is asked for by. */
function scripts() {
  const found = new Map();
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const { name } = entry;
    if (entry.isDirectory() && existsSync(join(folder, name, "run.mjs")))
      found.set(name, join(folder, name, "run.mjs"));
    else if (name.endsWith(".mjs") && !parts.includes(name)) found.set(name.slice(0, -4), join(folder, name));
  }
  return found;
}

/** Runs a script; under --json one that prints no JSON itself has its lines put into a document. */
async function runScript(name, path, args) {
  const asJson = args.includes("--json");
  const knowsJson = /--json|\bjson:\s*\{/.test(readFileSync(path, "utf8"));
  const wraps = asJson && !knowsJson;
  const own = wraps ? args.filter((arg) => arg !== "--json") : args;
  const start = performance.now();
  const child = spawn(process.execPath, [path, ...own], {
    stdio: ["inherit", wraps ? "pipe" : "inherit", "inherit"],
  });
  let output = "";
  child.stdout?.setEncoding("utf8").on("data", (text) => {
    output += text;
  });
  const code = await new Promise((done) => child.on("close", (status) => done(status ?? 1)));
  if (wraps) {
    const seconds = (performance.now() - start) / 1000;
    const lines = output.split("\n").filter((line) => line.trim() !== "");
    process.stdout.write(`${JSON.stringify({ name, exitCode: code, seconds, lines }, null, 2)}\n`);
  }
  return code;
}

const [name, ...args] = process.argv.slice(2);
const known = scripts();
if (known.has(name)) process.exitCode = await runScript(name, known.get(name), args);
else {
  const { benchKernels } = await import("./kernels.mjs");
  process.exitCode = await benchKernels(name, args, [...known.keys()].sort());
}
