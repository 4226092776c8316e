// How many directions a weight update really has: its singular values, the ranks that hold 90, 95 and 99% of its energy
// (the sum of their squares), and a proposal of LoRA ranks module by module. Updates come as a full difference
// tuned - base or as an adapter's product B A. The algebra: singular-values.ts.

import { BugError, UserError } from "../util/errors.ts";
import { leadingSingularValues } from "./randomized-singular-values.ts";
import {
  type Columns,
  jacobiSingularValues,
  symmetricEigenvalues,
  triangularFactor,
} from "./singular-values.ts";

export const energyShares = [0.9, 0.95, 0.99] as const;
export type EnergyShare = (typeof energyShares)[number];

export interface Spectrum {
  /** Descending. All of them, or the leading ones when `complete` is false. */
  readonly singularValues: Float64Array;
  readonly complete: boolean;
  /** Sum of the squares of all singular values, also of those not listed. */
  readonly energy: number;
  /** Smallest rank that holds each share of the energy; undefined when more values are needed than are listed. */
  readonly ranks: Readonly<Record<EnergyShare, number | undefined>>;
  /** Singular values above what f32 rounding leaves, as numpy.linalg.matrix_rank counts for f32. */
  readonly numericalRank: number;
  /** exp of the entropy of the shares sigma / sum(sigma): a rank that needs no threshold. Source: Roy & Vetterli 2007. */
  readonly effectiveRank: number;
}

export interface SpectrumOptions {
  /** Longest smaller side that is decomposed exactly (time grows with its cube); above it, a randomized method. */
  readonly exactUpTo?: number;
  /** Leading values that the randomized method finds. */
  readonly leading?: number;
  readonly seed?: number;
}

const EXACT_UP_TO = 2048;
const LEADING = 128;
/** Below this, QR and Jacobi are affordable and more accurate than the Gram matrix. */
const JACOBI_UP_TO = 128;
const F32_EPSILON = 2 ** -23;

/** Spectrum of a matrix [rows, cols], row-major. Memory beyond it: the square of the smaller side in f64, and one f32 copy. */
export function spectrumOfMatrix(
  values: Float32Array,
  rows: number,
  cols: number,
  { exactUpTo = EXACT_UP_TO, leading = LEADING, seed = 0 }: SpectrumOptions = {},
): Spectrum {
  if (values.length !== rows * cols)
    throw new BugError(`spectrum: ${values.length} values for [${rows}, ${cols}]`);
  let energy = 0;
  for (const value of values) energy += value * value;
  if (!Number.isFinite(energy)) throw new UserError("spectrum: the update holds NaN or infinite values");
  const side = Math.min(rows, cols);
  if (side > exactUpTo) {
    const found = leadingSingularValues(values, rows, cols, leading, seed);
    return summarize(found, found.length === side, energy, Math.max(rows, cols));
  }
  // The vectors of the smaller side, each along the larger one.
  const vectors = rows <= cols ? values : transposed(values, rows, cols);
  const length = Math.max(rows, cols);
  const found =
    side <= JACOBI_UP_TO
      ? jacobiSingularValues(triangularFactor(vectorsToColumns(vectors, side, length)))
      : symmetricEigenvalues(gram(vectors, side, length))
          .reverse()
          .map((eigenvalue) => Math.sqrt(Math.max(eigenvalue, 0)));
  return summarize(found, true, energy, length);
}

/** Spectrum of scale * B A, with B [outputs, rank] and A [rank, inputs] row-major, never forming the product. */
export function spectrumOfAdapter(
  b: Float32Array,
  a: Float32Array,
  outputs: number,
  rank: number,
  inputs: number,
  scale = 1,
): Spectrum {
  if (b.length !== outputs * rank || a.length !== rank * inputs) {
    throw new BugError(
      `spectrum: B has ${b.length} and A ${a.length} values for [${outputs}, ${rank}, ${inputs}]`,
    );
  }
  // B = Q1 R1 and A^T = Q2 R2, so B A = Q1 (R1 R2^T) Q2^T and only the small middle matters.
  const r1 = triangular(vectorsToColumns(transposed(b, outputs, rank), rank, outputs), rank);
  const r2 = triangular(vectorsToColumns(a, rank, inputs), rank);
  const size = r1[0]?.length ?? 0;
  const middle = Array.from({ length: r2[0]?.length ?? 0 }, (_, j) => {
    const column = new Float64Array(size);
    for (let k = 0; k < rank; k++) {
      const factor = scale * r2[k]![j]!;
      for (let i = 0; i < size; i++) column[i]! += r1[k]![i]! * factor;
    }
    return column;
  });
  const found = jacobiSingularValues(middle);
  let energy = 0;
  for (const value of found) energy += value * value;
  if (!Number.isFinite(energy)) throw new UserError("spectrum: the adapter holds NaN or infinite values");
  return summarize(found, true, energy, Math.max(outputs, inputs));
}

