import { describe, expect, it } from "vitest";
import { assemble, NO_TARGET } from "../../src/data/assemble.ts";
import { BatchCursor, type BatchOptions, BatchPlan } from "../../src/data/batches.ts";
import { packInOrder, packTightly } from "../../src/data/pack.ts";
import type { Sample } from "../../src/data/render.ts";
import { splitEval } from "../../src/data/split-eval.ts";
import { Random } from "../../src/util/rng.ts";

const OPTIONS: BatchOptions = { batchSize: 4, sequenceLength: 64, packing: true, shuffle: true, seed: 7 };

function randomLengths(count: number, most: number, seed = 1): number[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => 1 + random.nextInt(most));
}

function sample(ids: number[], mask: number[], line = 1): Sample {
  return {
    ids: Int32Array.from(ids),
    targetMask: Uint8Array.from(mask),
    rowId: { file: "t.jsonl", line, unit: "line" },
  };
}

const sorted = (indices: readonly number[]) => [...indices].sort((a, b) => a - b);
const all = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("packing", () => {
  it.each([
    [1, 64],
    [500, 64],
    [500, 9],
    [2000, 33],
  ])("%i samples of at most %i tokens: each in one pack, no pack over", (count, most) => {
    const lengths = randomLengths(count, most);
    for (const pack of [packTightly, packInOrder]) {
      const packs = pack(all(count), lengths, 64);
      expect(sorted(packs.flat())).toEqual(all(count));
      for (const members of packs) {
        expect(members.length).toBeGreaterThan(0);
        expect(members.reduce((sum, i) => sum + lengths[i]!, 0)).toBeLessThanOrEqual(64);
      }
    }
    // Best-fit decreasing never needs more than 11/9 of the optimum plus one.
    const least = Math.ceil(lengths.reduce((a, b) => a + b, 0) / 64);
    const halves = lengths.filter((length) => length > 32).length;
    expect(packTightly(all(count), lengths, 64).length).toBeLessThanOrEqual(
      (11 / 9) * Math.max(least, halves) + 1,
    );
  });

  it("finds the perfect fit", () => {
    expect(packTightly([0, 1, 2, 3], [30, 34, 60, 4], 64)).toEqual([
      [2, 3],
      [1, 0],
    ]);
    expect(packInOrder([0, 1, 2, 3], [30, 34, 60, 4], 64)).toEqual([
      [0, 1],
      [2, 3],
    ]);
  });
});

describe("BatchPlan", () => {
  const lengths = randomLengths(301, 64);
  const variants: [string, Partial<BatchOptions>][] = [
    ["packed", {}],
    ["packed in order", { shuffle: false }],
    ["apart", { packing: false }],
    ["apart in order", { packing: false, shuffle: false }],
  ];

  it.each(variants)("%s: every sample once an epoch, within bounds", (_, variant) => {
    const options = { ...OPTIONS, ...variant };
    const plan = new BatchPlan(lengths, options);
    for (const epoch of [0, 1, 5]) {
      const batches = [...plan.epoch(epoch)];
      expect(sorted(batches.flat())).toEqual(all(301));
      for (const batch of batches) {
        const tokens = batch.reduce((sum, i) => sum + lengths[i]!, 0);
        if (options.packing) expect(tokens).toBeLessThanOrEqual(4 * 64);
        else expect(batch.length).toBeLessThanOrEqual(4);
      }
      if (!options.shuffle) expect(batches.flat()).toEqual(all(301));
    }
    expect(new BatchPlan(lengths, options).epoch(5)).toEqual(plan.epoch(5));
  });

  it.each([true, false])("shuffles by seed and epoch (packing %s)", (packing) => {
    const plan = new BatchPlan(lengths, { ...OPTIONS, packing });
    expect(plan.epoch(1)).not.toEqual(plan.epoch(0));
    expect(new BatchPlan(lengths, { ...OPTIONS, packing, seed: 8 }).epoch(0)).not.toEqual(plan.epoch(0));
  });

  it("groups like lengths when sequences stay apart", () => {
    const plan = new BatchPlan(lengths, { ...OPTIONS, packing: false });
    const spread = [...plan.epoch(0)].map(
      (batch) => Math.max(...batch.map((i) => lengths[i]!)) - Math.min(...batch.map((i) => lengths[i]!)),
    );
    expect(spread.reduce((a, b) => a + b) / spread.length).toBeLessThan(4);
  });

  it("counts optimizer steps, none across the end of an epoch", () => {
    const apart = new BatchPlan(
      all(10).map(() => 5),
      { ...OPTIONS, packing: false, batchSize: 2 },
    );
    expect(apart.epoch(0)).toHaveLength(5);
    expect(apart.countSteps(3, 2)).toBe(9);
    const packed = new BatchPlan(lengths, OPTIONS);
    const expected = [0, 1].reduce((sum, epoch) => sum + Math.ceil(packed.epoch(epoch).length / 3), 0);
    expect(packed.countSteps(2, 3)).toBe(expected);
  });

  it("refuses what cannot be batched", () => {
    expect(() => new BatchPlan([], OPTIONS)).toThrow(/no samples/);
    expect(() => new BatchPlan([3, 65], OPTIONS)).toThrow(/sample 2 has 65 tokens/);
    expect(() => new BatchPlan([3], { ...OPTIONS, batchSize: 0 })).toThrow(/--batch-size 0/);
  });
});

