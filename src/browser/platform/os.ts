// What lowrank asks node:os; the bundle puts it in its place. A browser tells its machine's memory in rough steps, 8 GB at
// the most, or not at all.

const unknownMemoryBytes = 4 * 2 ** 30;

interface RoughMemory {
  readonly deviceMemory?: number;
}

export function totalmem(): number {
  const gigabytes = (navigator as RoughMemory).deviceMemory;
  return gigabytes === undefined ? unknownMemoryBytes : gigabytes * 2 ** 30;
}
export const freemem = totalmem;
export const homedir = () => "/home";
export const tmpdir = () => "/tmp";
export const hostname = () => "browser";
export const availableParallelism = () => navigator.hardwareConcurrency ?? 1;
export const cpus = () => Array.from({ length: availableParallelism() }, () => ({ model: "browser" }));
