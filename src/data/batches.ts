// Which samples train together, in which order: a plan of micro-batches for each epoch, decided by sample lengths,
// seed and epoch alone, and a cursor through it that a checkpoint can hold and resume exactly. Shuffling is global, of
// indices, a few bytes a sample; the samples themselves may lie on disk. Packing puts short
// samples into packs of at most sequenceLength tokens. Token arrays are made in assemble.ts.

import { UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import type { SampleDraw } from "./mix.ts";
import { packInOrder, packTightly } from "./pack.ts";

export interface BatchOptions {
  /** Sequences, or packs, of a micro-batch. */
  readonly batchSize: number;
  /** Most tokens of a pack. */
  readonly sequenceLength: number;
  readonly packing: boolean;
  readonly shuffle: boolean;
  readonly seed: number;
}

/** Indices of the samples of one micro-batch. */
export type MicroBatch = readonly number[];

/** The micro-batches of an epoch, in two numbers a sample: units (samples, or packs) and the order they come in. */
export class MicroBatches implements Iterable<MicroBatch> {
  readonly length: number;

  constructor(
    private readonly samples: Uint32Array,
    /** Where each unit begins in `samples`. */
    private readonly starts: Uint32Array,
    private readonly order: Uint32Array,
    private readonly unitsOfBatch: number,
  ) {
    this.length = Math.ceil(order.length / unitsOfBatch);
  }

  at(index: number): MicroBatch | undefined {
    if (!(index >= 0 && index < this.length)) return undefined;
    const batch: number[] = [];
    const end = Math.min(this.order.length, (index + 1) * this.unitsOfBatch);
    for (let i = index * this.unitsOfBatch; i < end; i++) {
      const unit = this.order[i]!;
      const last = this.starts[unit + 1] ?? this.samples.length;
      for (let sample = this.starts[unit]!; sample < last; sample++) batch.push(this.samples[sample]!);
    }
    return batch;
  }

  *[Symbol.iterator](): Iterator<MicroBatch> {
    for (let i = 0; i < this.length; i++) yield this.at(i)!;
  }
}

/** Micro-batches of one optimizer step: so many, or as many as reach so many target tokens (one at least). */
export type Accumulation = number | { readonly targetTokens: number };

export function accumulationOf(options: {
  readonly gradientAccumulation: number;
  readonly batchTokens?: number;
}): Accumulation {
  const { gradientAccumulation, batchTokens: targetTokens } = options;
  return targetTokens === undefined ? gradientAccumulation : { targetTokens };
}

/** Streams of the seed that shuffling uses; dropout and initialisation use streams far below. */
const SHUFFLE_STREAM = 0x5af00000;

/** Samples are packed, or sorted by length, among this many neighbours of the shuffled order, so that epochs differ. */
const WINDOW_SAMPLES = 4096;
const WINDOW_BATCHES = 64;

export class BatchPlan {
  /** Tells two plans apart: a cursor of one means nothing to another. */
  readonly fingerprint: string;
  private cached: { epoch: number; batches: MicroBatches } | undefined;

  /**
   * `targets` are the samples' target tokens; only steps that are made by them need them. `draw` says which samples an
   * epoch has; without it, every one once.
   */
  constructor(
    private readonly lengths: ArrayLike<number>,
    private readonly options: BatchOptions,
    private readonly targets: ArrayLike<number> = [],
    private readonly draw?: SampleDraw,
  ) {
    const { batchSize, sequenceLength } = options;
    if (lengths.length === 0) throw new UserError("there are no samples to train on.");
    if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
      throw new UserError(`--batch-size ${batchSize}: expected a whole number of at least 1.`);
    }
    for (let i = 0; i < lengths.length; i++) {
      if (lengths[i]! > sequenceLength)
        throw new UserError(
          `sample ${i + 1} has ${lengths[i]} tokens, over --sequence-length ${sequenceLength}.`,
        );
    }
    this.fingerprint = fingerprint(lengths, options, draw?.key);
  }

  /** The micro-batches of an epoch, from 0; the last may be smaller. Every sample that it has is in exactly one. */
  epoch(epoch: number): MicroBatches {
    if (this.cached?.epoch !== epoch) this.cached = { epoch, batches: this.plan(epoch) };
    return this.cached.batches;
  }

  /**
   * Optimizer steps of `epochs` epochs, of a part of one as many as cover it: at least one in all. Gradients never
   * accumulate across the end of an epoch.
   */
  countSteps(epochs: number, accumulation: Accumulation): number {
    const byCount = typeof accumulation === "number";
    const stepsOf = (batches: MicroBatches) => {
      if (byCount) return Math.ceil(batches.length / accumulation);
      let steps = 0;
      for (let at = 0; at < batches.length; at += this.countOfStep(batches, at, accumulation)) steps++;
      return steps;
    };
    // 1.1 x 10 is a little more than 11 in binary.
    const roundUp = (steps: number) => Math.max(1, Math.ceil(steps - 1e-6));
    // Without packing, each epoch has the same number of batches; which rows they hold decides their targets.
    if (!this.options.packing && byCount) return roundUp(epochs * stepsOf(this.epoch(0)));
    let steps = 0;
    for (let e = 0; e < epochs; e++) steps += Math.min(1, epochs - e) * stepsOf(this.plan(e));
    return roundUp(steps);
  }

  /** How many of an epoch's micro-batches, from `start` on, make one step; none when the epoch ends there. */
  countOfStep(batches: MicroBatches, start: number, accumulation: Accumulation): number {
    const left = batches.length - start;
    if (typeof accumulation === "number") return Math.min(left, accumulation);
    let count = 0;
    for (let targets = 0; count < left && targets < accumulation.targetTokens; count++) {
      for (const index of batches.at(start + count)!) targets += this.targets[index]!;
    }
    return count;
  }

  private plan(epoch: number): MicroBatches {
    const { shuffle, packing, batchSize, sequenceLength } = this.options;
    const { lengths } = this;
    const order = this.draw?.epoch(epoch) ?? counting(lengths.length);
    const random = shuffle ? new Random(this.options.seed, SHUFFLE_STREAM + epoch) : undefined;
    random?.shuffle(order);
    const inOrder = (units: number) => random?.shuffle(counting(units)) ?? counting(units);
    if (packing) {
      // Packs are made among neighbours, and their samples laid where the neighbours were.
      const starts: number[] = [];
      const pack = random ? packTightly : packInOrder;
      const window = random ? WINDOW_SAMPLES : Math.max(1, order.length);
      for (let from = 0; from < order.length; from += window) {
        let at = from;
        for (const members of pack([...order.subarray(from, from + window)], lengths, sequenceLength)) {
          starts.push(at);
          order.set(members, at);
          at += members.length;
        }
      }
      return new MicroBatches(order, Uint32Array.from(starts), inOrder(starts.length), batchSize);
    }
    // Batches of like lengths take like time and memory; sort() is stable, so the shuffle decides among equals.
    if (random) {
      const window = batchSize * WINDOW_BATCHES;
      for (let from = 0; from < order.length; from += window) {
        const near = [...order.subarray(from, from + window)].sort((a, b) => lengths[a]! - lengths[b]!);
        order.set(near, from);
      }
    }
    const batches = Math.ceil(order.length / batchSize);
    const starts = counting(batches).map((batch) => batch * batchSize);
    return new MicroBatches(order, starts, inOrder(batches), 1);
  }
}

