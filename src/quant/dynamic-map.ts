// The 8-bit dynamic maps: 256 values in [-1, 1] (signed) or [0, 1] (unsigned) with a movable boundary between exponent
// and fraction, dense near zero and near one. They encode the scales of 4-bit blocks (double-quant.ts) and the moments
// of 8-bit optimizers. Who rounds to them: blockwise-8bit.ts.
// Source: Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning"; values as in bitsandbytes.

const EXPONENTS = 7;

function dynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let i = 0; i < EXPONENTS; i++) {
    const power = Math.fround(10 ** (i - (EXPONENTS - 1)));
    for (const fraction of midpoints(signed ? 2 ** i : 2 ** (i + 1))) {
      const value = Math.fround(power * fraction);
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  // 2 + 2 * 127 signed or 2 + 254 unsigned values: 256 either way.
  return Float32Array.from(values).sort();
}

/** Centres of `count` equal intervals of [0.1, 1]; edges as torch.linspace makes them: an f32 step, from both ends inwards, rounded once. */
function midpoints(count: number): Float32Array {
  const start = Math.fround(0.1);
  const step = Math.fround(Math.fround(1 - start) / count);
  const edge = (j: number) => Math.fround(2 * j < count + 1 ? start + step * j : 1 - step * (count - j));
  return Float32Array.from({ length: count }, (_, j) => Math.fround(edge(j) + edge(j + 1)) / 2);
}

/** 256 ascending values from -0.99296875 to 1; zero is code 127. For scales minus their mean, and first moments. */
export const signedDynamicMap: Float32Array = dynamicMap(true);

/** 256 ascending values from 0 to 1; zero is code 0. For second moments. */
export const unsignedDynamicMap: Float32Array = dynamicMap(false);