/** R of the columns, squared up with zero rows when there are fewer rows than columns. */
function triangular(columns: Columns, rank: number): Columns {
  const rows = columns[0]?.length ?? 0;
  if (rows >= rank) return triangularFactor(columns);
  return columns.map((column) => {
    const padded = new Float64Array(rank);
    padded.set(column);
    return padded;
  });
}

function summarize(
  singularValues: Float64Array,
  complete: boolean,
  energy: number,
  longerSide: number,
): Spectrum {
  const floor = (singularValues[0] ?? 0) * longerSide * F32_EPSILON;
  return {
    singularValues,
    complete,
    energy,
    ranks: {
      0.9: rankFor(singularValues, energy, 0.9),
      0.95: rankFor(singularValues, energy, 0.95),
      0.99: rankFor(singularValues, energy, 0.99),
    },
    numericalRank: singularValues.findLastIndex((value) => value > floor) + 1,
    effectiveRank: effectiveRankOf(singularValues),
  };
}

/** The smallest number of leading values whose squares hold `share` of the energy; 0 for a zero update. */
export function rankFor(singularValues: Float64Array, energy: number, share: number): number | undefined {
  if (energy === 0) return 0;
  let held = 0;
  for (const [i, value] of singularValues.entries()) {
    held += value * value;
    if (held >= share * energy) return i + 1;
  }
  return undefined;
}

function effectiveRankOf(singularValues: Float64Array): number {
  let sum = 0;
  for (const value of singularValues) sum += value;
  if (sum === 0) return 0;
  let entropy = 0;
  for (const value of singularValues) if (value > 0) entropy -= (value / sum) * Math.log(value / sum);
  return Math.exp(entropy);
}

/** Ranks for a new LoRA run: `rank` for most modules, `rankPattern` (PEFT's rank_pattern) for the others. */
export interface RankProposal {
  readonly rank: number;
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Modules whose update needs more than the largest rank allowed. */
  readonly capped: readonly string[];
}

/** The rank of each module that holds `share` of its update's energy, at least 1 and at most `maximum`. */
export function proposeRanks(
  modules: readonly { readonly name: string; readonly spectrum: Spectrum }[],
  share = 0.95,
  maximum = 64,
): RankProposal {
  if (!(share > 0 && share < 1))
    throw new UserError(`energy share ${share}: expected a number between 0 and 1`);
  if (modules.length === 0) throw new UserError("rank proposal: there are no modules");
  const capped: string[] = [];
  const ranks = modules.map(({ name, spectrum }) => {
    const needed = rankFor(spectrum.singularValues, spectrum.energy, share);
    if (needed === undefined || needed > maximum) capped.push(name);
    return Math.max(1, Math.min(needed ?? maximum, maximum));
  });
  const frequency = new Map<number, number>();
  for (const rank of ranks) frequency.set(rank, (frequency.get(rank) ?? 0) + 1);
  // The most frequent rank makes the shortest pattern; of equally frequent ones, the smallest.
  const [rank] = [...frequency].sort(([r1, f1], [r2, f2]) => f2 - f1 || r1 - r2)[0]!;
  const rankPattern: Record<string, number> = {};
  for (const [i, { name }] of modules.entries()) if (ranks[i] !== rank) rankPattern[name] = ranks[i]!;
  return { rank, rankPattern, capped };
}

function transposed(values: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[j * rows + i] = values[i * cols + j]!;
  return out;
}

function vectorsToColumns(vectors: Float32Array, count: number, length: number): Columns {
  return Array.from({ length: count }, (_, i) =>
    Float64Array.from(vectors.subarray(i * length, (i + 1) * length)),
  );
}

/** Lower triangle, by rows, of the products of `count` vectors with each other. Two by two vectors a pass. */
function gram(vectors: Float32Array, count: number, length: number): Columns {
  const rows = Array.from({ length: count }, (_, i) => new Float64Array(i + 1));
  for (let i = 0; i < count; i += 2) {
    const second = Math.min(i + 1, count - 1);
    const x0 = vectors.subarray(i * length, (i + 1) * length);
    const x1 = vectors.subarray(second * length, (second + 1) * length);
    for (let j = 0; j <= second; j += 2) {
      const next = Math.min(j + 1, count - 1);
      const y0 = vectors.subarray(j * length, (j + 1) * length);
      const y1 = vectors.subarray(next * length, (next + 1) * length);
      let s00 = 0;
      let s01 = 0;
      let s10 = 0;
      let s11 = 0;
      for (let t = 0; t < length; t++) {
        const a0 = x0[t]!;
        const a1 = x1[t]!;
        const b0 = y0[t]!;
        const b1 = y1[t]!;
        s00 += a0 * b0;
        s01 += a0 * b1;
        s10 += a1 * b0;
        s11 += a1 * b1;
      }
      rows[second]![j] = s10;
      if (next <= second) rows[second]![next] = s11;
      if (j <= i) rows[i]![j] = s00;
      if (next <= i) rows[i]![next] = s01;
    }
  }
  return rows;
}