describe("BatchCursor", () => {
  const lengths = randomLengths(57, 64);
  const plan = new BatchPlan(lengths, OPTIONS);

  it.each([true, false])("resumes exactly, at every place (packing %s)", (packing) => {
    const options = { ...OPTIONS, packing };
    const straight = new BatchCursor(new BatchPlan(lengths, options));
    const steps = Array.from({ length: 40 }, () => straight.next());
    expect(steps.at(-1)!.epoch).toBeGreaterThan(0);
    for (let stop = 0; stop < 40; stop++) {
      const before = new BatchCursor(new BatchPlan(lengths, options));
      for (let i = 0; i < stop; i++) before.next();
      const state = JSON.parse(JSON.stringify(before.state()));
      const after = new BatchCursor(new BatchPlan(lengths, options), state);
      for (let i = stop; i < 40; i++) expect(after.next()).toEqual(steps[i]);
    }
  });

  it("says when an epoch ends", () => {
    const cursor = new BatchCursor(plan);
    const count = plan.epoch(0).length;
    const ends = Array.from({ length: count + 1 }, () => cursor.next().endsEpoch);
    expect(ends.indexOf(true)).toBe(count - 1);
    expect(cursor.epochsDone).toBeCloseTo(1 + 1 / plan.epoch(1).length);
  });

  it("refuses a state of other data or options, and places outside", () => {
    const state = new BatchCursor(plan).state();
    for (const other of [
      new BatchPlan(lengths.slice(1), OPTIONS),
      new BatchPlan(lengths, { ...OPTIONS, seed: 8 }),
      new BatchPlan(lengths, { ...OPTIONS, packing: false }),
    ]) {
      expect(() => new BatchCursor(other, state)).toThrow(/other data/);
    }
    expect(() => new BatchCursor(plan, { ...state, index: 9999 })).toThrow(/outside the data/);
    expect(() => new BatchCursor(plan, { ...state, epoch: -1 })).toThrow(/outside the data/);
  });
});

describe("assemble", () => {
  it("lays sequences end to end without a target across their border", () => {
    const batch = assemble([
      sample([10, 11, 12], [0, 0, 1], 3),
      sample([20], [0], 4),
      sample([30, 31], [1, 1], 5),
    ]);
    expect([...batch.ids]).toEqual([10, 11, 12, 20, 30, 31]);
    expect([...batch.targets]).toEqual([NO_TARGET, 12, NO_TARGET, NO_TARGET, 31, NO_TARGET]);
    expect([...batch.segments]).toEqual([0, 3, 0, 3, 3, 1, 3, 1, 4, 2, 4, 2]);
    expect(batch.maxLength).toBe(3);
    expect(batch.targetTokens).toBe(2);
    expect(batch.rowIds.map((id) => id.line)).toEqual([3, 4, 5]);
  });
});

