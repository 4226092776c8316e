// Kernels of the contract that look at one element, or one row, at a time, and the sums of all elements. Not here: what
// weighs columns (columns.ts), and what a row's elements do together (rows.ts).

import {
  activation,
  anyFloat,
  cachedType,
  type Family,
  float,
  i32,
  number,
  out,
  stored,
  tensor,
  update,
} from "./operands.ts";

export const elementwiseKernels = {
  /** y = value. */
  fill: { y: out(tensor("float", "f32")("*n")), value: number },
  /** y = x, converting between f32, f64, bf16 and f16. */
  cast: { x: anyFloat("*n"), y: out(anyFloat("*n")) },
  /** y += x. */
  addInPlace: { x: float("*n"), y: update(float("*n")) },
  /** y *= factor. */
  scaleInPlace: { y: update(float("*n")), factor: number },
  /** y = uniform in [-bound, bound): bits of (seed, stream, i) as (bits / 2^31 - 1) * bound. */
  fillUniform: { y: out(stored("*n")), bound: number, seed: number, stream: number },
  /** y = x / (1 - p) where the mask keeps an element, else 0: element i as a product's Dropout has it (backend.ts). */
  dropout: {
    x: float("*n"),
    p: { kind: "number", least: 0, most: 1 },
    seed: number,
    stream: number,
    y: out(float("*n"), "x"),
  },
  /** y[i] = x[index[i]]. */
  gatherRows: { x: float("rows *c"), index: i32("m"), y: out(float("m *c")) },
  /** y[index[i]] = x[i]; rows not named are left alone. No index repeats. */
  scatterRows: { x: float("m *c"), index: i32("m"), y: update(float("rows *c")) },
  /**
   * y[index[i]] = x[i] in y's type; rows not named are left alone. No index repeats. u8 are rows of 8-bit numbers, c a multiple
   * of 32: i8 codes [c], then f16 scales [c / 32], of what ggml's Q8_0 makes of them; width is c + c / 16.
   */
  storeRows: { x: float("m *c"), index: i32("m"), y: update(cachedType("rows *width")) },
  /** y[t, to + i] = x[t, from + i] for i below count; columns not named are left alone. All lie within both. */
  copyColumns: {
    x: float("t n"),
    from: number,
    y: update(float("t m")),
    to: number,
    count: number,
  },
  sum: { x: float("*n"), out: out(float("1")) },
  sumSquares: { x: float("*n"), out: out(float("1")) },
  /** Number of NaN or infinite elements. */
  countNonFinite: { x: stored("*n"), out: out(float("1")) },
  /** y = activation(gate) * up. */
  gatedActivation: { activation, gate: float("*n"), up: float("*n"), y: out(float("*n"), "gate", "up") },
  gatedActivationBackward: {
    activation,
    gate: float("*n"),
    up: float("*n"),
    dy: float("*n"),
    dGate: out(float("*n"), "gate"),
    dUp: out(float("*n"), "up"),
  },
  /** y = cap tanh(x / cap). */
  softCap: { x: float("*n"), cap: number, y: out(float("*n"), "x") },
  /** dx = dy (1 - (y / cap)^2). */
  softCapBackward: { y: float("*n"), cap: number, dy: float("*n"), dx: out(float("*n"), "dy") },
} as const satisfies Family;
