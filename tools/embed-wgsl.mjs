// Writes src/backend/webgpu/shaders.ts from the .wgsl files in kernels/, so that the shaders reach Node, bundlers and
// browsers alike, without file access and without loaders. The file is not in git: builds, checks and tests write it
// first, and leave it alone while nothing changed.
//   node tools/embed-wgsl.mjs

import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../src/backend/webgpu/kernels/", import.meta.url));
const target = fileURLToPath(new URL("../src/backend/webgpu/shaders.ts", import.meta.url));

function embeddedShaders() {
  const names = readdirSync(folder)
    .filter((name) => name.endsWith(".wgsl"))
    .sort();
  const entries = names.map((name) => {
    const source = readFileSync(join(folder, name), "utf8");
    if (/[`\\]|\$\{/.test(source))
      throw new Error(`${name}: backquotes, backslashes and \${ cannot be embedded`);
    return `  "${name.slice(0, -".wgsl".length)}": \`${source}\`,\n`;
  });
  return [
    "// Made by tools/embed-wgsl.mjs from kernels/*.wgsl: edit those.\n\n",
    "export type ShaderSource =\n",
    ...names.map((name) => `  | "${name.slice(0, -".wgsl".length)}"\n`),
    ";\n\nexport const shaderSources: Readonly<Record<ShaderSource, string>> = {\n",
    ...entries,
    "};\n",
  ].join("");
}

/** Brings shaders.ts up to date; whole or not at all, for several may do so at once. */
export function writeShaders() {
  const text = embeddedShaders();
  if (existsSync(target) && readFileSync(target, "utf8") === text) return;
  const temporary = `${target}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, target);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeShaders();
