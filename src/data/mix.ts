// Which samples an epoch of several weighted sources has. An epoch is as long as all sources together; each source gives
// its weight's share of it, rounded by the largest remainders. A source's samples come in passes: each pass is all of
// them once, shuffled by seed, source and pass, and an epoch goes on where the one before it stopped, so that over a run
// all samples of a source come equally often, give or take one. What an epoch has depends on its number alone, so that a
// resumed run draws the same. The order within the epoch is batches.ts's.

import { invariant } from "../util/errors.ts";
import { Random } from "../util/rng.ts";

export interface WeightedSource {
  /** Its samples are [first, first + count) of all. */
  readonly first: number;
  readonly count: number;
  readonly weight: number;
}

/** What a plan of batches takes in place of every sample once. */
export interface SampleDraw {
  /** Samples of an epoch. */
  readonly count: number;
  /** Tells two draws apart. */
  readonly key: string;
  /** Indices of an epoch's samples: interleaved by share, or in no order where the plan shuffles. */
  epoch(epoch: number): Uint32Array;
}

/** A stream of the seed of its own for each source; batches.ts and split-eval.ts use others. */
const MIX_STREAM = 0x5b000000;

export class MixedEpochs implements SampleDraw {
  readonly count: number;
  readonly key: string;
  /** Samples that each source gives to an epoch. */
  readonly shares: readonly number[];

  constructor(
    private readonly sources: readonly WeightedSource[],
    private readonly options: { readonly seed: number; readonly shuffle: boolean },
  ) {
    invariant(
      sources.every(({ count, weight }) => count > 0 && weight > 0),
      "a mix needs samples and weights",
    );
    this.count = sources.reduce((sum, { count }) => sum + count, 0);
    this.shares = apportion(
      sources.map(({ weight }) => weight),
      this.count,
    );
    this.key = JSON.stringify(sources.map(({ first, count, weight }) => [first, count, weight]));
  }

  epoch(epoch: number): Uint32Array {
    const draws = this.sources.map((_, i) => this.drawsOf(i, epoch));
    return interleave(draws, this.count);
  }

  private drawsOf(source: number, epoch: number): Uint32Array {
    const { first, count } = this.sources[source]!;
    const share = this.shares[source]!;
    const drawn = new Uint32Array(share);
    let pass = -1;
    let order: Uint32Array | undefined;
    for (let i = 0; i < share; i++) {
      const position = epoch * share + i;
      const due = Math.floor(position / count);
      if (due !== pass) {
        pass = due;
        order = this.orderOf(source, pass);
      }
      drawn[i] = first + order![position % count]!;
    }
    return drawn;
  }

  private orderOf(source: number, pass: number): Uint32Array {
    const order = Uint32Array.from({ length: this.sources[source]!.count }, (_, i) => i);
    if (!this.options.shuffle) return order;
    // Passes lie 2^32 numbers apart in the source's stream; a pass draws two for each sample.
    return new Random(this.options.seed, MIX_STREAM + source, pass * 2 ** 32).shuffle(order);
  }
}

/** `total` shared out by weight, rounded by the largest remainders; of equal ones the first. */
export function apportion(weights: readonly number[], total: number): number[] {
  const sum = weights.reduce((a, b) => a + b, 0);
  const exact = weights.map((weight) => (weight / sum) * total);
  const shares = exact.map(Math.floor);
  const left = total - shares.reduce((a, b) => a + b, 0);
  const byRemainder = exact
    .map((value, i) => ({ i, rest: value - shares[i]! }))
    .sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of byRemainder.slice(0, Math.max(0, left))) shares[i]!++;
  return shares;
}

/** Evenly: at every place the list that is furthest behind its share; of equal ones the first. */
function interleave(lists: readonly Uint32Array[], count: number): Uint32Array {
  const merged = new Uint32Array(count);
  const taken = lists.map(() => 0);
  for (let at = 0; at < count; at++) {
    let next = -1;
    let behind = Number.NEGATIVE_INFINITY;
    for (const [i, list] of lists.entries()) {
      if (taken[i] === list.length) continue;
      const lag = ((at + 1) * list.length) / count - taken[i]!;
      if (lag > behind) [next, behind] = [i, lag];
    }
    merged[at] = lists[next]![taken[next]!++]!;
  }
  return merged;
}
