import { describe, expect, it } from "vitest";
import { BatchCursor, BatchPlan } from "../../src/data/batches.ts";
import { apportion, MixedEpochs } from "../../src/data/mix.ts";
import { mixOf } from "../../src/data/mix-report.ts";

const sources = [
  { first: 0, count: 90, weight: 1 },
  { first: 90, count: 7, weight: 2 },
  { first: 97, count: 3, weight: 1 },
];
const sourceOf = (index: number) => sources.findLastIndex(({ first }) => index >= first);
const countsOf = (indices: Iterable<number>) => {
  const counts = [0, 0, 0];
  for (const index of indices) counts[sourceOf(index)]!++;
  return counts;
};

describe("apportion", () => {
  it.each([
    [[1, 2, 1], 100, [25, 50, 25]],
    [[1, 1, 1], 100, [34, 33, 33]],
    [[1, 1e-9], 10, [10, 0]],
    [[0.1, 0.7, 0.2], 11, [1, 8, 2]],
  ])("%j of %i", (weights, total, shares) => expect(apportion(weights, total)).toEqual(shares));
});

describe.each([true, false])("a mix, shuffled: %s", (shuffle) => {
  const mix = new MixedEpochs(sources, { seed: 3, shuffle });

  it("is as long as its sources together, each with its share", () => {
    expect(mix.count).toBe(100);
    for (const epoch of [0, 1, 17]) expect(countsOf(mix.epoch(epoch))).toEqual([25, 50, 25]);
  });

  it("comes to every sample of a source equally often, give or take one", () => {
    const times = new Array<number>(100).fill(0);
    for (let epoch = 0; epoch < 18; epoch++) for (const index of mix.epoch(epoch)) times[index]!++;
    for (const { first, count } of sources) {
      const own = times.slice(first, first + count);
      expect(Math.max(...own) - Math.min(...own)).toBeLessThanOrEqual(1);
    }
  });

  it("depends on the epoch's number alone", () => {
    const again = new MixedEpochs(sources, { seed: 3, shuffle });
    expect(again.epoch(11)).toEqual(mix.epoch(11));
    mix.epoch(2);
    expect(mix.epoch(11)).toEqual(again.epoch(11));
  });

  it("lies evenly among the others, at every place", () => {
    const order = mix.epoch(0);
    for (let end = 4; end <= 100; end += 4)
      for (const [i, count] of countsOf(order.subarray(0, end)).entries())
        expect(Math.abs(count - [0.25, 0.5, 0.25][i]! * end)).toBeLessThanOrEqual(1);
  });

  it("goes on from any place as if it had not stopped", () => {
    const lengths = Array.from({ length: 100 }, (_, i) => 3 + (i % 11));
    for (const packing of [true, false]) {
      const options = { batchSize: 2, sequenceLength: 16, packing, shuffle, seed: 3 };
      const plan = () => new BatchPlan(lengths, options, [], new MixedEpochs(sources, options));
      const straight = new BatchCursor(plan());
      const steps = Array.from({ length: 120 }, () => straight.next());
      const stopped = new BatchCursor(plan());
      for (let i = 0; i < 71; i++) stopped.next();
      const resumed = new BatchCursor(plan(), JSON.parse(JSON.stringify(stopped.state())));
      expect(Array.from({ length: 49 }, () => resumed.next())).toEqual(steps.slice(71));
      const other = new MixedEpochs([{ ...sources[0]!, weight: 5 }, ...sources.slice(1)], options);
      expect(() => new BatchCursor(new BatchPlan(lengths, options, [], other), stopped.state())).toThrow(
        /made with other data/,
      );
    }
  });
});

it("seeds give other orders", () => {
  const orders = [3, 4].map((seed) => new MixedEpochs(sources, { seed, shuffle: true }).epoch(0));
  expect(orders[0]).not.toEqual(orders[1]);
});

it("reports what an epoch has of each source", () => {
  const parts = [
    { data: "a", rows: 95, first: 0, count: 90, weight: 1, samplesPerEpoch: 25 },
    { data: "b", rows: 10, first: 90, count: 10, weight: 3, samplesPerEpoch: 75 },
  ];
  const tokens = [
    { tokens: 900, targets: 90 },
    { tokens: 50, targets: 20 },
  ];
  expect(mixOf(parts, tokens)).toEqual([
    {
      ...{ data: "a", rows: 95, samples: 90, tokens: 900, targetTokens: 90, weight: 1, samplesPerEpoch: 25 },
      ...{ share: 0.25, tokenShare: 0.4, targetShare: 0.142857, passes: 0.277778 },
    },
    {
      ...{ data: "b", rows: 10, samples: 10, tokens: 50, targetTokens: 20, weight: 3, samplesPerEpoch: 75 },
      ...{ share: 0.75, tokenShare: 0.6, targetShare: 0.857143, passes: 7.5 },
    },
  ]);
});
