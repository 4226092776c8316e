// The leading singular triplets of a weight on the device, of any kind of matrix: a randomized range finder whose products
// run there, a few rows at a time, with the small algebra on the host in double. Exact, but for rounding, where a side is
// short; else as exact as a few subspace iterations are. Source: Halko, Martinsson, Tropp 2011, "Finding structure with
// randomness". Not here: spectra of updates on the host (plan/).

import type { Backend, Matrix } from "../backend/backend.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";
import type { Random } from "../util/rng.ts";

/** More directions than are wanted: the last of a subspace are the least certain. */
const oversampling = 16;
/** A side of at most this many is decomposed whole. */
const exactSide = 128;
const iterations = 4;
const sweeps = 30;

export interface Triplets {
  /** Descending, [count]. */
  readonly values: Float64Array;
  /** [count][out] and [count][in], each of norm 1, or zeros where the value is. */
  readonly left: readonly Float64Array[];
  readonly right: readonly Float64Array[];
}

/** The `count` largest singular values of a weight [out, in] with their vectors. */
export async function leadingTriplets(
  backend: Backend,
  weight: Matrix,
  count: number,
  random: Random,
): Promise<Triplets> {
  const [outputs, inputs] = weight.shape as [number, number];
  const side = Math.min(outputs, inputs);
  const directions = side <= exactSide ? side : Math.min(side, count + oversampling);
  const forward = product(backend, [directions, inputs], [directions, outputs], (x, y) =>
    backend.linear(x, [{ weight, y }]),
  );
  const back = product(backend, [directions, outputs], [directions, inputs], (dy, dx) =>
    backend.linearBackward(undefined, [{ weight, dy }], dx, false),
  );
  let right: Float64Array[] = Array.from({ length: directions }, () =>
    Float64Array.from({ length: inputs }, () => random.nextNormal()),
  );
  orthonormalize(right);
  for (let i = 0; i < iterations; i++) {
    const left = await forward(right);
    orthonormalize(left);
    right = await back(left);
    orthonormalize(right);
  }
  const images = await forward(right);
  // W V = images, so the eigenvectors of their products turn V and the images into singular vectors.
  const gram = images.map((one) => Float64Array.from(images, (other) => dot(one, other)));
  const turned = eigenvectors(gram);
  const found = turned
    .map((turn) => ({ left: combine(turn, images), right: combine(turn, right) }))
    .map((pair) => ({ ...pair, value: Math.sqrt(dot(pair.left, pair.left)) }))
    .sort((one, other) => other.value - one.value)
    .slice(0, count);
  for (const { left, value } of found)
    for (let i = 0; i < left.length; i++) left[i] = value > 0 ? left[i]! / value : 0;
  return {
    values: Float64Array.from(found, ({ value }) => value),
    left: found.map(({ left }) => left),
    right: found.map((pair) => pair.right),
  };
}

/** A product on the device as a function of rows on the host. */
function product(
  backend: Backend,
  from: readonly [number, number],
  to: readonly [number, number],
  run: (x: ReturnType<typeof viewOf>, y: ReturnType<typeof viewOf>) => void,
): (rows: readonly Float64Array[]) => Promise<Float64Array[]> {
  const dtype = backend.floatType;
  return async (given) => {
    const [x, y] = [from, to].map((shape) =>
      viewOf(backend.allocate(tensorBytes(shape, dtype), "workspace"), shape, dtype),
    ) as [ReturnType<typeof viewOf>, ReturnType<typeof viewOf>];
    try {
      const flat = new Float32Array(from[0] * from[1]);
      for (const [i, row] of given.entries()) flat.set(row, i * from[1]);
      backend.write(x.buffer, encodeFrom(flat, dtype));
      run(x, y);
      const values = decodeToF32(await backend.read(y.buffer, 0, tensorBytes(to, dtype)), dtype);
      return given.map((_, i) => Float64Array.from(values.subarray(i * to[1], (i + 1) * to[1])));
    } finally {
      backend.free(x.buffer);
      backend.free(y.buffer);
    }
  };
}

/** Makes the rows orthonormal in place; rows without content of their own become zeros. */
function orthonormalize(rows: readonly Float64Array[]): void {
  for (const [j, row] of rows.entries()) {
    const before = Math.sqrt(dot(row, row));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of rows.slice(0, j)) {
        const share = dot(other, row);
        for (let i = 0; i < row.length; i++) row[i]! -= share * other[i]!;
      }
    }
    const norm = Math.sqrt(dot(row, row));
    const factor = norm > 1e-12 * before ? 1 / norm : 0;
    for (let i = 0; i < row.length; i++) row[i]! *= factor;
  }
}

/** Eigenvectors of a symmetric matrix, which is spent, by cyclic Jacobi rotations. */
function eigenvectors(matrix: readonly Float64Array[]): Float64Array[] {
  const n = matrix.length;
  const vectors = Array.from({ length: n }, (_, i) =>
    Float64Array.from({ length: n }, (__, j) => +(i === j)),
  );
  const scale = matrix.reduce((sum, row, i) => sum + row[i]! ** 2, 0);
  for (let sweep = 0; sweep < sweeps; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += matrix[p]![q]! ** 2;
    if (off <= 1e-30 * scale) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const between = matrix[p]![q]!;
        if (between === 0) continue;
        const theta = (matrix[q]![q]! - matrix[p]![p]!) / (2 * between);
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (const row of matrix) rotate(row, p, q, c, s);
        rotateRows(matrix[p]!, matrix[q]!, c, s);
        rotateRows(vectors[p]!, vectors[q]!, c, s);
      }
    }
  }
  return vectors;
}

function rotate(row: Float64Array, p: number, q: number, c: number, s: number): void {
  const [x, y] = [row[p]!, row[q]!];
  row[p] = c * x - s * y;
  row[q] = s * x + c * y;
}

function rotateRows(p: Float64Array, q: Float64Array, c: number, s: number): void {
  for (let i = 0; i < p.length; i++) {
    const [x, y] = [p[i]!, q[i]!];
    p[i] = c * x - s * y;
    q[i] = s * x + c * y;
  }
}

function combine(weights: Float64Array, rows: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array(rows[0]!.length);
  for (const [k, row] of rows.entries())
    for (let i = 0; i < sum.length; i++) sum[i]! += weights[k]! * row[i]!;
  return sum;
}

function dot(one: Float64Array, other: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += one[i]! * other[i]!;
  return sum;
}
