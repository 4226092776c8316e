// A list of samples, wherever they lie: an array, a part of another list, several lists one after the other, or a file of
// tokenised data that is larger than memory (sample-file.node.ts). Whoever trains asks for one by its index.

import { type Sample, targetTokensOf } from "./render.ts";

/** An array is one. */
export interface Samples extends Iterable<Sample> {
  readonly length: number;
  at(index: number): Sample | undefined;
  /** Tokens of each, where they are known without reading the samples. */
  readonly lengths?: ArrayLike<number>;
}

/** Tokens of each sample. */
export function lengthsOf(samples: Samples): ArrayLike<number> {
  return samples.lengths ?? numbersOf(samples, ({ ids }) => ids.length);
}

/** The largest of numbers; `least` where all are below it. */
export function mostOf(numbers: ArrayLike<number>, least = 0): number {
  let most = least;
  for (let i = 0; i < numbers.length; i++) if (numbers[i]! > most) most = numbers[i]!;
  return most;
}

/** Target tokens of each sample; reads them all. */
export function targetsOf(samples: Samples): ArrayLike<number> {
  return numbersOf(samples, targetTokensOf);
}

/** A number of each sample; reads them all. */
export function numbersOf(samples: Samples, number: (sample: Sample) => number): Uint32Array {
  const numbers = new Uint32Array(samples.length);
  let i = 0;
  for (const sample of samples) numbers[i++] = number(sample);
  return numbers;
}

/** Those of `samples` at `indices`, in that order. */
export class ChosenSamples implements Samples {
  readonly lengths: ArrayLike<number> | undefined;

  constructor(
    private readonly samples: Samples,
    private readonly indices: ArrayLike<number>,
  ) {
    const { lengths } = samples;
    this.lengths = lengths && Uint32Array.from(indices, (index) => lengths[index]!);
  }

  get length(): number {
    return this.indices.length;
  }

  at(index: number): Sample | undefined {
    const chosen = this.indices[index];
    return chosen === undefined ? undefined : this.samples.at(chosen);
  }

  *[Symbol.iterator](): Iterator<Sample> {
    for (let i = 0; i < this.indices.length; i++) yield this.samples.at(this.indices[i]!)!;
  }
}

/** Lists one after the other. */
export class JoinedSamples implements Samples {
  readonly length: number;
  readonly lengths: ArrayLike<number>;
  private readonly starts: readonly number[];

  constructor(private readonly lists: readonly Samples[]) {
    let length = 0;
    this.starts = lists.map((list) => {
      const start = length;
      length += list.length;
      return start;
    });
    this.length = length;
    const lengths = new Uint32Array(length);
    for (const [i, list] of lists.entries()) lengths.set(lengthsOf(list), this.starts[i]!);
    this.lengths = lengths;
  }

  at(index: number): Sample | undefined {
    if (!(index >= 0 && index < this.length)) return undefined;
    let list = this.lists.length - 1;
    while (this.starts[list]! > index) list--;
    return this.lists[list]!.at(index - this.starts[list]!);
  }

  *[Symbol.iterator](): Iterator<Sample> {
    for (const list of this.lists) yield* list;
  }
}
