// Singular values in f64, without singular vectors: one-sided Jacobi for small matrices, Householder QR to make tall
// ones small, and the eigenvalues of the Gram matrix for sides up to a few thousand. Plain loops, no dependency.
// What they are for: spectrum.ts. Larger matrices: randomized-singular-values.ts.
//
// A matrix is a list of columns. Accuracy: Jacobi is relative; the Gram matrix squares, so its singular values carry an
// absolute error of about 1e-8 of the largest, below the rounding of f32 weights.

import { invariant } from "../util/errors.ts";

/** Columns of equal length. */
export type Columns = Float64Array[];

const MAX_SWEEPS = 60;
const MAX_QL_ITERATIONS = 60;

/** Singular values, descending, of a matrix with at least as many rows as columns. The columns are overwritten. */
export function jacobiSingularValues(columns: Columns): Float64Array {
  // Hestenes 1958: rotate pairs of columns until all are orthogonal; their lengths are then the singular values.
  const n = columns.length;
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep++) {
    let rotated = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) rotated = orthogonalize(columns[p]!, columns[q]!) || rotated;
    }
    if (!rotated) break;
  }
  return columns
    .reduce((values, column, i) => {
      values[i] = Math.sqrt(dot(column, column));
      return values;
    }, new Float64Array(n))
    .sort()
    .reverse();
}

/** Rotates two columns until they are orthogonal; false when they already are. */
function orthogonalize(x: Float64Array, y: Float64Array): boolean {
  const xx = dot(x, x);
  const yy = dot(y, y);
  const xy = dot(x, y);
  if (Math.abs(xy) <= 1e-15 * Math.sqrt(xx * yy) || xy === 0) return false;
  const zeta = (yy - xx) / (2 * xy);
  const t = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const c = 1 / Math.sqrt(1 + t * t);
  const s = c * t;
  for (let i = 0; i < x.length; i++) {
    const xi = x[i]!;
    const yi = y[i]!;
    x[i] = c * xi - s * yi;
    y[i] = s * xi + c * yi;
  }
  return true;
}

/** The n upper-triangular columns of R in the QR decomposition of a matrix with at least n rows. The columns are overwritten. */
export function triangularFactor(columns: Columns): Columns {
  const n = columns.length;
  for (let k = 0; k < n; k++) {
    const v = columns[k]!;
    const tail = v.subarray(k);
    const norm = Math.sqrt(dot(tail, tail));
    if (norm === 0) continue;
    const diagonal = v[k]! > 0 ? -norm : norm;
    const head = v[k]! - diagonal; // v = x - diagonal * e_k, away from cancellation
    v[k] = head;
    const half = -diagonal * head; // v.v / 2
    for (let j = k + 1; j < n; j++) {
      const other = columns[j]!.subarray(k);
      const factor = dot(tail, other) / half;
      for (let i = 0; i < tail.length; i++) other[i]! -= factor * tail[i]!;
    }
    v[k] = diagonal;
    v.fill(0, k + 1);
  }
  return columns.map((column) => column.slice(0, n));
}

/** Eigenvalues, ascending, of a symmetric matrix given by rows, of which only the lower triangle is read. The rows are overwritten. */
export function symmetricEigenvalues(rows: Columns): Float64Array {
  const { diagonal, offDiagonal } = tridiagonalize(rows);
  implicitQl(diagonal, offDiagonal);
  return diagonal.sort();
}

/** Householder reduction to tridiagonal form, from the last row up. offDiagonal[i] couples i and i + 1. */
function tridiagonalize(rows: Columns): { diagonal: Float64Array; offDiagonal: Float64Array } {
  const n = rows.length;
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(n);
  const w = new Float64Array(n);
  for (let k = n - 1; k > 0; k--) {
    const v = rows[k]!.subarray(0, k); // the row left of the diagonal, to be reflected onto its last element
    diagonal[k] = rows[k]![k]!;
    const norm = Math.sqrt(dot(v, v));
    const last = v[k - 1]!;
    const reflected = last > 0 ? -norm : norm;
    offDiagonal[k - 1] = reflected;
    if (norm === 0) continue;
    v[k - 1] = last - reflected;
    const half = -reflected * v[k - 1]!; // v.v / 2
    // w = A v / half, from the lower triangle alone: row i serves entries (i, j) and (j, i).
    w.fill(0, 0, k);
    for (let i = 0; i < k; i++) {
      const row = rows[i]!;
      const vi = v[i]!;
      let sum = row[i]! * vi;
      for (let j = 0; j < i; j++) {
        sum += row[j]! * v[j]!;
        w[j]! += row[j]! * vi;
      }
      w[i]! += sum;
    }
    let vw = 0;
    for (let i = 0; i < k; i++) vw += v[i]! * (w[i]! /= half);
    const shift = vw / (2 * half);
    for (let i = 0; i < k; i++) w[i]! -= shift * v[i]!;
    for (let i = 0; i < k; i++) {
      const row = rows[i]!;
      const vi = v[i]!;
      const wi = w[i]!;
      for (let j = 0; j <= i; j++) row[j]! -= vi * w[j]! + wi * v[j]!;
    }
  }
  if (n > 0) diagonal[0] = rows[0]![0]!;
  return { diagonal, offDiagonal };
}

/** Turns the diagonal of a symmetric tridiagonal matrix into its eigenvalues: QL with implicit Wilkinson shifts. */
function implicitQl(d: Float64Array, e: Float64Array): void {
  const n = d.length;
  for (let l = 0; l < n; l++) {
    for (let iteration = 0; ; iteration++) {
      let m = l; // the block l..m has no negligible coupling
      while (m < n - 1 && Math.abs(e[m]!) > Number.EPSILON * (Math.abs(d[m]!) + Math.abs(d[m + 1]!))) m++;
      if (m === l) break;
      invariant(iteration < MAX_QL_ITERATIONS, "eigenvalues: the QL iteration does not converge");
      const ratio = (d[l + 1]! - d[l]!) / (2 * e[l]!);
      const root = Math.hypot(ratio, 1);
      let g = d[m]! - d[l]! + e[l]! / (ratio + (ratio >= 0 ? root : -root));
      let s = 1;
      let c = 1;
      let p = 0;
      let i = m - 1;
      for (; i >= l; i--) {
        const f = s * e[i]!;
        const b = c * e[i]!;
        const r = Math.hypot(f, g);
        e[i + 1] = r;
        if (r === 0) {
          d[i + 1]! -= p;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1]! - p;
        const t = (d[i]! - g) * s + 2 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
      }
      if (i >= l) continue;
      d[l]! -= p;
      e[l] = g;
      e[m] = 0;
    }
  }
}

export function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}
