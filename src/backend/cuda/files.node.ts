// What the CUDA backend needs of files and of the environment: its kernels' PTX beside the package, and the library that
// LOWRANK_CUDA_LIBRARY names instead of the driver's own (the tests' emulator).

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { BugError } from "../../util/errors.ts";
import { kernelsOf } from "./ptx.ts";

/** Empty: the system's. */
export function chosenLibrary(): string {
  return process.env.LOWRANK_CUDA_LIBRARY ?? "";
}

const read = new Map<string, ReadonlyMap<string, string>>();

/** PTX of a kernel of native/cuda/kernels/<file>.cu. */
export function readPtx(file: string, kernel: string): string {
  let kernels = read.get(file);
  if (!kernels) {
    const path = fileURLToPath(new URL(`../../../native/cuda/ptx/${file}.ptx`, import.meta.url));
    if (!existsSync(path)) throw new BugError(`the kernels of ${file}.cu are not in the package (${path})`);
    kernels = kernelsOf(readFileSync(path, "utf8"), file);
    read.set(file, kernels);
  }
  const text = kernels.get(kernel);
  if (text === undefined) throw new BugError(`${file}.ptx has no kernel ${kernel}`);
  return text;
}
