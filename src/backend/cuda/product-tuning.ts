// Measures how a product with a weight is fastest on this card, the first time that one of its class is asked for, and keeps the
// answers by card in lowrank's cache. Nothing is changed that the product itself would not overwrite. Never on the emulator, whose clock
// says nothing of a card. Not here: what is chosen between (product-choices.ts).

import { UserError } from "../../util/errors.ts";
import type { TuningStore } from "../webgpu/tuning.ts";
import type { CudaCard } from "./addon.ts";
import type { CudaGpu } from "./gpu.ts";
import { choiceKey, type MeasureChoice } from "./product-choices.ts";
import { type Scratch, withScratchOf } from "./product-operands.ts";
import type { Choice, Tile, WeightProduct } from "./product-types.ts";
import { runWeightProduct, tilesOf } from "./products.ts";

/** Raised when kernels change, so that old measurements are not used. */
const version = 1;
/** A candidate runs for about so long, within so many times. */
const [enoughMs, mostRepeats] = [4, 64];
/** A store larger than this is not ours; nor are more classes of products than this. */
const [largestStoreCharacters, mostClasses] = [2 ** 20, 4096];

const tiles: readonly string[] = [...new Set(Object.values(tilesOf).flat())];

/** What the store holds of one card; anything that is not ours reads as nothing. */
export function parseChoices(text: string | undefined, card: string): Map<string, Choice> {
  const choices = new Map<string, Choice>();
  for (const [key, value] of Object.entries(cardOf(documentOf(text), card))) {
    const [fused, tile] = typeof value === "string" ? value.split(" ") : [];
    if ((fused !== "fused" && fused !== "expanded") || tile === undefined || !tiles.includes(tile)) continue;
    if (choices.size < mostClasses) choices.set(key, { fused: fused === "fused", tile: tile as Tile });
  }
  return choices;
}

function documentOf(text: string | undefined): Record<string, unknown> {
  if (text === undefined || text.length > largestStoreCharacters) return {};
  try {
    const document: unknown = JSON.parse(text);
    return typeof document === "object" && document !== null ? (document as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function cardOf(document: Record<string, unknown>, card: string): Record<string, unknown> {
  const entry = Object.hasOwn(document, card) ? document[card] : undefined;
  return typeof entry === "object" && entry !== null ? (entry as Record<string, unknown>) : {};
}

/** The name that measurements of a card are kept under. */
export function tunedCard({ name, computeMajor, computeMinor }: CudaCard): string {
  return `${version} ${name} ${computeMajor}.${computeMinor}`;
}

/** Choices kept from before, and what measures more of them, writing each into the store. */
export async function openTuning(
  card: string,
  store: TuningStore,
  now: () => number = () => performance.now(),
): Promise<{ readonly known: Map<string, Choice>; readonly measure: MeasureChoice }> {
  const known = parseChoices(await store.read(), card);
  let writing = Promise.resolve();
  const measure: MeasureChoice = (gpu, product, candidates) => {
    const found = fastest(gpu, product, candidates, now);
    if (!found) return undefined;
    const key = choiceKey(gpu, product);
    writing = writing.then(async () => {
      // Another process may have written in the meantime.
      const document = documentOf(await store.read());
      const { fused, tile } = found;
      document[card] = { ...cardOf(document, card), [key]: `${fused ? "fused" : "expanded"} ${tile}` };
      await store.write(JSON.stringify(document, null, 1));
    });
    writing = writing.catch(() => {}); // a measurement can always be made again
    return found;
  };
  return { known, measure };
}

/**
 * The candidate that takes least time; where two agree within the clock, the first. Undefined where the card has no memory
 * left to try them: what is being run may still fit by the smallest of them.
 */
function fastest(
  gpu: CudaGpu,
  product: WeightProduct,
  candidates: readonly Choice[],
  now: () => number,
): Choice | undefined {
  const timed = (trial: WeightProduct, choice: Choice, repeats: number) => {
    const start = now();
    for (let i = 0; i < repeats; i++) runWeightProduct(gpu, trial, choice);
    gpu.settle();
    return now() - start;
  };
  try {
    return withScratchOf(gpu, (scratch) => {
      const trial = trialOf(product, scratch);
      let best = candidates[0]!;
      let bestMs = Number.POSITIVE_INFINITY;
      gpu.settle();
      for (const choice of candidates) {
        timed(trial, choice, 1); // loads and compiles
        const once = Math.max(timed(trial, choice, 2) / 2, 1e-3);
        const repeats = Math.min(mostRepeats, Math.max(2, Math.ceil(enoughMs / once)));
        const ms = Math.min(timed(trial, choice, repeats), timed(trial, choice, repeats)) / repeats;
        if (ms < bestMs) [best, bestMs] = [choice, ms];
      }
      return best;
    });
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

/** The product where running it any number of times does no harm: in its own place, which it overwrites, or in scratch memory. */
function trialOf(product: WeightProduct, scratch: Scratch): WeightProduct {
  const { form, rows, weight, result } = product;
  if (!result.accumulate && result.residual !== result.c) return product;
  const columns = form === "forward" ? weight.shape[0]! : weight.shape[1]!;
  return { ...product, result: { c: scratch.take(4 * rows * columns), ldc: columns } };
}
