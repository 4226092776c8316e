// The input tensors of the quantiser goldens, made by the same integer generator as tools/golden/quant_golden.py makes
// them, and the digest that stands for an expected array there.

import { createHash } from "node:crypto";

/** Sums of four 24-bit uniforms minus 2: near normal, exact in f64, rounded once to f32. */
export function bell(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    let total = 0;
    for (let k = 0; k < 4; k++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      total += (state >>> 8) / 2 ** 24;
    }
    return total - 2;
  });
}

/** The neighbouring f32 of a nonzero number, one unit in the last place up (+1) or down (-1). */
function neighbour(value: number, direction: 1 | -1): number {
  const f32 = Float32Array.of(value);
  if (value === 0) return direction * 2 ** -149;
  const bits = new Int32Array(f32.buffer);
  bits[0]! += value > 0 ? direction : -direction;
  return f32[0]!;
}

/** Tensors by name; those around midpoints depend on the codebook. */
export function inputs(codebook: Float32Array): Record<string, Float32Array> {
  const ordered = codebook.slice().sort();
  const middle = Float32Array.from({ length: ordered.length - 1 }, (_, i) =>
    Math.fround(Math.fround(ordered[i]! + ordered[i + 1]!) / 2),
  );
  const outliers = bell(4096, 7);
  for (let i = 0; i < outliers.length; i += 97) outliers[i]! *= 40;
  const scaled = (count: number, seed: number, factor: number) =>
    bell(count, seed).map((value) => value * Math.fround(factor));
  return {
    bell: bell(12288, 1),
    odd: bell(4999, 2),
    short: bell(31, 3),
    one: Float32Array.of(-0.75),
    zero: new Float32Array(200),
    constant: new Float32Array(777).fill(-0.3),
    denormal: scaled(333, 4, 1e-40),
    tiny: scaled(333, 5, 1e-37),
    huge: scaled(333, 6, 1.5e38),
    outliers,
    sparse: bell(1000, 8).map((value, i) => (i % 3 === 0 ? value : 0)),
    midpoints: Float32Array.of(
      1,
      ...middle,
      ...middle.map((value) => neighbour(value, 1)),
      ...middle.map((value) => neighbour(value, -1)),
      ...ordered,
    ),
  };
}

/** First 16 hexadecimal digits of the SHA-256 of an array's bytes. */
export function digest(array: Uint8Array | Float32Array): string {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  return createHash("sha256").update(bytes).digest("hex").slice(0, 16);
}