function counting(count: number): Uint32Array {
  const numbers = new Uint32Array(count);
  for (let i = 0; i < count; i++) numbers[i] = i;
  return numbers;
}

/** A place in the plan. Plain data: goes into checkpoints as JSON. */
export interface CursorState {
  readonly epoch: number;
  /** Micro-batches already taken from the epoch. */
  readonly index: number;
  readonly plan: string;
}

export class BatchCursor {
  private epoch = 0;
  private index = 0;

  /** Starts at the beginning, or where `state` says. UserError when the state belongs to other data or options. */
  constructor(
    private readonly plan: BatchPlan,
    state?: CursorState,
  ) {
    if (state === undefined) return;
    if (state.plan !== plan.fingerprint) {
      throw new UserError(
        "the checkpoint was made with other data, batch size, sequence length, packing or seed; resume with the same, or start anew.",
      );
    }
    const { epoch, index } = state;
    if (!isCount(epoch) || !isCount(index) || index > plan.epoch(epoch).length) {
      throw new UserError(
        `the checkpoint's data position {epoch ${epoch}, index ${index}} lies outside the data.`,
      );
    }
    this.epoch = epoch;
    this.index = index;
  }

  /** The next micro-batch; epochs follow each other without end. */
  next(): { readonly samples: MicroBatch; readonly epoch: number; readonly endsEpoch: boolean } {
    if (this.index === this.plan.epoch(this.epoch).length) {
      this.epoch++;
      this.index = 0;
    }
    const batches = this.plan.epoch(this.epoch);
    const samples = batches.at(this.index)!;
    this.index++;
    return { samples, epoch: this.epoch, endsEpoch: this.index === batches.length };
  }

  /** The micro-batches of the next optimizer step. */
  nextStep(accumulation: Accumulation): readonly MicroBatch[] {
    const first = this.next();
    const batches = this.plan.epoch(this.epoch);
    const start = this.index - 1;
    this.index = start + this.plan.countOfStep(batches, start, accumulation);
    const step = [first.samples];
    for (let at = start + 1; at < this.index; at++) step.push(batches.at(at)!);
    return step;
  }

  /** Epochs done, with the fraction of the present one. */
  get epochsDone(): number {
    return this.epoch + this.index / this.plan.epoch(this.epoch).length;
  }

  state(): CursorState {
    return { epoch: this.epoch, index: this.index, plan: this.plan.fingerprint };
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** FNV-1a over what the plan depends on. */
function fingerprint(lengths: ArrayLike<number>, options: BatchOptions, draw = ""): string {
  const { batchSize, sequenceLength, packing, shuffle, seed } = options;
  let sum = 0x811c9dc5;
  const add = (value: number) => {
    sum = Math.imul(sum ^ (value >>> 0), 0x01000193);
  };
  [batchSize, sequenceLength, Number(packing), Number(shuffle), seed, Math.floor(seed / 2 ** 32)].forEach(
    add,
  );
  for (let i = 0; i < lengths.length; i++) add(lengths[i]!);
  for (let i = 0; i < draw.length; i++) add(draw.charCodeAt(i));
  return `${lengths.length}-${(sum >>> 0).toString(16).padStart(8, "0")}`;
}
