// The quantisation report on weights whose shape is known.

import { expect, test } from "vitest";
import { quantizers } from "../../src/quant/index.ts";
import { normalCdf, normalityOf, quantizationReport } from "../../src/quant/report.ts";
import { Random } from "../../src/util/rng.ts";

const all = Object.values(quantizers);

function sample(count: number, draw: (random: Random) => number): Float32Array {
  const random = new Random(11);
  return Float32Array.from({ length: count }, () => draw(random));
}

test("normal weights: NF4 loses least, and the shape is normal", () => {
  const report = quantizationReport(
    sample(1 << 17, (random) => 0.02 * random.nextNormal()),
    all,
  );
  const { nf4, fp4, int4 } = report.errors;
  expect(nf4!.rms).toBeLessThan(int4!.rms);
  expect(nf4!.rms).toBeLessThan(fp4!.rms);
  expect(nf4!.meanAbsolute / 0.02).toBeCloseTo(0.0728, 3);
  expect(nf4!.meanRelative).toBeGreaterThan(0.19);
  expect(nf4!.meanRelative).toBeLessThan(0.21);
  expect(nf4!.relativeRms).toBeCloseTo(nf4!.rms / 0.02, 3);
  expect(Math.abs(report.normality.skewness)).toBeLessThan(0.03);
  expect(Math.abs(report.normality.excessKurtosis)).toBeLessThan(0.06);
  expect(report.normality.ksDistance).toBeLessThan(0.01);
});

test("uniform weights: INT4 loses least, tails are light", () => {
  const report = quantizationReport(
    sample(1 << 16, (random) => random.nextFloat() - 0.5),
    all,
  );
  expect(report.errors.int4!.rms).toBeLessThan(report.errors.nf4!.rms);
  expect(report.normality.excessKurtosis).toBeCloseTo(-1.2, 1);
  expect(report.normality.ksDistance).toBeGreaterThan(0.04);
});

test("skewed weights", () => {
  const shape = normalityOf(
    sample(1 << 17, (random) => -Math.log(1 - random.nextFloat())),
    64,
  );
  expect(shape.skewness).toBeGreaterThan(1.9); // 2 for the exponential distribution
  expect(shape.skewness).toBeLessThan(2.1);
  expect(shape.jarqueBeraPerValue).toBeGreaterThan(1);
});

test("constant and empty weights", () => {
  const report = quantizationReport(new Float32Array(100), all);
  expect(report.errors.nf4).toEqual({ meanAbsolute: 0, meanRelative: 0, rms: 0, relativeRms: 0 });
  expect(report.normality.excessKurtosis).toBe(0);
  expect(() => quantizationReport(new Float32Array(0), all)).toThrow("empty");
});

test("the normal distribution function", () => {
  expect(normalCdf(0)).toBe(0.5);
  expect(normalCdf(1)).toBeCloseTo(0.8413447460685429, 12);
  expect(normalCdf(-3)).toBeCloseTo(0.0013498980316300933, 12);
  expect(normalCdf(9)).toBe(1);
});
