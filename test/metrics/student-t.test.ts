// Student's t against closed forms (one and two degrees of freedom), a printed table, and the normal distribution.

import { expect, it } from "vitest";
import { twoSidedP } from "../../src/metrics/student-t.ts";

it("is the closed form for one and two degrees of freedom", () => {
  for (const t of [0, 0.1, 1, 3, 12.7, 400]) {
    expect(twoSidedP(t, 1)).toBeCloseTo(1 - (2 / Math.PI) * Math.atan(t), 12);
    expect(twoSidedP(t, 2)).toBeCloseTo(1 - t / Math.sqrt(t * t + 2), 12);
    expect(twoSidedP(-t, 2)).toBe(twoSidedP(t, 2));
  }
});

it.each([
  [12.706205, 1],
  [4.302653, 2],
  [2.570582, 5],
  [2.228139, 10],
  [2.042272, 30],
  [1.983972, 100],
  [1.959966, 1e6],
])("is 5%% at %d with %d degrees of freedom", (t, freedom) => {
  expect(twoSidedP(t, freedom)).toBeCloseTo(0.05, 6);
});

it("falls as the difference grows, for fractions of degrees too, down to nothing", () => {
  const values = [0, 0.5, 1, 2, 4, 8, 40].map((t) => twoSidedP(t, 7.3));
  expect(values[0]).toBe(1);
  for (const [i, value] of values.slice(1).entries()) expect(value).toBeLessThan(values[i]!);
  expect(twoSidedP(Number.POSITIVE_INFINITY, 3)).toBe(0);
});
