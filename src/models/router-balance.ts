// How a mixture's routers spread tokens over experts: counted while a model is evaluated. A share is an expert's part of
// all pairs of token and expert; even shares have entropy 1, and one expert that takes everything 0.

import type { Routing } from "../autograd/ops/experts.ts";
import type { Tape, Value } from "../autograd/tape.ts";

export interface LayerBalance {
  readonly layer: number;
  /** Of the shares, by that of even ones: 0 to 1. */
  readonly entropy: number;
  /** The largest share by an even one. */
  readonly busiest: number;
  /** Experts that no token went to. */
  readonly idle: number;
}

export interface RouterBalance {
  readonly layers: readonly LayerBalance[];
  /** Mean over layers, the largest of any, and the sum over all. */
  readonly entropy: number;
  readonly busiest: number;
  readonly idle: number;
}

export class RouterCount {
  /** Pairs of each expert, by layer. */
  private readonly pairs = new Map<number, Float64Array>();

  /** What a pass over `tape` is given as `routed`; `read` counts once it has run with `kept` kept. */
  pass(tape: Tape) {
    const bounds: { readonly layer: number; readonly offsets: Value }[] = [];
    return {
      routed: (layer: number, { offsets }: Routing) => void bounds.push({ layer, offsets }),
      kept: () => bounds.map(({ offsets }) => offsets),
      read: async () => {
        for (const { layer, offsets } of bounds) {
          const { buffer } = offsets.data;
          const bytes = await tape.backend.read(buffer, 0, 4 * offsets.shape[0]!);
          this.add(layer, new Int32Array(bytes.buffer, bytes.byteOffset, offsets.shape[0]!));
          tape.release(offsets);
        }
      },
    };
  }

  /** Adds pairs of one pass: expert e has [bounds[e], bounds[e + 1]). */
  add(layer: number, bounds: Int32Array): void {
    const sums = this.pairs.get(layer) ?? new Float64Array(bounds.length - 1);
    this.pairs.set(layer, sums);
    for (let e = 0; e < sums.length; e++) sums[e]! += bounds[e + 1]! - bounds[e]!;
  }

  /** What was counted, for other ranks: of each layer its number, its count of experts, and their pairs. */
  numbers(): number[] {
    return [...this.pairs].flatMap(([layer, sums]) => [layer, sums.length, ...sums]);
  }

  /** Adds what numbers() gave. */
  addNumbers(numbers: readonly number[]): void {
    for (let at = 0; at < numbers.length; ) {
      const [layer, experts] = [numbers[at]!, numbers[at + 1]!];
      const sums = this.pairs.get(layer) ?? new Float64Array(experts);
      this.pairs.set(layer, sums);
      for (let e = 0; e < experts; e++) sums[e]! += numbers[at + 2 + e]!;
      at += 2 + experts;
    }
  }

  /** Undefined where no layer routed anything. */
  balance(): RouterBalance | undefined {
    const layers = [...this.pairs].map(([layer, sums]): LayerBalance => {
      const total = sums.reduce((sum, pairs) => sum + pairs, 0);
      const shares = [...sums].map((pairs) => pairs / Math.max(1, total));
      const entropy = shares.reduce((sum, share) => (share > 0 ? sum - share * Math.log(share) : sum), 0);
      return {
        layer,
        entropy: sums.length > 1 ? entropy / Math.log(sums.length) : 1,
        busiest: Math.max(...shares) * sums.length,
        idle: shares.filter((share) => share === 0).length,
      };
    });
    if (layers.length === 0) return undefined;
    return {
      layers,
      entropy: layers.reduce((sum, { entropy }) => sum + entropy, 0) / layers.length,
      busiest: Math.max(...layers.map(({ busiest }) => busiest)),
      idle: layers.reduce((sum, { idle }) => sum + idle, 0),
    };
  }
}
