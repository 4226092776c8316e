// Autotuning: which tile is fastest on this device for the products of a model, forward and of gradients, measured once on the
// model's own weights and remembered. The memory is behind TuningStore: a file under Node (tuning-file.node.ts), none in a
// browser. Nothing is measured on a CPU posing as a GPU.

import { isQuantized, type PlainMatrix, type Tensor } from "../backend.ts";
import type { Gpu } from "./gpu.ts";
import { multiply } from "./products.ts";
import { type ProductKind, TileChoices, tunedRows } from "./tile-choices.ts";
import { placeFits, storedForm, tileCount } from "./tiles.ts";

/** Keeps one text by name; both may fail quietly, for a measurement can always be made again. */
export interface TuningStore {
  read(): Promise<string | undefined>;
  write(text: string): Promise<void>;
}

/** Raised when tiles or their kernels change, so that old measurements are not used. */
const version = 3;
const repeats = 2;
/** A store larger than this is not ours. */
const largestStoreCharacters = 2 ** 20;
/** Shapes of weights that are measured, those with the most work first; others go by the nearest. */
const mostShapes = 4;
/** Of the tiles that were fastest on the first shape, so many are measured on the others. */
const finalists = 4;
/** A first start with a model waits no longer than this; what has not been measured then goes by the nearest. */
const patienceMs = 4000;
/** Larger operands than this are not measured: memory may be short with the model there. */
const largestBytes = 2 ** 28;

/** Measured choices for products by these weights on the device called `device`: from the store, or measured now and added. */
export async function tune(
  gpu: Gpu,
  device: string,
  store: TuningStore,
  weights: readonly PlainMatrix[],
  patience = patienceMs,
): Promise<TileChoices> {
  const key = `${version} ${device} ${gpu.tier}`;
  const kinds = kindsOf(weights);
  const wanted = kinds.map(({ kind }) => TileChoices.key(kind));
  // A choice decides the order of sums, so that a model's go by its own shapes, whatever else has been measured here.
  const own = (places: ReadonlyMap<string, number>) =>
    new Map([...places].filter(([name]) => wanted.includes(name)));
  const found = own(parseStore(await store.read()).get(key) ?? new Map());
  const missing = kinds.filter(({ kind }) => !found.has(TileChoices.key(kind)));
  if (missing.length === 0 || found.size > 0) return new TileChoices(found);
  const places = await measure(gpu, missing, performance.now() + patience);
  // Another process may have written in the meantime.
  const latest = parseStore(await store.read());
  latest.set(key, new Map([...(latest.get(key) ?? []), ...places]));
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

/** A kind of product, and a weight to measure it with. */
interface Measured {
  readonly kind: ProductKind;
  readonly weight: PlainMatrix;
}

/** Both directions of the shapes that most of a model's work is. */
export function kindsOf(weights: readonly PlainMatrix[]): Measured[] {
  const byShape = new Map<string, { readonly weight: PlainMatrix; work: number }>();
  for (const weight of weights) {
    const [out, width] = weight.shape as [number, number];
    const most = Math.max(out, width);
    if (4 * Math.max(tunedRows * most, out * width) > largestBytes) continue;
    const name = `${storedForm(weight)} ${out}x${width}`;
    const known = byShape.get(name) ?? { weight, work: 0 };
    known.work += out * width;
    byShape.set(name, known);
  }
  const shapes = [...byShape.values()].sort((a, b) => b.work - a.work).slice(0, mostShapes);
  return shapes.flatMap(({ weight }) => {
    const [out, width] = weight.shape as [number, number];
    const form = storedForm(weight);
    return [
      { weight, kind: { form, transposed: false, n: out, k: width } },
      { weight, kind: { form, transposed: true, n: width, k: out } },
    ];
  });
}

async function measure(gpu: Gpu, kinds: readonly Measured[], end: number): Promise<Map<string, number>> {
  const places = new Map<string, number>();
  /** By form and direction: tiles worth measuring, the fastest first. */
  const ranked = new Map<string, number[]>();
  const before = gpu.tiles;
  for (const { kind, weight } of kinds) {
    const family = `${kind.form} ${kind.transposed}`;
    const candidates = ranked.get(family)?.slice(0, finalists) ?? everyPlace();
    const times = await timesOf(gpu, kind, weight, candidates, end);
    // One alone has won against nothing.
    if (times.length < 2) continue;
    times.sort((a, b) => a.ms - b.ms);
    if (!ranked.has(family))
      ranked.set(
        family,
        times.map(({ place }) => place),
      );
    places.set(TileChoices.key(kind), times[0]!.place);
  }
  gpu.tiles = before;
  return places;
}

function everyPlace(): number[] {
  return Array.from({ length: tileCount() }, (_, place) => place);
}

/** Milliseconds of one product with each of these tiles that fits, as far as there is time until `end`. */
async function timesOf(
  gpu: Gpu,
  { transposed, n, k }: ProductKind,
  weight: PlainMatrix,
  candidates: readonly number[],
  end: number,
): Promise<{ place: number; ms: number }[]> {
  const times: { place: number; ms: number }[] = [];
  const a = gpu.memory.scratch(4 * tunedRows * k);
  const c = gpu.memory.scratch(4 * tunedRows * n);
  const tensor = (buffer: Tensor["buffer"], columns: number): Tensor => ({
    ...{ buffer, byteOffset: 0, shape: [tunedRows, columns], dtype: "f32" },
  });
  const product = {
    ...{ m: tunedRows, n, k, a: tensor(a, k), b: weight, bTransposed: transposed, c: tensor(c, n) },
  };
  const halfB = isQuantized(weight) || weight.dtype === "f16";
  for (const place of candidates) {
    if (performance.now() > end) break;
    if (!placeFits(gpu, place, halfB)) continue;
    gpu.tiles = TileChoices.forced(place);
    const run = async () => {
      multiply(gpu, product);
      await gpu.commands.finish();
    };
    await run(); // compiles
    let ms = Number.POSITIVE_INFINITY;
    for (let i = 0; i < repeats; i++) {
      const start = performance.now();
      await run();
      ms = Math.min(ms, performance.now() - start);
    }
    times.push({ place, ms });
  }
  gpu.memory.free(a);
  gpu.memory.free(c);
  return times;
}
