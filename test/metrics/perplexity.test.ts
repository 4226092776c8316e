// Perplexity from sums, and the bootstrap over rows.

import { describe, expect, test } from "vitest";
import { bootstrap } from "../../src/metrics/bootstrap.ts";
import { addLossTotals, perplexityOf } from "../../src/metrics/perplexity.ts";
import { meanOf } from "../../src/metrics/text-metric.ts";
import { Random } from "../../src/util/rng.ts";

describe("perplexity", () => {
  test("a uniform model over 256 bytes has byte perplexity 256 and 8 bits a byte", () => {
    const score = perplexityOf({ lossSum: 100 * Math.log(256), targetTokens: 50, targetBytes: 100 });
    expect(score.perplexity).toBeCloseTo(65536, 6);
    expect(score.bytePerplexity).toBeCloseTo(256, 9);
    expect(score.bitsPerByte).toBeCloseTo(8, 12);
  });

  test("sums do not depend on the parts", () => {
    const whole = addLossTotals(
      { lossSum: 3, targetTokens: 2, targetBytes: 5 },
      { lossSum: 9, targetTokens: 10, targetBytes: 7 },
    );
    expect(perplexityOf(whole).loss).toBe(1);
    expect(whole.targetBytes).toBe(12);
    expect(addLossTotals(whole, { lossSum: 1, targetTokens: 1 }).targetBytes).toBeUndefined();
  });

  test("no target token is refused", () => {
    expect(() => perplexityOf({ lossSum: 0, targetTokens: 0 })).toThrow("no row has a target token");
  });
});

describe("bootstrap", () => {
  const combine = (rows: readonly number[]) => ({ mean: meanOf(rows) });

  test("the interval of a mean is near the one of the central limit theorem", () => {
    const random = new Random(3);
    const rows = Array.from({ length: 400 }, () => random.nextNormal());
    const { low, high } = bootstrap(rows, combine, { resamples: 2000, seed: 5 }).mean!;
    const deviation = Math.sqrt(meanOf(rows.map((row) => (row - meanOf(rows)) ** 2)));
    const half = (1.96 * deviation) / Math.sqrt(rows.length);
    // The half width itself is known to about 4 per cent from 2,000 resamples.
    expect((high - low) / 2 / half).toBeGreaterThan(0.88);
    expect((high - low) / 2 / half).toBeLessThan(1.12);
    expect(low).toBeLessThan(meanOf(rows));
    expect(high).toBeGreaterThan(meanOf(rows));
  });

  test("a seed decides, and equal rows have no width", () => {
    const rows = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1];
    expect(bootstrap(rows, combine, { seed: 9 })).toEqual(bootstrap(rows, combine, { seed: 9 }));
    expect(bootstrap(rows, combine, { seed: 9 })).not.toEqual(
      bootstrap(rows, combine, { seed: 10, resamples: 3 }),
    );
    expect(bootstrap([2, 2, 2], combine).mean).toEqual({ low: 2, high: 2, standardError: 0 });
  });

  test("a wider confidence has a wider interval", () => {
    const rows = Array.from({ length: 60 }, (_, i) => i % 7);
    const narrow = bootstrap(rows, combine, { confidence: 0.5 }).mean!;
    const wide = bootstrap(rows, combine, { confidence: 0.99 }).mean!;
    expect(wide.low).toBeLessThan(narrow.low);
    expect(wide.high).toBeGreaterThan(narrow.high);
  });

  test("refusals", () => {
    expect(() => bootstrap([], combine)).toThrow("no rows");
    expect(() => bootstrap([1], combine, { confidence: 95 })).toThrow("between 0 and 1");
    expect(() => bootstrap([1], combine, { resamples: 1 })).toThrow("at least 2");
  });
});
