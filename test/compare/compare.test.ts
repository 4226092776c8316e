// Comparisons: the learning-rate search, quality kept with its interval, the search for the cheapest adapter, and the
// plots. Whole comparisons run in test/e2e.

import { describe, expect, it } from "vitest";
import type { RankSearch } from "../../src/compare/keep.ts";
import { searchKeep } from "../../src/compare/keep.ts";
import { searchLearningRate } from "../../src/compare/learning-rate.ts";
import {
  differenceOf,
  estimatesOf,
  gainOf,
  keptOf,
  qualityName,
  scoreNames,
} from "../../src/compare/quality-kept.ts";
import { keepText } from "../../src/compare/report.ts";
import type { ComparedRow } from "../../src/compare/row.ts";
import type { Quality } from "../../src/compare/score-one.ts";
import { curvesSvg, pointsSvg } from "../../src/compare/svg.ts";

describe("the learning-rate search", () => {
  const bowl = (bottom: number) => async (learningRate: number) => ({
    learningRate,
    loss: Math.abs(Math.log(learningRate / bottom)),
    run: learningRate,
  });

  const rates = (found: { tried: readonly { learningRate: number }[] } | undefined) =>
    found!.tried.map(({ learningRate }) => learningRate);

  it("walks by tens towards the lower loss, then refines by threes", async () => {
    const up = await searchLearningRate({ start: 1e-4, mostRuns: 9 }, bowl(3e-3));
    expect(up!.best!.learningRate).toBeCloseTo(3e-3, 12);
    expect(up!.atEdge).toBe(false);
    expect(rates(up).slice(0, 4)).toEqual([1e-4, 1e-3, 1e-2, 3e-3]);
    const there = await searchLearningRate({ start: 1e-4, mostRuns: 9 }, bowl(1e-4));
    expect(rates(there)).toEqual([1e-4, 1e-3, 1e-5, 3e-4, 3.33333e-5]);
    const near = await searchLearningRate({ start: 1e-4, mostRuns: 3, near: true }, bowl(1e-4));
    expect(rates(near)).toEqual([1e-4, 3e-4, 3.33333e-5]);
  });

  it("says when the budget ended it at an edge", async () => {
    const found = await searchLearningRate({ start: 1e-4, mostRuns: 3 }, bowl(1));
    expect(found!.tried).toHaveLength(3);
    expect(found!.atEdge).toBe(true);
  });

  it("goes down when everything diverges, and takes a grid as it is", async () => {
    const high = await searchLearningRate({ start: 1, mostRuns: 4 }, async (learningRate) => ({
      learningRate,
      loss: learningRate > 0.2 ? Number.POSITIVE_INFINITY : 1,
      run: learningRate,
    }));
    expect(high!.best!.learningRate).toBeLessThan(0.2);
    const grid = await searchLearningRate({ start: 1, grid: [1, 2], mostRuns: 9 }, bowl(2));
    expect(grid!.best!.learningRate).toBe(2);
    expect(await searchLearningRate({ start: 1, mostRuns: 9 }, async () => undefined)).toBeUndefined();
  });
});

const losses = (per: number[]): Quality => ({
  scores: {},
  losses: per.map((lossSum) => ({ lossSum, targetTokens: 1 })),
});
const answers = (predictions: string[]): Quality => ({
  scores: {},
  answers: predictions.map((prediction, i) => ({ prediction, references: [`answer ${i}`] })),
});

