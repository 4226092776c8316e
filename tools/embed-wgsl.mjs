// Writes src/backend/webgpu/kernels.ts from the .wgsl files beside it, so that the shaders reach Node, bundlers and
// browsers alike, without file access and without loaders. Run after every change of a .wgsl file; a test compares.
//   node tools/embed-wgsl.mjs

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../src/backend/webgpu/kernels/", import.meta.url));
const target = fileURLToPath(new URL("../src/backend/webgpu/kernels.ts", import.meta.url));

/** The text that kernels.ts must have. */
export function embeddedKernels() {
  const entries = readdirSync(folder)
    .filter((name) => name.endsWith(".wgsl"))
    .sort()
    .map((name) => {
      const source = readFileSync(join(folder, name), "utf8");
      if (/[`\\]|\$\{/.test(source))
        throw new Error(`${name}: backquotes, backslashes and \${ cannot be embedded`);
      return `  "${name.slice(0, -".wgsl".length)}": \`${source}\`,\n`;
    });
  return [
    "// Made by tools/embed-wgsl.mjs from kernels/*.wgsl: edit those, then run it again.\n\n",
    "// biome-ignore-all format: the shaders keep their own layout\n",
    "// biome-ignore-all lint/complexity/useLiteralKeys: names with hyphens stand beside names without\n\n",
    "export const kernelSources = {\n",
    ...entries,
    "} as const;\n\nexport type KernelSource = keyof typeof kernelSources;\n",
  ].join("");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(target, embeddedKernels());
