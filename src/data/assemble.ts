// Samples as the flat arrays that a model takes: all sequences laid end to end, nothing padded. Segments keep
// sequences from seeing each other, and positions start anew in each, so a packed batch equals its samples run apart.

import { invariant } from "../util/errors.ts";
import type { Sample } from "./render.ts";
import type { RowId } from "./row.ts";

/** Marks a position whose next token is no target. */
export const NO_TARGET = -100;

/** T tokens of n sequences. */
export interface Batch {
  readonly ids: Int32Array; // [T]
  /** The id to predict at each position (the next token of its own sequence), or NO_TARGET. */
  readonly targets: Int32Array; // [T]
  /** Rows (qStart, qLength, kStart, kLength), as backend.ts's Segments. */
  readonly segments: Int32Array; // [n, 4]
  readonly maxLength: number;
  readonly targetTokens: number;
  readonly rowIds: readonly RowId[];
}

export function assemble(samples: readonly Sample[]): Batch {
  const total = samples.reduce((sum, sample) => sum + sample.ids.length, 0);
  const ids = new Int32Array(total);
  const targets = new Int32Array(total).fill(NO_TARGET);
  const segments = new Int32Array(samples.length * 4);
  let start = 0;
  let maxLength = 0;
  let targetTokens = 0;
  for (const [s, sample] of samples.entries()) {
    const length = sample.ids.length;
    invariant(
      length > 0 && sample.targetMask.length === length,
      "assemble: a sample's mask must match its ids",
    );
    ids.set(sample.ids, start);
    for (let i = 0; i < length; i++) {
      if (i + 1 < length && sample.targetMask[i + 1] === 1) {
        targets[start + i] = sample.ids[i + 1]!;
        targetTokens++;
      }
    }
    segments.set([start, length, start, length], 4 * s);
    maxLength = Math.max(maxLength, length);
    start += length;
  }
  return {
    ids,
    targets,
    segments,
    maxLength,
    targetTokens,
    rowIds: samples.map((sample) => sample.rowId),
  };
}