describe("quality kept", () => {
  it("is 100% of itself, with a paired interval of no width", () => {
    const full = losses([1, 2, 3, 2, 1]);
    const kept = keptOf([full], [full], ["perplexity"], "perplexity", 0);
    expect(kept).toEqual({ percent: 100, standardError: 0, interval: { low: 100, high: 100 } });
  });

  it("falls with perplexity and rises with scores", () => {
    const worse = keptOf([losses([1.1, 2.1])], [losses([1, 2])], ["perplexity"], "perplexity", 0);
    expect(worse.percent).toBeCloseTo(100 / Math.exp(0.1), 9);
    const full = answers(["answer 0", "answer 1", "answer 2", "answer 3"]);
    const half = answers(["answer 0", "answer 1", "no", "no"]);
    const kept = keptOf([half], [full], ["exact-match"], "exactMatch", 0);
    expect(kept.percent).toBe(50);
    expect(kept.interval.low).toBeLessThan(50);
    expect(kept.interval.high).toBeGreaterThan(50);
  });

  it("measures the share of the gain over the base", () => {
    expect(gainOf({ bleu: 30 }, { bleu: 40 }, { bleu: 20 }, "bleu")).toBe(50);
    expect(gainOf({ bleu: 30 }, { bleu: 10 }, { bleu: 20 }, "bleu")).toBeUndefined();
    const perplexity = (loss: number) => ({ perplexity: Math.exp(loss) });
    expect(gainOf(perplexity(2), perplexity(1), perplexity(3), "perplexity")).toBeCloseTo(50, 9);
  });

  it("takes quality from the metrics measured", () => {
    expect(scoreNames(["perplexity", "rouge"])).toContain("rougeL");
    expect(qualityName(["rouge"], undefined)).toBe("rougeL");
    expect(qualityName(["perplexity", "bleu"], "bleu")).toBe("bleu");
    expect(() => qualityName(["perplexity"], "bleu")).toThrow("--quality bleu");
    const { interval } = estimatesOf([losses([1, 2, 3])], ["perplexity"], 0).perplexity!;
    expect(interval.low).toBeLessThan(Math.exp(2));
    expect(interval.high).toBeGreaterThan(Math.exp(2));
  });
});

describe("standard errors and differences", () => {
  const matches = (marks: string, seed?: number): Quality => ({
    ...answers([...marks].map((mark, i) => (mark === "1" ? `answer ${i}` : "no"))),
    ...(seed === undefined ? {} : { seed }),
  });
  const names = ["exact-match"] as const;
  const differ = (own: Quality[], other: Quality[]) =>
    differenceOf(own, other, "full", names, "exactMatch", 0);

  it("is the binomial's for a share of right answers", () => {
    const marks = Array.from({ length: 200 }, (_, i) => (i % 4 === 0 ? "0" : "1")).join("");
    const { value, standardError } = estimatesOf([matches(marks)], names, 0).exactMatch!;
    expect(value).toBe(0.75);
    expect(standardError / Math.sqrt((0.75 * 0.25) / 200)).toBeCloseTo(1, 1);
  });

  it("grows by what seeds differ in, which rows alone do not show", () => {
    const marks = (share: number) =>
      Array.from({ length: 100 }, (_, i) => (i < 100 * share ? "1" : "0")).join("");
    const one = estimatesOf([matches(marks(0.5), 0)], names, 0).exactMatch!;
    const runs = [matches(marks(0.3), 0), matches(marks(0.5), 1), matches(marks(0.7), 2)];
    const three = estimatesOf(runs, names, 0).exactMatch!;
    expect(three.value).toBeCloseTo(0.5, 12);
    // Variance among seeds 0.04, over three.
    const ofRows = three.standardError ** 2 - 0.04 / 3;
    expect(ofRows).toBeGreaterThan(0);
    expect(Math.sqrt(ofRows)).toBeLessThan(1.2 * one.standardError);
  });

  it("says no difference where there is none, and which way one goes", () => {
    const half = "10".repeat(50);
    const none = differ([matches(half)], [matches(`${"01"}${half.slice(2)}`)]);
    expect(none).toMatchObject({ verdict: "no difference", against: "full", metric: "exactMatch", value: 0 });
    expect(none.test).toContain("paired over 100 rows");
    const more = differ([matches("1".repeat(100))], [matches(half)]);
    expect(more).toMatchObject({ verdict: "better", value: 0.5 });
    expect(more.p).toBeLessThan(1e-6);
    expect(differ([matches(half)], [matches("1".repeat(100))]).verdict).toBe("worse");
  });

  it("knows that less perplexity is better, and pairs rows", () => {
    // Rows differ by far more than the two runs do; every row is a little better.
    const hard = Array.from({ length: 60 }, (_, i) => (i % 7) + 1);
    const better = hard.map((loss, i) => loss - 0.05 - 0.01 * (i % 3));
    const found = differenceOf([losses(better)], [losses(hard)], "lora-r8", ["perplexity"], "perplexity", 0);
    expect(found.verdict).toBe("better");
    expect(found.value).toBeLessThan(0);
    const own = estimatesOf([losses(better)], ["perplexity"], 0).perplexity!;
    expect(found.standardError).toBeLessThan(own.standardError / 3);
  });

  it("does not take one lucky seed for a difference", () => {
    const level = "1100".repeat(25);
    const lucky = "1110".repeat(25);
    const others = [matches(level, 0), matches(level, 1), matches(level, 2)];
    const mixed = [matches(lucky, 0), matches(level, 1), matches(level, 2)];
    const found = differ(mixed, others);
    expect(found).toMatchObject({ verdict: "no difference" });
    expect(found.value).toBeCloseTo(0.25 / 3, 12);
    expect(found.test).toContain("100 rows and 3 seeds");
    // Rows alone, of that seed, would have said otherwise.
    expect(differ([mixed[0]!], [others[0]!]).verdict).toBe("better");
  });

  it("sets only runs of one seed against each other, and the base against each", () => {
    const half = "10".repeat(50);
    const some = differ([matches(half, 0), matches(half, 2)], [matches(half, 0), matches(half, 1)]);
    expect(some.test).not.toContain("seeds");
    expect(differ([matches(half)], [matches(half, 0), matches(half, 1)]).test).toContain("2 seeds");
  });
});

