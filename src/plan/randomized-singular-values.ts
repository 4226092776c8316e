// The leading singular values of a large matrix, from its products with a few random directions: a randomized range
// finder with one subspace iteration. For matrices whose sides are too long for an exact method; the values found are
// never above the true ones. Source: Halko, Martinsson, Tropp 2011, "Finding structure with randomness".

import { Random } from "../util/rng.ts";
import { type Columns, dot, jacobiSingularValues, triangularFactor } from "./singular-values.ts";

/** More directions than values wanted: the last values of a subspace are the least certain. */
const OVERSAMPLING = 16;

/** The `count` largest singular values, descending, of values [rows, cols]; fewer when a side is shorter. */
export function leadingSingularValues(
  values: Float32Array,
  rows: number,
  cols: number,
  count: number,
  seed = 0,
): Float64Array {
  const directions = Math.min(count + OVERSAMPLING, rows, cols);
  const random = new Random(seed);
  const start = new Float64Array(cols * directions);
  for (let i = 0; i < start.length; i++) start[i] = random.nextNormal();
  let range = orthonormal(multiply(values, rows, cols, start, directions), rows, directions);
  const domain = orthonormal(multiplyTransposed(values, rows, cols, range, directions), cols, directions);
  range = orthonormal(multiply(values, rows, cols, domain, directions), rows, directions);
  // Q^T X has the singular values of X inside the range of Q; its transpose is tall.
  const projected = columnsOf(multiplyTransposed(values, rows, cols, range, directions), cols, directions);
  return jacobiSingularValues(triangularFactor(projected)).slice(0, count);
}

/** X [rows, cols] times Z [cols, k]: [rows, k]. Four rows of Z a pass. */
function multiply(x: Float32Array, rows: number, cols: number, z: Float64Array, k: number): Float64Array {
  const y = new Float64Array(rows * k);
  for (let i = 0; i < rows; i++) accumulate(y, i * k, k, z, cols, x, i * cols, 1);
  return y;
}

/** X^T times Q [rows, k]: [cols, k]. */
function multiplyTransposed(
  x: Float32Array,
  rows: number,
  cols: number,
  q: Float64Array,
  k: number,
): Float64Array {
  const y = new Float64Array(cols * k);
  for (let j = 0; j < cols; j++) accumulate(y, j * k, k, q, rows, x, j, cols);
  return y;
}

/** y[yStart..+k] += sum over t < terms of x[xStart + t * stride] * z[t, :]. */
function accumulate(
  y: Float64Array,
  yStart: number,
  k: number,
  z: Float64Array,
  terms: number,
  x: Float32Array,
  xStart: number,
  stride: number,
): void {
  let t = 0;
  for (; t + 4 <= terms; t += 4) {
    const at = xStart + t * stride;
    const x0 = x[at]!;
    const x1 = x[at + stride]!;
    const x2 = x[at + 2 * stride]!;
    const x3 = x[at + 3 * stride]!;
    const z0 = t * k;
    for (let c = 0; c < k; c++) {
      y[yStart + c]! +=
        x0 * z[z0 + c]! + x1 * z[z0 + k + c]! + x2 * z[z0 + 2 * k + c]! + x3 * z[z0 + 3 * k + c]!;
    }
  }
  for (; t < terms; t++) {
    const factor = x[xStart + t * stride]!;
    for (let c = 0; c < k; c++) y[yStart + c]! += factor * z[t * k + c]!;
  }
}

/** An orthonormal basis of the columns of y [n, k], as [n, k]; directions without content become zero columns. */
function orthonormal(y: Float64Array, n: number, k: number): Float64Array {
  const columns = columnsOf(y, n, k);
  for (const [j, column] of columns.entries()) {
    const before = Math.sqrt(dot(column, column));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of columns.slice(0, j)) {
        const share = dot(other, column);
        for (let i = 0; i < n; i++) column[i]! -= share * other[i]!;
      }
    }
    const norm = Math.sqrt(dot(column, column));
    const scale = norm > 1e-12 * before ? 1 / norm : 0;
    for (let i = 0; i < n; i++) column[i]! *= scale;
  }
  for (let j = 0; j < k; j++) for (let i = 0; i < n; i++) y[i * k + j] = columns[j]![i]!;
  return y;
}

function columnsOf(y: Float64Array, n: number, k: number): Columns {
  return Array.from({ length: k }, (_, j) => Float64Array.from({ length: n }, (_, i) => y[i * k + j]!));
}