describe("splitEval", () => {
  const samples = all(40).map((i) => sample([i % 30, 1], [0, 1], i));

  it("is disjoint, complete, repeatable, and keeps equal samples together", () => {
    const { train, evaluation } = splitEval(samples, 0.2, 3);
    expect(sorted([...train, ...evaluation])).toEqual(all(40));
    const at = (index: number) => samples[index]!.ids.join();
    expect(evaluation.length).toBeGreaterThanOrEqual(8);
    expect(evaluation.length).toBeLessThanOrEqual(9);
    const learnt = new Set([...train].map(at));
    expect([...evaluation].some((index) => learnt.has(at(index)))).toBe(false);
    expect(splitEval(samples, 0.2, 3)).toEqual({ train, evaluation });
    expect(splitEval(samples, 0.2, 4)).not.toEqual({ train, evaluation });
  });

  it("refuses fractions and data that leave a side empty", () => {
    expect(() => splitEval(samples, 0, 1)).toThrow(/--eval-fraction 0/);
    expect(() => splitEval(samples.slice(0, 1), 0.5, 1)).toThrow(/too few to split/);
  });
});

describe("steps of epochs", () => {
  const lengths = randomLengths(37, 20);
  const plan = new BatchPlan(lengths, { ...OPTIONS, packing: false });
  it.each([
    [1, 1, 10],
    [3, 1, 30],
    [0.5, 1, 5],
    [0.01, 1, 1],
    [1.1, 1, 11],
    [1.11, 1, 12],
    [2.5, 3, 10],
  ])("%d epochs of ten batches, %i to a step: %i", (epochs, accumulation, steps) => {
    expect(plan.countSteps(epochs, accumulation)).toBe(steps);
  });

  it("of packs too, whose number differs from epoch to epoch", () => {
    const packed = new BatchPlan(lengths, { ...OPTIONS, batchSize: 1 });
    const of = (epoch: number) => packed.epoch(epoch).length;
    expect(packed.countSteps(2, 1)).toBe(of(0) + of(1));
    expect(packed.countSteps(1.5, 1)).toBe(of(0) + Math.ceil(of(1) / 2));
    expect(packed.countSteps(0.5, 1)).toBe(Math.ceil(of(0) / 2));
  });
});

describe("steps by target tokens", () => {
  const lengths = Array.from({ length: 37 }, (_, i) => 5 + ((i * 7) % 23));
  const targets = lengths.map((length, i) => (i % 5 === 0 ? 0 : Math.ceil(length / 2)));
  const accumulation = { targetTokens: 40 };

  it.each([true, false])("takes as many micro-batches as reach them, packing %s", (packing) => {
    const plan = new BatchPlan(lengths, { ...OPTIONS, batchSize: 1, packing }, targets);
    const cursor = new BatchCursor(plan);
    const targetsOf = (batch: readonly number[]) => batch.reduce((sum, i) => sum + targets[i]!, 0);
    const steps = plan.countSteps(2, accumulation);
    const taken = Array.from({ length: steps }, () => {
      const batches = cursor.nextStep(accumulation);
      const sums = batches.map(targetsOf);
      const all = sums.reduce((a, b) => a + b, 0);
      const ends = cursor.state().index === plan.epoch(cursor.state().epoch).length;
      // Reached by the last micro-batch, not before; or the epoch ended.
      expect(all - sums.at(-1)!).toBeLessThan(40);
      if (!ends) expect(all).toBeGreaterThanOrEqual(40);
      return batches;
    });
    expect(cursor.state()).toMatchObject({ epoch: 1, index: plan.epoch(1).length });
    expect(taken.flat()).toEqual([...plan.epoch(0), ...plan.epoch(1)]);
  });

  it("goes on from any place as if it had not stopped", () => {
    const plan = new BatchPlan(lengths, { ...OPTIONS, batchSize: 1, packing: false }, targets);
    const straight = new BatchCursor(plan);
    for (let step = 0; step < 30; step++) {
      const resumed = new BatchCursor(plan, straight.state());
      expect(resumed.nextStep(accumulation)).toEqual(straight.nextStep(accumulation));
    }
  });
});
