// Autotuning: which tile is fastest on this device for products of each size, measured once and remembered. The memory is
// behind TuningStore: a file under Node (tuning-file.node.ts), none in a browser. Nothing is measured on a CPU posing as a GPU.

import type { Tensor } from "../backend.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";
import { multiply } from "./products.ts";
import { TileChoices, type TiledKernelName, tunedSides } from "./tile-choices.ts";
import { placeFits, tileCount } from "./tiles.ts";

/** Keeps one text by name; both may fail quietly, for a measurement can always be made again. */
export interface TuningStore {
  read(): Promise<string | undefined>;
  write(text: string): Promise<void>;
}

/** Raised when tiles or their kernels change, so that old measurements are not used. */
const version = 2;
const repeats = 3;
/** A store larger than this is not ours. */
const largestStoreCharacters = 2 ** 20;

/** Measured choices for the device called `device`: from the store, or measured now and added to it. */
export async function tune(
  gpu: Gpu,
  device: string,
  store: TuningStore,
  sides: readonly number[] = tunedSides,
): Promise<TileChoices> {
  const key = `${version} ${device} ${gpu.tier}`;
  const known = parseStore(await store.read());
  const found = known.get(key);
  if (found) return new TileChoices(found);
  const places = await measure(gpu, sides);
  // Another process may have written in the meantime.
  const latest = parseStore(await store.read());
  latest.set(key, places);
  const document = Object.fromEntries([...latest].map(([name, map]) => [name, Object.fromEntries(map)]));
  await store.write(JSON.stringify(document, null, 1));
  return new TileChoices(places);
}

/** What a store holds; anything that is not ours reads as nothing. */
export function parseStore(text: string | undefined): Map<string, Map<string, number>> {
  const devices = new Map<string, Map<string, number>>();
  if (text === undefined || text.length > largestStoreCharacters) return devices;
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return devices;
  }
  if (typeof document !== "object" || document === null) return devices;
  for (const [device, choices] of Object.entries(document)) {
    if (typeof choices !== "object" || choices === null) continue;
    const places = Object.entries(choices as object).filter(
      (entry): entry is [string, number] => Number.isInteger(entry[1]) && entry[1] >= 0 && entry[1] < 16,
    );
    devices.set(device, new Map(places));
  }
  return devices;
}

/** Times every tile that fits on square products of each side; K is 1024, or the side where that is shorter. */
async function measure(gpu: Gpu, sides: readonly number[]): Promise<Map<string, number>> {
  const places = new Map<string, number>();
  const kernels: TiledKernelName[] = gpu.matrix ? ["gemm-matrix", "gemm"] : ["gemm"];
  const before = gpu.tiles;
  for (const side of sides) {
    const k = Math.min(side, 1024);
    const weightBytes = gpu.tier === "f32" ? 4 : 2;
    if (4 * side * side > gpu.commands.bindingLimit - 256) continue;
    const [a, b, c] = [4 * side * k, weightBytes * side * k, 4 * side * side].map((n) =>
      gpu.memory.scratch(n),
    ) as [GpuMemory, GpuMemory, GpuMemory];
    for (const kernel of kernels) {
      const times = await timesOf(gpu, kernel, side, {
        m: side,
        n: side,
        k,
        a: { buffer: a, byteOffset: 0, shape: [side, k], dtype: "f32" },
        b: { buffer: b, byteOffset: 0, shape: [side, k], dtype: weightBytes === 4 ? "f32" : "f16" },
        c: { buffer: c, byteOffset: 0, shape: [side, side], dtype: "f32" },
      });
      const fastest = times.reduce((best, ms, place) => (ms < times[best]! ? place : best), 0);
      if (Number.isFinite(times[fastest])) places.set(TileChoices.key(kernel, side), fastest);
    }
    for (const memory of [a, b, c]) gpu.memory.free(memory);
  }
  gpu.tiles = before;
  return places;
}

/** Milliseconds of one product with each tile of a kernel; infinite for tiles that do not fit. */
async function timesOf(
  gpu: Gpu,
  kernel: TiledKernelName,
  side: number,
  product: { m: number; n: number; k: number; a: Tensor; b: Tensor; c: Tensor },
): Promise<number[]> {
  const times: number[] = [];
  for (let place = 0; place < tileCount(kernel); place++) {
    if (!placeFits(gpu, kernel, place)) {
      times.push(Number.POSITIVE_INFINITY);
      continue;
    }
    gpu.tiles = new TileChoices(new Map([[TileChoices.key(kernel, side), place]]));
    // The mask keeps a product off subgroup matrices; without one it would never reach gemm.wgsl in that tier.
    const mask =
      kernel === "gemm" && gpu.matrix
        ? { on: 3 as const, dropout: { p: 0.5, seed: 0, stream: 0 } }
        : undefined;
    const run = async () => {
      multiply(gpu, { ...product, mask });
      await gpu.commands.finish();
    };
    await run(); // compiles
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < repeats; i++) {
      const start = performance.now();
      await run();
      best = Math.min(best, performance.now() - start);
    }
    times.push(best);
  }
  return times;
}
