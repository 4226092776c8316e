// Spectra against NumPy (goldens: tools/golden/spectrum_golden.py), planted ranks, and rank proposals.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { energyShares, proposeRanks, spectrumOfAdapter, spectrumOfMatrix } from "../../src/plan/spectrum.ts";
import { Random } from "../../src/util/rng.ts";
import { bell } from "../quant/inputs.ts";

interface Golden {
  adapters: {
    outputs: number;
    rank: number;
    inputs: number;
    scale: number;
    seed: number;
    singularValues: number[];
  }[];
  matrices: {
    rows: number;
    cols: number;
    planted: number;
    noise: number;
    seed: number;
    singularValues: number[];
    ranks: number[];
    numericalRank: number;
    effectiveRank: number;
  }[];
}
const golden: Golden = JSON.parse(
  readFileSync(new URL("../golden/plan/spectrum.json", import.meta.url), "utf8"),
);

/** Relative to the value itself, where it stands above f32 rounding of the largest (1e-6); absolute below. */
const TOLERANCE = 1e-5;

function expectClose(actual: Float64Array, expected: number[]): void {
  expect(actual).toHaveLength(expected.length);
  const floor = 1e-6 * expected[0]!;
  for (const [i, value] of expected.entries()) {
    if (Math.abs(actual[i]! - value) > TOLERANCE * value + floor)
      throw new Error(`value ${i}: ${actual[i]}, expected ${value}`);
  }
}

function matrix(rows: number, cols: number, rank: number, noise: number, seed: number): Float32Array {
  const base = bell(rows * cols, seed);
  const left = bell(rows * rank, seed + 1);
  const right = bell(rank * cols, seed + 2);
  return base.map((value, at) => {
    const i = Math.floor(at / cols);
    let sum = noise * value;
    for (let k = 0; k < rank; k++) sum += left[i * rank + k]! * 0.8 ** k * right[k * cols + (at % cols)]!;
    return sum;
  });
}

describe("as NumPy's svd", () => {
  test.each(golden.adapters)("$scale B A, [$outputs, $rank] [$rank, $inputs]", (row) => {
    const b = bell(row.outputs * row.rank, row.seed);
    const a = bell(row.rank * row.inputs, row.seed + 1);
    const { singularValues } = spectrumOfAdapter(b, a, row.outputs, row.rank, row.inputs, row.scale);
    expectClose(singularValues.slice(0, row.singularValues.length), row.singularValues);
    for (const extra of singularValues.slice(row.singularValues.length)) {
      expect(extra).toBeLessThan(1e-12 * singularValues[0]!);
    }
  });

  test.each(golden.matrices)("[$rows, $cols], rank $planted planted, noise $noise", (row) => {
    const values = matrix(row.rows, row.cols, row.planted, row.noise, row.seed);
    const spectrum = spectrumOfMatrix(values, row.rows, row.cols);
    expectClose(spectrum.singularValues, row.singularValues);
    expect(energyShares.map((share) => spectrum.ranks[share])).toEqual(row.ranks);
    expect(spectrum.numericalRank).toBe(row.numericalRank);
    expect(Math.abs(spectrum.effectiveRank / row.effectiveRank - 1)).toBeLessThan(1e-4);
  });

  test.each(golden.matrices)("[$rows, $cols], randomized", (row) => {
    const values = matrix(row.rows, row.cols, row.planted, row.noise, row.seed);
    const leading = 8;
    const spectrum = spectrumOfMatrix(values, row.rows, row.cols, { exactUpTo: 0, leading });
    const expected = row.singularValues.slice(0, leading);
    expect(spectrum.singularValues).toHaveLength(expected.length);
    for (const [i, value] of expected.entries()) {
      // One subspace iteration: never above; below by a tenth at most where the spectrum is flat.
      expect(spectrum.singularValues[i]!).toBeLessThanOrEqual(value * (1 + 1e-6) + 1e-6 * expected[0]!);
      expect(spectrum.singularValues[i]!).toBeGreaterThanOrEqual(0.9 * value - 1e-6 * expected[0]!);
    }
    // What it says of ranks is either right or nothing.
    if (row.planted === 5) {
      expect(energyShares.map((share) => spectrum.ranks[share])).toEqual(row.ranks);
      expectClose(spectrum.singularValues.slice(0, 5), expected.slice(0, 5));
    }
  });
});

