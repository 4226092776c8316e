// What the page computes by itself, without a browser: columns that grow and are taken back, smoothing, drafts of forms,
// how numbers are written.

import { describe, expect, it } from "vitest";
import type { FormField, RunMetrics } from "../../src/ui/api.ts";
import { checkValue, draftOf, pruned, readDraft, valuesOf } from "../../src/ui/page/draft.ts";
import { lossUnit, wordsOf } from "../../src/ui/page/metric-words.ts";
import { appendMetrics, placesOf, placesOfEvals, rewound } from "../../src/ui/page/metrics-columns.ts";
import { bytes, duration, short, withError } from "../../src/ui/page/numbers.ts";
import { extremesOf, middleRange, smoothed, usualSmooth } from "../../src/ui/page/smooth.ts";

const none = { step: [], series: {} };
const known: RunMetrics = {
  ...{ id: "a", steps: 4, stepsPerPoint: 2, best: [2, 4], badLines: 0, forget: none },
  train: {
    step: [2, 4],
    series: {
      loss: { mean: [2, 1], min: [1.9, 0.9], max: [2.1, 1.1] },
      tokens: { mean: [10, 20] },
      elapsedMs: { mean: [60_000, 180_000], max: [90_000, 240_000] },
    },
  },
  eval: { step: [2, 4], series: { loss: { mean: [2.5, 1.5] } } },
};

describe("columns of a run", () => {
  const event = {
    ...{ type: "metrics" as const, id: "a", forget: none },
    train: { step: [4, 5, 6], series: { loss: { mean: [9, 0.8, 0.7] }, reward: { mean: [9, 1, 2] } } },
    eval: { step: [6], series: { loss: { mean: [1.2] } } },
  };

  it("take new lines once, with gaps where a line or what came before has no such number", () => {
    const grown = appendMetrics(known, event);
    expect(grown.train.step).toEqual([2, 4, 5, 6]);
    expect(grown.train.series.loss).toEqual({
      mean: [2, 1, 0.8, 0.7],
      min: [1.9, 0.9, 0.8, 0.7],
      max: [2.1, 1.1, 0.8, 0.7],
    });
    expect(grown.train.series.reward!.mean).toEqual([null, null, 1, 2]);
    expect(grown.train.series.tokens!.mean).toEqual([10, 20, null, null]);
    expect(grown.steps).toBe(6);
    expect(appendMetrics(grown, event)).toEqual(grown);
    expect(known.train.step).toEqual([2, 4]);
  });

  it("lose what a resumed run took back", () => {
    const cut = rewound(known, 3);
    expect(cut.train.step).toEqual([2]);
    expect(cut.train.series.loss!.max).toEqual([2.1]);
    expect(cut.eval.step).toEqual([2]);
    expect(cut.best).toEqual([2]);
    expect(rewound(known, 4)).toEqual(known);
  });

  it("lie along steps, tokens or minutes, evaluations where their step is", () => {
    expect(placesOf(known, "tokens")).toEqual([20, 60]);
    expect(placesOf(known, "time")).toEqual([1.5, 4]);
    expect(placesOfEvals(known, known.eval, "tokens")).toEqual([20, 60]);
    // Lines that came in by themselves have the tokens of one step.
    const tokens = { tokens: { mean: [0, 7, 9] } };
    const grown = appendMetrics(known, { ...event, train: { ...event.train, series: tokens } });
    expect(placesOf(grown, "tokens")).toEqual([20, 60, 67, 76]);
  });
});

it("smooths without a bias at the start, over gaps, and not at all with weight 0", () => {
  expect(smoothed([4, 4, null, 4], 0.9)).toEqual([4, expect.closeTo(4, 12), null, expect.closeTo(4, 12)]);
  expect(smoothed([0, 3], 0.5)[1]).toBeCloseTo(2, 12);
  expect(smoothed([1, 5, 2], 0)).toEqual([1, 5, 2]);
  expect(extremesOf([1, 2, 3], [null, 5, 4])).toMatchObject({
    count: 2,
    first: { x: 2 },
    low: { x: 3, y: 4 },
  });
  expect(extremesOf([1], [null])).toBeUndefined();
  const range = middleRange([Array.from({ length: 200 }, (_, i) => (i === 50 ? 1e6 : i / 200))], 0.98)!;
  expect(range[1]).toBeLessThan(1.2);
});

