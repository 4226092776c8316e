// Which tile a product takes, and whether a quantised weight is decoded within it ("fused") or expanded before it: measured on the
// card where someone measures (product-tuning.ts), else estimated. No choice changes a bit of any result. Not here: what
// tiles there are and what they do (products.ts).

import { isQuantized } from "../backend.ts";
import type { CudaGpu } from "./gpu.ts";
import { denseAsItLies } from "./product-operands.ts";
import type { Choice, Chooser, Form, Shape, Term, Tile, WeightProduct } from "./product-types.ts";
import { f32Tiles, fusedTiles, fuses, sidesOf, tilesOf } from "./products.ts";

/** Measures a product on the card; undefined where it cannot be measured now. */
export type MeasureChoice = (
  gpu: CudaGpu,
  product: WeightProduct,
  candidates: readonly Choice[],
) => Choice | undefined;

/** Speed of a processor busy with a tile, relative to the best; by counting instructions, for no card has been asked. */
const rates: Record<Tile, number> = {
  "128x256": 1,
  "128x128": 0.9,
  "64x64": 0.55,
  "64x32": 0.3,
  "32x128": 0.4,
};
/** Dynamic shared memory beyond what every card offers. */
const largeTileBytes = 98320;
/** Products of fewer rows decode within: expanding would cost more than it saves. */
const fusedRows = 128;

/** Bits of which power of two a number of rows rounds up to: products of one class are measured once. */
const rowClass = (rows: number) => Math.ceil(Math.log2(Math.max(1, rows)));

/** The product's class in measurements. */
export function choiceKey(gpu: CudaGpu, { form, rows, weight }: WeightProduct): string {
  const [outputs, inputs] = weight.shape as readonly [number, number];
  const kind = isQuantized(weight)
    ? `codes of ${weight.blockSize}${weight.nested ? " nested" : ""}`
    : denseAsItLies(gpu, weight)
      ? "dense"
      : weight.dtype;
  return `${form} ${gpu.precision} ${kind} ${2 ** rowClass(rows)}x${outputs}x${inputs}`;
}

function fits({ card }: CudaGpu, tile: Tile): boolean {
  return tile !== "128x256" || card.mostSharedBytes >= largeTileBytes;
}

export interface ProductOptions {
  /** Choices measured before, by choiceKey(). */
  readonly known?: Map<string, Choice>;
  /** Absent: what is not known is estimated. */
  readonly measure?: MeasureChoice;
  /** For tests: always within, or always before, where that is possible; and by this tile, where there is one. */
  readonly forced?: "fused" | "expanded";
  readonly forcedTile?: Tile;
  /** Of an expanded weight at a time; 256 MiB when absent. */
  readonly windowBytes?: number;
}

export class ProductChoices implements Chooser {
  readonly windowBytes: number;
  private readonly known: Map<string, Choice>;
  constructor(
    private readonly gpu: CudaGpu,
    private readonly options: ProductOptions = {},
  ) {
    this.known = options.known ?? new Map();
    this.windowBytes = options.windowBytes ?? 256 * 2 ** 20;
  }

  /** The tile of a product that nobody measures. */
  tileOf(shape: Shape, terms: readonly Term[]): Tile {
    return this.quickest(shape, this.tiles(shape.form, "kind" in terms[0]!.b));
  }

  of(product: WeightProduct): Choice {
    const { gpu, options, known } = this;
    const { form, weight, rows } = product;
    const [outputs, inputs] = weight.shape as readonly [number, number];
    const shape = { form, m: rows, n: form === "forward" ? outputs : inputs };
    const canFuse = options.forced !== "expanded" && fuses(gpu, product);
    const mustFuse = canFuse && options.forced === "fused";
    const estimate = (): Choice => {
      const fused = mustFuse || (canFuse && rows <= fusedRows);
      return { fused, tile: this.quickest(shape, this.tiles(form, fused)) };
    };
    if (!options.measure) return estimate();
    const key = choiceKey(gpu, product);
    const candidates = this.candidates(form, canFuse);
    const kept = known.get(key);
    if (kept && candidates.some(({ fused, tile }) => fused === kept.fused && tile === kept.tile)) return kept;
    const found = options.measure(gpu, product, candidates) ?? estimate();
    known.set(key, found);
    return found;
  }

  private candidates(form: Form, canFuse: boolean): Choice[] {
    const all = (fused: boolean) => this.tiles(form, fused).map((tile) => ({ fused, tile }));
    return [...(canFuse ? all(true) : []), ...all(false)];
  }

  private tiles(form: Form, fused: boolean): readonly Tile[] {
    const { gpu, options } = this;
    const all = gpu.precision === "fp32" ? f32Tiles : fused ? fusedTiles : tilesOf[form];
    const forced = all.filter((tile) => tile === options.forcedTile);
    return forced.length > 0 ? forced : all.filter((tile) => fits(gpu, tile));
  }

  /** The tile that should finish first: processors take tiles in turns. */
  private quickest({ m, n }: Shape, tiles: readonly Tile[]): Tile {
    const cost = (tile: Tile) => {
      const [tileM, tileN] = sidesOf(tile);
      const turns = Math.ceil((Math.ceil(m / tileM) * Math.ceil(n / tileN)) / this.gpu.card.processors);
      return (turns * tileM * tileN) / rates[tile];
    };
    return tiles.reduce((best, tile) => (cost(tile) < cost(best) ? tile : best));
  }
}
