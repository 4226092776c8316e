// Writes src/backend/cuda/kernels.ts from native/cuda/kernels/*.cu: of every kernel its file, threads, shared memory and the
// layout of its arguments, read off the argument struct and the KERNEL line, so that both sides of a launch come from
// one text. The file is not in git: builds, checks and tests write it first. Not here: compiling (native/cuda/build-ptx.py, emulator/build.mjs).
//   node tools/embed-cuda.mjs

import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../native/cuda/", import.meta.url));
const target = fileURLToPath(new URL("../src/backend/cuda/kernels.ts", import.meta.url));

const scalars = { u32: 4, i32: 4, float: 4, u64: 8, double: 8 };

/** The argument structs and kernels of one file. Throws, naming the file, at what it cannot read. */
export function layoutsOf(source, file) {
  const text = source.replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\//g, " ");
  const structs = new Map();
  for (const [, name, body] of text.matchAll(/\bstruct\s+(\w+Arguments)\s*\{([^}]*)\}\s*;/g)) {
    if (structs.has(name)) throw new Error(`${file}: ${name} is there twice`);
    structs.set(name, layoutOf(body, `${file}: ${name}`));
  }
  const kernels = [];
  for (const [line, list] of text.matchAll(/^[ \t]*KERNEL\(([^)]*)\)/gm)) {
    const [name, struct, ...numbers] = list.split(",").map((part) => part.trim());
    if (numbers.length !== 3 || numbers.some((n) => !/^\d+$/.test(n)))
      throw new Error(
        `${file}: ${line}: expected KERNEL(name, arguments, threads, blocks, bytes) in literals`,
      );
    if (!structs.has(struct)) throw new Error(`${file}: ${name}: there is no struct ${struct} in this file`);
    const [threads, , sharedBytes] = numbers.map(Number);
    kernels.push({ name, struct, threads, sharedBytes });
  }
  return { structs, kernels };
}

function layoutOf(body, where) {
  const fields = [];
  let offset = 0;
  let widest = 4;
  for (const declaration of body.split(";").map((part) => part.trim())) {
    if (declaration === "") continue;
    const match = /^((?:const\s+)?\w+(?:\s*\*)?(?:\s*__restrict__)?)\s*(.+)$/.exec(
      declaration.replace(/\*\s*/, "* "),
    );
    if (!match) throw new Error(`${where}: "${declaration}" cannot be read`);
    const isPointer = match[1].includes("*");
    const base = match[1].replace(/const|\*|__restrict__|\s/g, "");
    const size = isPointer ? 8 : scalars[base];
    if (!size)
      throw new Error(
        `${where}: ${base} is no type of an argument; there are pointers, u64, double, u32, i32, float`,
      );
    for (const part of match[2].split(",")) {
      const named = /^(?:__restrict__\s+)?(\w+)(?:\[(\d+)\])?$/.exec(part.replace(/^\s*\*\s*/, "").trim());
      if (!named) throw new Error(`${where}: "${part.trim()}" cannot be read; one pointer a declaration`);
      const count = named[2] === undefined ? 1 : Number(named[2]);
      widest = Math.max(widest, size);
      offset = Math.ceil(offset / size) * size;
      fields.push({
        name: named[1],
        type: isPointer ? "pointer" : base,
        offset,
        count,
        isArray: named[2] !== undefined,
      });
      offset += size * count;
    }
  }
  return { fields, sizeBytes: Math.ceil(offset / widest) * widest };
}

const typeOf = ({ type, isArray }) => {
  const one = type === "pointer" ? "Pointer" : "number";
  return isArray ? `readonly ${one === "Pointer" ? "(Pointer)" : one}[] | ArrayLike<${one}>` : one;
};

function embeddedKernels() {
  // The emulator has one more, which marks blocks of memory (emulator/guard.cu).
  const files = ["kernels", "emulator"].flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith(".cu"))
      .sort()
      .map((name) => `${folder}/${name}`),
  );
  const [types, layouts, kernels] = [[], [], []];
  const names = new Set();
  for (const file of files) {
    const found = layoutsOf(readFileSync(join(root, file), "utf8"), file);
    for (const [name, { fields, sizeBytes }] of found.structs) {
      const list = fields.map(
        ({ name: field, type, offset, count }) => `["${field}", "${type}", ${offset}, ${count}]`,
      );
      layouts.push(`  ${name}: { sizeBytes: ${sizeBytes}, fields: [${list.join(", ")}] },\n`);
      const members = fields.map(
        (field) => `readonly ${field.name}${field.type === "pointer" ? "?" : ""}: ${typeOf(field)}`,
      );
      types.push(`  ${name}: { ${members.join("; ")} };\n`);
    }
    for (const { name, struct, threads, sharedBytes } of found.kernels) {
      if (names.has(name)) throw new Error(`${file}: there is another kernel ${name}`);
      names.add(name);
      const stem = file.slice(file.indexOf("/") + 1, -".cu".length);
      kernels.push(
        `  ${name}: { file: "${stem}", arguments: "${struct}", threads: ${threads}, sharedBytes: ${sharedBytes}, argumentBytes: ${found.structs.get(struct).sizeBytes} },\n`,
      );
    }
  }
  return [
    "// Made by tools/embed-cuda.mjs from native/cuda/kernels/*.cu: edit those.\n\n",
    'import type { Tensor } from "../../tensor/tensor.ts";\n\n',
    "/** What a kernel is pointed to: a tensor's first element, an address, or nothing. */\n",
    "export type Pointer = Tensor | number | undefined;\n\n",
    "export interface Arguments {\n",
    ...types,
    "}\n\nexport const layouts = {\n",
    ...layouts,
    "} as const;\n\nexport const cudaKernels = {\n",
    ...kernels,
    "} as const;\n\nexport type CudaKernel = keyof typeof cudaKernels;\n",
  ].join("");
}

/** Brings kernels.ts up to date; whole or not at all, for several may do so at once. */
export function writeCudaKernels() {
  const text = embeddedKernels();
  if (existsSync(target) && readFileSync(target, "utf8") === text) return;
  const temporary = `${target}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, target);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeCudaKernels();