describe("--keep", () => {
  /** A stand-in whose quality rises with the rank; every run asked for is counted. */
  function standIn(kept: (rank: number) => number, maxRuns: number, largestRank = 64) {
    const rows: ComparedRow[] = [];
    const asked: number[] = [];
    const add = (rank: number) => {
      asked.push(rank);
      const percent = kept(rank);
      const row = {
        ...{ name: `lora-r${rank}`, method: "lora", rank, trainableParameters: 100 * rank },
        kept: { percent, interval: { low: percent - 1, high: percent + 1 } },
      } as unknown as ComparedRow;
      rows.push(row);
      return row;
    };
    const comparing = {
      options: { methods: ["full", "lora"], maxRuns },
      comparedRows: rows,
      largestRank,
      rateOf: () => 1e-3,
      get trainedRuns() {
        return asked.length;
      },
      addAt: async (_: string, rank: number) => add(rank),
    } as unknown as RankSearch;
    add(8);
    return { comparing, asked };
  }

  it("bisects down to the smallest rank that is good enough", async () => {
    const { comparing, asked } = standIn((rank) => (rank >= 2 ? 99 : 90), 20);
    const found = await searchKeep(comparing, 97.5);
    expect(found).toMatchObject({ found: "lora-r2", certain: true, exhausted: false });
    expect(asked.length).toBeLessThanOrEqual(4);
  });

  it("goes up where rank 8 is not enough, and stops at what the layers allow", async () => {
    const up = await searchKeep(standIn((rank) => (rank >= 16 ? 97.6 : 80), 20).comparing, 97.5);
    expect(up).toMatchObject({ found: "lora-r16", certain: false });
    const { comparing, asked } = standIn((rank) => 70 + rank / 10, 20);
    const none = (await searchKeep(comparing, 97.5))!;
    expect(none.found).toBeUndefined();
    expect(Math.max(...asked)).toBe(64);
    expect(keepText(none)).toContain("No adapter tried keeps 97.5%");
    expect(keepText(none)).toContain("lora-r64");
  });

  it("stays within its budget of runs", async () => {
    const found = (await searchKeep(standIn((rank) => rank, 2).comparing, 97.5))!;
    expect(found.exhausted).toBe(true);
    expect(found.runs).toBe(2);
  });
});

it("draws plots that are well-formed and hold no foreign markup", () => {
  const curve = curvesSvg(
    [
      { name: "<full>", points: [1, 2, 3].map((x) => [x, 3 / x] as const) },
      { name: "lora", points: [[1, 2]] },
    ],
    { title: "a & b", x: "step", y: "loss" },
  );
  expect(curve).toContain("&lt;full&gt;");
  expect(curve).toContain("a &amp; b");
  expect(curve).not.toMatch(/NaN|undefined|Infinity/);
  const points = pointsSvg([{ name: "lora", x: 12, y: 3, low: 2, high: 4 }], { title: "t", x: "x", y: "y" });
  expect(points).not.toMatch(/NaN|undefined|Infinity/);
  expect(points.match(/<circle/g)).toHaveLength(1);
});