test("a planted rank-5 update has rank 5, as a matrix and as an adapter of rank 16", () => {
  const random = new Random(4);
  const [outputs, inputs] = [96, 130];
  // Orthogonal directions of equal weight: +-1 patterns on disjoint supports.
  const b = new Float32Array(outputs * 16);
  const a = new Float32Array(16 * inputs);
  for (let k = 0; k < 5; k++) {
    for (let i = k; i < outputs; i += 5) b[i * 16 + k] = random.nextFloat() < 0.5 ? -1 : 1;
    for (let j = k; j < inputs; j += 5) a[k * inputs + j] = random.nextFloat() < 0.5 ? -1 : 1;
  }
  const product = new Float32Array(outputs * inputs);
  for (let i = 0; i < outputs; i++) {
    for (let j = 0; j < inputs; j++) {
      for (let k = 0; k < 16; k++) product[i * inputs + j]! += b[i * 16 + k]! * a[k * inputs + j]!;
    }
  }
  for (const spectrum of [
    spectrumOfAdapter(b, a, outputs, 16, inputs),
    spectrumOfMatrix(product, outputs, inputs),
  ]) {
    expect(spectrum.numericalRank).toBe(5);
    expect(spectrum.ranks).toEqual({ 0.9: 5, 0.95: 5, 0.99: 5 });
    expect(spectrum.effectiveRank).toBeGreaterThan(4.99);
    expect(spectrum.effectiveRank).toBeLessThan(5.01);
  }
});

test("zero and tiny updates", () => {
  const zero = spectrumOfMatrix(new Float32Array(12), 3, 4);
  expect(zero).toMatchObject({ energy: 0, numericalRank: 0, effectiveRank: 0, ranks: { 0.9: 0, 0.99: 0 } });
  const tiny = spectrumOfMatrix(
    matrix(20, 30, 5, 0, 9).map((value) => value * 1e-30),
    20,
    30,
  );
  expect(tiny.numericalRank).toBe(5);
  expect(spectrumOfAdapter(new Float32Array(8), bell(12, 1), 4, 2, 6).energy).toBe(0);
});

test("an update that is not finite is refused", () => {
  expect(() => spectrumOfMatrix(Float32Array.of(1, Number.NaN, 0, 1), 2, 2)).toThrow("NaN or infinite");
  expect(() => spectrumOfAdapter(Float32Array.of(1, Number.NaN), bell(2, 1), 2, 1, 2)).toThrow(
    "NaN or infinite",
  );
});

test("flat spectra say nothing of ranks beyond the leading values", () => {
  const spectrum = spectrumOfMatrix(bell(64 * 64, 5), 64, 64, { exactUpTo: 32, leading: 4 });
  expect(spectrum.complete).toBe(false);
  expect(spectrum.ranks[0.9]).toBeUndefined();
});

test("proposed ranks", () => {
  const modules = [2, 2, 2, 7, 40].map((rank, i) => ({
    name: `layers.${i}.q_proj`,
    spectrum: spectrumOfMatrix(orthogonalOfRank(rank, 48), 48, 48),
  }));
  expect(proposeRanks(modules, 0.99, 16)).toEqual({
    rank: 2,
    rankPattern: { "layers.3.q_proj": 7, "layers.4.q_proj": 16 },
    capped: ["layers.4.q_proj"],
  });
  expect(() => proposeRanks([], 0.9)).toThrow("no modules");
  expect(() => proposeRanks(modules, 95)).toThrow("between 0 and 1");
});

/** A diagonal of ones, `rank` of them: equal singular values. */
function orthogonalOfRank(rank: number, size: number): Float32Array {
  const values = new Float32Array(size * size);
  for (let i = 0; i < rank; i++) values[i * size + i] = 1;
  return values;
}