describe("drafts of a form", () => {
  const field = (key: string, more: Partial<FormField> = {}): FormField => ({
    ...{ key, flag: `--${key}`, kind: "text", description: "", expected: "a number above 0" },
    ...{ placeholder: "", required: false, defaultOn: false, ...more },
  });
  const fields = [
    field("data", { kind: "list" }),
    field("rank", { kind: "number", defaultText: "8", min: 1, whole: true }),
    field("rate", { kind: "number" }),
    field("shuffle", { kind: "switch", defaultOn: true }),
  ];

  it("come from a run's options, without defaults and what a form has no field for", () => {
    const recipe = {
      data: [{ path: "a.jsonl" }, "b.jsonl"],
      rank: 8,
      rate: 2e-4,
      shuffle: false,
      nothing: null,
    };
    const draft = pruned(fields, draftOf({ ...recipe, out: "runs/a", seeds: [{ path: "c", weight: 2 }] }));
    expect(draft).toEqual({ data: "a.jsonl,b.jsonl", rate: "0.0002", shuffle: false });
    expect(valuesOf(fields, draft)).toEqual({ data: "a.jsonl,b.jsonl", rate: 2e-4, shuffle: false });
  });

  it("come from an address that may say anything", () => {
    expect(readDraft('{"rank":"4","x":{"y":1},"shuffle":false}')).toEqual({ rank: "4", shuffle: false });
    for (const text of ["[1]", "null", "{", undefined]) expect(readDraft(text)).toEqual({});
    expect(checkValue(fields[1]!, "4")).toBeUndefined();
    for (const text of ["0", "4.5", "four", " "]) expect(checkValue(fields[1]!, text)).toMatch(/^Expected/);
  });
});

it("writes numbers shortly, and errors with two digits", () => {
  expect([0.5611, 2e-4, 1234567, 24_500, 0, Number.NaN, undefined].map(short)).toEqual([
    ...["0.5611", "2e-4", "1.235M", "24,500", "0", "not a number", "–"],
  ]);
  expect(withError(0.61114, 0.02625)).toBe("0.611 ± 0.026");
  expect(withError(12.345, 3.21)).toBe("12.3 ± 3.2");
  expect(withError(1.5, null)).toBe("1.5");
  expect(withError(1.5, -5)).toBe("1.5");
  expect([bytes(999), bytes(269e6), bytes(1.4e9)]).toEqual(["999 B", "269 MB", "1.4 GB"]);
  expect([duration(6400), duration(200_000), duration(7_500_000)]).toEqual([
    "6.4 s",
    "3 min 20 s",
    "2 h 5 min",
  ]);
});

describe("words for numbers", () => {
  it("name rewards by their user's names, evaluations as such, and what nobody named as it is", () => {
    expect(wordsOf("reward.short answers.std")).toBe('Reward "short answers", standard deviation');
    expect(wordsOf("reward.reward.mean")).toBe('Reward "reward"');
    expect(wordsOf("eval.rewardAccuracy")).toBe("Pairs told right, evaluation");
    expect(wordsOf("eval.loss")).toBe("Evaluation loss");
    expect(wordsOf("constructor")).toBe("constructor");
  });

  it("say nats a token of cross-entropies alone", () => {
    expect(lossUnit([{ objective: "sft" }, {}])).toBe("nats a token");
    expect(lossUnit([{ objective: "dpo" }])).toBe("loss (dpo)");
    expect(lossUnit([{ objective: "dpo" }, { objective: "sft" }])).toBe("loss");
    expect(lossUnit([])).toBe("nats a token");
  });
});

it("smooths a short run less, so that its line is not the past's", () => {
  expect([1, 20, 40, 100, 5000, Number.POSITIVE_INFINITY].map(usualSmooth)).toEqual([
    0, 0, 0.5, 0.8, 0.8, 0.8,
  ]);
});
