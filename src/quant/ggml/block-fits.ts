// How the codes and the scale of a block are found for ggml's quantised types: not the largest magnitude over the
// number of levels, but the scale of a few candidates whose weighted squared error is least. Each operation is rounded
// to f32 and sums run in the order of the elements, as in llama.cpp's ggml-quants.c, so that the bytes agree with its.
// Not here: how codes and scales are packed (quant/ggml/).

const f = Math.fround;

/** Blocks whose numbers are all smaller than this are zeros. */
const smallest = f(1e-15);
/** 1.5 * 2^23: a number below 2^22 added to it in f32 loses its fraction. */
const rounder = 12582912;

/** Rounds to the nearest integer, halves to even. For |x| < 2^22. */
export function nearest(x: number): number {
  return f(x + rounder) - rounder;
}

/** Comparisons, which the engine makes faster code of than of Math.min and Math.max. */
export function clamped(x: number, low: number, high: number): number {
  if (x < low) return low;
  if (x > high) return high;
  return x;
}

/** Numbers of an array from `at` on. */
export interface Stretch {
  readonly values: Float32Array;
  readonly at: number;
  readonly count: number;
}

/**
 * Codes in [-levels, levels - 1] of numbers x ~ scale * code, put into `codes` from 0 on with `levels` added. An error
 * counts by `weights` (from 0 on), or by the square of its number. Returns the scale, which may be negative.
 */
export function fitSymmetric(
  { values: x, at, count }: Stretch,
  levels: number,
  codes: Uint8Array,
  codesAt: number,
  weights?: { readonly values: Float32Array; readonly at: number },
): number {
  let extreme = 0;
  for (let i = at; i < at + count; i++) if (Math.abs(x[i]!) > Math.abs(extreme)) extreme = x[i]!;
  if (Math.abs(extreme) < smallest) {
    codes.fill(0, codesAt, codesAt + count);
    return 0;
  }
  const put = (inverse: number) => {
    for (let i = 0; i < count; i++) {
      codes[codesAt + i] = levels + clamped(nearest(f(inverse * x[at + i]!)), -levels, levels - 1);
    }
  };
  let sumXl = 0;
  let sumL2 = 0;
  const sum = (inverse: number) => {
    sumXl = 0;
    sumL2 = 0;
    for (let i = 0; i < count; i++) {
      const value = x[at + i]!;
      const code = clamped(nearest(f(inverse * value)), -levels, levels - 1);
      const weight = weights ? weights.values[weights.at + i]! : f(value * value);
      sumXl = f(sumXl + f(f(weight * value) * code));
      sumL2 = f(sumL2 + f(f(weight * code) * code));
    }
  };
  const first = f(-levels / extreme);
  put(first);
  sum(first);
  let scale = sumL2 !== 0 ? f(sumXl / sumL2) : 0;
  let best = f(scale * sumXl);
  for (let step = -9; step <= 9; step++) {
    if (step === 0) continue;
    const inverse = f(-f(levels + f(f(0.1) * step)) / extreme);
    sum(inverse);
    if (sumL2 > 0 && f(sumXl * sumXl) > f(best * sumL2)) {
      put(inverse);
      scale = f(sumXl / sumL2);
      best = f(scale * sumXl);
    }
  }
  return scale;
}

/** The candidates of a fit with a minimum: inverse scales (first + step * i + levels) / range, i from 0 to steps. */
export interface Search {
  readonly first: number;
  readonly step: number;
  readonly steps: number;
}

const trial = new Uint8Array(32);

/**
 * Codes in [0, levels] of numbers x ~ scale * code - minimum, where the minimum is not negative. Returns both.
 * `weights` from 0 on; at most 32 numbers.
 */
