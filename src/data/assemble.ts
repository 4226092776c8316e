// Samples as the flat arrays that a model takes: all sequences laid end to end, nothing padded. Segments keep
// sequences from seeing each other, and positions start anew in each, so a packed batch equals its samples run apart.
// Not here: samples whose completions are scored one by one (assemble-forks.ts).

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
  /** Where completions are scored: their targets, in place of `targets`. */
  readonly scored?: ScoredTargets;
  /** Where completions share the tokens of their prompt: `segments` are then of its rows, not of the tokens. */
  readonly sharing?: PrefixSharing;
}

/** What a batch's completions are scored by. */
export interface ScoredTargets {
  readonly samples: readonly Sample[];
  /** The token that each target is predicted at, which may be that of several; and the target. */
  readonly rows: Int32Array; // [N]
  readonly targets: Int32Array; // [N]
  /** Consecutive runs of targets: together all N. */
  readonly runs: readonly ScoredRun[];
}

/** Targets [start, end) of a completion of one of the batch's samples, or of its prompt. */
export interface ScoredRun {
  readonly sample: number;
  readonly completion: number | "prompt";
  readonly start: number;
  readonly end: number;
}

/**
 * Attention sees each completion behind a prompt of its own: E rows, of which several may be one token's. Rows
 * [copies[i].at, + count) are tokens [copies[i].token, + count) once more.
 */
export interface PrefixSharing {
  /** The token of each row. */
  readonly tokens: Int32Array; // [E]
  /** The row that a token's output is taken from: the first of it. */
  readonly firstRows: Int32Array; // [T]
  readonly copies: readonly { readonly at: number; readonly token: number; readonly count: number }[];
  /** Of tokens: the runs of consecutive positions, as they lie. */
  readonly spans: readonly { readonly start: number; readonly count: number; readonly length: number }[];
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
