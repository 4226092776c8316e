// What a .ptx file was made from: its kernel file and every header that it reaches, as a hash that the file's first line
// carries. Made by build-ptx.mjs, held by test/native/cuda-ptx.test.ts.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

/** The files of kernels/ without their ending. */
export function kernelFiles() {
  return readdirSync(join(here, "kernels"))
    .filter((name) => name.endsWith(".cu"))
    .map((name) => name.slice(0, -3))
    .sort();
}

export const ptxPath = (file) => join(here, "ptx", `${file}.ptx`);

/** The source and the headers that it reaches, but for the emulator's. */
function closureOf(path, seen = new Map()) {
  if (seen.has(path) || !existsSync(path) || relative(here, path).startsWith("emulator")) return seen;
  const text = readFileSync(path, "utf8");
  seen.set(path, text);
  for (const [, name] of text.matchAll(/^\s*#include "([^"]+)"/gm)) {
    closureOf(resolve(dirname(path), name), seen);
    closureOf(resolve(here, name), seen);
    closureOf(resolve(here, "kernels", name), seen);
  }
  return seen;
}

/** SHA-256 of what a kernel file is made from, comments included. */
export function sourceHash(file) {
  const hash = createHash("sha256");
  const parts = new Map([
    ...closureOf(join(here, "device.h")),
    ...closureOf(join(here, "kernels", `${file}.cu`)),
  ]);
  for (const path of [...parts.keys()].sort())
    hash.update(relative(here, path)).update("\0").update(parts.get(path)).update("\0");
  return hash.digest("hex");
}

/** The hash that a .ptx file says it was made from. */
export function statedHash(file) {
  if (!existsSync(ptxPath(file))) return undefined;
  return /^\/\/ lowrank \S+ ([0-9a-f]{64})\n/.exec(readFileSync(ptxPath(file), "utf8"))?.[1];
}
