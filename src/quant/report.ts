// How well given weights survive four bits: the error of every registered quantiser on them, and how normal they are,
// since NF4 is built for normally distributed blocks. Statistics only; nothing here decides what to quantise.

import { UserError } from "../util/errors.ts";
import type { CodebookQuantizer } from "./codebook.ts";

export interface QuantizationError {
  /** Mean of |w - q|. */
  readonly meanAbsolute: number;
  /** Mean of |w - q| / (|w| + 1e-8), as bitsandbytes' tests measure it. */
  readonly meanRelative: number;
  /** Root of the mean of (w - q)^2. */
  readonly rms: number;
  /** rms divided by the root mean square of the weights; 0 for all-zero weights. */
  readonly relativeRms: number;
}

/** All are 0 for a normal distribution; the last two are near 0 for a sample of one. */
export interface Normality {
  readonly skewness: number;
  /** Fourth standardised moment minus 3; above 0 means heavier tails. */
  readonly excessKurtosis: number;
  /** Jarque-Bera statistic divided by the count: (skewness^2 + excessKurtosis^2 / 4) / 6. */
  readonly jarqueBeraPerValue: number;
  /** Kolmogorov-Smirnov distance to N(0, 1) of the weights, each divided by its block's root mean square. */
  readonly ksDistance: number;
}

export interface QuantizationReport {
  readonly count: number;
  readonly blockSize: number;
  readonly errors: Readonly<Record<string, QuantizationError>>;
  readonly normality: Normality;
}

/** At most this many values are sorted for the KS distance: evenly spaced blocks are taken from larger tensors. */
const KS_SAMPLE = 1 << 20;

/** Measures `quantizers` on `values` (finite, at least one). */
export function quantizationReport(
  values: Float32Array,
  quantizers: readonly CodebookQuantizer[],
  blockSize = 64,
): QuantizationReport {
  if (values.length === 0) throw new UserError("quantisation report: the tensor is empty");
  const errors: Record<string, QuantizationError> = {};
  for (const quantizer of quantizers) errors[quantizer.name] = errorOf(values, quantizer, blockSize);
  return { count: values.length, blockSize, errors, normality: normalityOf(values, blockSize) };
}

function errorOf(values: Float32Array, quantizer: CodebookQuantizer, blockSize: number): QuantizationError {
  const restored = quantizer.dequantize(quantizer.quantize(values, blockSize), values.length, blockSize);
  let absolute = 0;
  let relative = 0;
  let squares = 0;
  let power = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    const error = Math.abs(value - restored[i]!);
    absolute += error;
    relative += error / (Math.abs(value) + 1e-8);
    squares += error * error;
    power += value * value;
  }
  const count = values.length;
  return {
    meanAbsolute: absolute / count,
    meanRelative: relative / count,
    rms: Math.sqrt(squares / count),
    relativeRms: power > 0 ? Math.sqrt(squares / power) : 0,
  };
}

/** Shape statistics of a sample, with moments about its mean. Constant values have no shape: 0, 0, 0. */
export function normalityOf(values: Float32Array, blockSize: number): Normality {
  const count = values.length;
  let sum = 0;
  for (const value of values) sum += value;
  const mean = sum / count;
  let m2 = 0;
  let m3 = 0;
  let m4 = 0;
  for (const value of values) {
    const d = value - mean;
    const square = d * d;
    m2 += square;
    m3 += square * d;
    m4 += square * square;
  }
  m2 /= count;
  const skewness = m2 > 0 ? m3 / count / m2 ** 1.5 : 0;
  const excessKurtosis = m2 > 0 ? m4 / count / (m2 * m2) - 3 : 0;
  return {
    skewness,
    excessKurtosis,
    jarqueBeraPerValue: (skewness ** 2 + excessKurtosis ** 2 / 4) / 6,
    ksDistance: ksDistance(values, blockSize),
  };
}

function ksDistance(values: Float32Array, blockSize: number): number {
  const blocks = Math.ceil(values.length / blockSize);
  const stride = Math.ceil(values.length / KS_SAMPLE);
  const sample = new Float64Array(Math.ceil(blocks / stride) * blockSize);
  let size = 0;
  for (let block = 0; block < blocks; block += stride) {
    const part = values.subarray(block * blockSize, (block + 1) * blockSize);
    let squares = 0;
    for (const value of part) squares += value * value;
    const rms = Math.sqrt(squares / part.length);
    for (const value of part) sample[size++] = rms > 0 ? value / rms : 0;
  }
  const sorted = sample.subarray(0, size).sort();
  let distance = 0;
  for (let i = 0; i < size; i++) {
    const cumulative = normalCdf(sorted[i]!);
    distance = Math.max(distance, cumulative - i / size, (i + 1) / size - cumulative);
  }
  return distance;
}

const HALF_LOG_TWO_PI = 0.5 * Math.log(2 * Math.PI);

/** P(N(0, 1) <= x), by the series phi(x) (x + x^3/3 + x^5/15 + ...). Source: Marsaglia 2004. */
export function normalCdf(x: number): number {
  if (x < -8) return 0;
  if (x > 8) return 1;
  let sum = x;
  let previous = 0;
  for (let term = x, i = 3; sum !== previous; i += 2) {
    previous = sum;
    term *= (x * x) / i;
    sum += term;
  }
  return 0.5 + sum * Math.exp(-0.5 * x * x - HALF_LOG_TWO_PI);
}