export function fitWithMinimum(
  { values: x, at, count }: Stretch,
  levels: number,
  weights: Float32Array,
  codes: Uint8Array,
  codesAt: number,
  search: Search,
): { readonly scale: number; readonly minimum: number } {
  let low = x[at]!;
  let high = low;
  let sumW = weights[0]!;
  let sumX = f(sumW * low);
  for (let i = 1; i < count; i++) {
    const value = x[at + i]!;
    if (value < low) low = value;
    if (value > high) high = value;
    sumW = f(sumW + weights[i]!);
    sumX = f(sumX + f(weights[i]! * value));
  }
  if (low > 0) low = 0;
  if (high <= low) {
    codes.fill(0, codesAt, codesAt + count);
    return { scale: 0, minimum: -low };
  }
  const range = f(high - low);
  const inverse = f(levels / range);
  let scale = f(1 / inverse);
  let best = 0;
  for (let i = 0; i < count; i++) {
    const value = x[at + i]!;
    const code = clamped(nearest(f(inverse * f(value - low))), 0, levels);
    codes[codesAt + i] = code;
    const difference = f(f(f(scale * code) + low) - value);
    best = f(best + f(weights[i]! * f(difference * difference)));
  }
  const { first, step, steps } = search;
  for (let t = 0; t <= steps; t++) {
    const inverse = f(f(f(f(first) + f(f(step) * t)) + levels) / f(high - low));
    let sumL = 0;
    let sumL2 = 0;
    let sumXl = 0;
    for (let i = 0; i < count; i++) {
      const value = x[at + i]!;
      const code = clamped(nearest(f(inverse * f(value - low))), 0, levels);
      trial[i] = code;
      const weighted = f(weights[i]! * code);
      sumL = f(sumL + weighted);
      sumL2 = f(sumL2 + f(weighted * code));
      sumXl = f(sumXl + f(weighted * value));
    }
    const determinant = f(f(sumW * sumL2) - f(sumL * sumL));
    if (!(determinant > 0)) continue;
    let tryScale = f(f(f(sumW * sumXl) - f(sumX * sumL)) / determinant);
    let tryLow = f(f(f(sumL2 * sumX) - f(sumL * sumXl)) / determinant);
    if (tryLow > 0) {
      tryLow = 0;
      tryScale = f(sumXl / sumL2);
    }
    let error = 0;
    for (let i = 0; i < count; i++) {
      const difference = f(f(f(tryScale * trial[i]!) + tryLow) - x[at + i]!);
      error = f(error + f(weights[i]! * f(difference * difference)));
    }
    if (error < best) {
      for (let i = 0; i < count; i++) codes[codesAt + i] = trial[i]!;
      best = error;
      scale = tryScale;
      low = tryLow;
    }
  }
  return { scale, minimum: -low };
}

/** Codes in [0, levels] of positive numbers x ~ scale * code, refined one by one. Returns the scale. */
export function fitPositive(
  x: Float32Array,
  levels: number,
  codes: Uint8Array,
  weights: Float32Array,
): number {
  const count = x.length;
  let high = 0;
  for (const value of x) high = Math.max(high, value);
  if (high < smallest) {
    codes.fill(0, 0, count);
    return 0;
  }
  const errorOf = (inverse: number) => {
    const scale = f(1 / inverse);
    let error = 0;
    for (let i = 0; i < count; i++) {
      const code = Math.min(levels, nearest(f(inverse * x[i]!)));
      const difference = f(x[i]! - f(scale * code));
      error = f(error + f(f(weights[i]! * difference) * difference));
    }
    return error;
  };
  let inverse = f(levels / high);
  let best = errorOf(inverse);
  for (let step = -4; step <= 4; step++) {
    if (step === 0) continue;
    const candidate = f(f(f(f(0.1) * step) + levels) / high);
    const error = errorOf(candidate);
    if (error < best) {
      best = error;
      inverse = candidate;
    }
  }
  let sumXl = 0;
  let sumL2 = 0;
  for (let i = 0; i < count; i++) {
    const code = Math.min(levels, nearest(f(inverse * x[i]!)));
    codes[i] = code;
    sumXl = f(sumXl + f(f(weights[i]! * x[i]!) * code));
    sumL2 = f(sumL2 + f(f(weights[i]! * code) * code));
  }
  for (let round = 0; round < 5; round++) {
    let changed = false;
    for (let i = 0; i < count; i++) {
      const weight = weights[i]!;
      const old = codes[i]!;
      let withXl = f(sumXl - f(f(weight * x[i]!) * old));
      let withL2 = f(sumL2 - f(f(weight * old) * old));
      if (!(withXl > 0 && withL2 > 0)) continue;
      const code = Math.min(levels, nearest(f(f(x[i]! * withL2) / withXl)));
      if (code === old) continue;
      withXl = f(withXl + f(f(weight * x[i]!) * code));
      withL2 = f(withL2 + f(f(weight * code) * code));
      if (f(f(withXl * withXl) * sumL2) > f(f(sumXl * sumXl) * withL2)) {
        codes[i] = code;
        sumXl = withXl;
        sumL2 = withL2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return sumL2 > 0 ? f(sumXl / sumL2) : 0;
}
