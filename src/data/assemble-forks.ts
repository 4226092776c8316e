// Samples that fork (a prompt and completions of it) as a batch whose completions are scored one by one. Shared, a
// prompt's tokens pass the model once: its completions lie behind it, [P C R], with positions that go on from the prompt,
// and attention alone sees [P C] and [P R]. Unshared, as models need whose layers walk along a sequence, each completion
// lies behind a prompt of its own. Both equal the sequences run apart.

import { invariant } from "../util/errors.ts";
import type { Batch, PrefixSharing, ScoredRun } from "./assemble.ts";
import type { Sample } from "./render.ts";

export interface ForkLayout {
  /** A prompt's tokens pass the model once for all of its completions where no sequence is longer than this. */
  readonly sharedUpTo: number;
  /** The prompt's tokens are targets too. */
  readonly scoresPrompts?: boolean;
}

/** Tokens that a sample takes in a batch. */
export function packedLength(sample: Sample, sharedUpTo: number): number {
  const { ids, fork } = sample;
  if (!fork || longestSequence(sample) <= sharedUpTo) return ids.length;
  return ids.length + (fork.completions.length - 1) * fork.prompt;
}

/** Tokens of the longest sequence of a sample. */
export function longestSequence({ ids, fork }: Sample): number {
  return fork ? fork.prompt + Math.max(...fork.completions) : ids.length;
}

export function assembleForks(samples: readonly Sample[], layout: ForkLayout): Batch {
  const packing = new Packing();
  for (const sample of samples) packing.add(sample, layout);
  const { ids, tokens, copies, firstRows, runs, rows, targets } = packing;
  const shares = copies.length > 0;
  const sharing: PrefixSharing = {
    tokens: Int32Array.from(tokens),
    firstRows: Int32Array.from(firstRows),
    copies,
    spans: packing.spans,
  };
  return {
    ids: Int32Array.from(ids),
    targets: new Int32Array(0),
    segments: Int32Array.from(packing.segments),
    maxLength: packing.maxLength,
    targetTokens: targets.length,
    rowIds: samples.map(({ rowId }) => rowId),
    scored: { samples, rows: Int32Array.from(rows), targets: Int32Array.from(targets), runs },
    ...(shares ? { sharing } : {}),
  };
}

class Packing {
  readonly ids: number[] = [];
  /** Rows of attention; where nothing is shared they are the tokens. */
  readonly tokens: number[] = [];
  readonly firstRows: number[] = [];
  readonly copies: { at: number; token: number; count: number }[] = [];
  readonly spans: { start: number; count: number; length: number }[] = [];
  readonly segments: number[] = [];
  readonly runs: ScoredRun[] = [];
  readonly rows: number[] = [];
  readonly targets: number[] = [];
  maxLength = 0;
  private samples = 0;

  add(sample: Sample, { sharedUpTo, scoresPrompts }: ForkLayout): void {
    const { fork } = sample;
    invariant(
      fork && fork.prompt > 0 && fork.completions.length > 0,
      "a sample without completions of a prompt",
    );
    const total = fork.completions.reduce((sum, count) => sum + count, fork.prompt);
    invariant(
      total === sample.ids.length && sample.targetMask.length === total,
      "a fork's lengths must add up",
    );
    const index = this.samples++;
    const longest = longestSequence(sample);
    const sharesPrompts = longest <= sharedUpTo;
    let prompt = this.ids.length;
    let from = fork.prompt;
    for (const [completion, count] of fork.completions.entries()) {
      const segmentStart = this.tokens.length;
      const length = fork.prompt + count;
      if (completion > 0 && sharesPrompts) {
        this.copies.push({ at: this.tokens.length, token: prompt, count: fork.prompt });
        for (let i = 0; i < fork.prompt; i++) this.tokens.push(prompt + i);
      } else {
        prompt = this.ids.length;
        this.take(sample, 0, fork.prompt, { start: 0, length: sharesPrompts ? longest : length });
        if (completion === 0 && scoresPrompts)
          this.score(sample, index, "prompt", {
            from: 1,
            to: fork.prompt,
            before: prompt,
            first: prompt + 1,
          });
      }
      const own = this.ids.length;
      this.take(sample, from, from + count, { start: fork.prompt, length });
      // The first is predicted at the prompt's end.
      const places = { from, to: from + count, before: prompt + fork.prompt - 1, first: own };
      this.score(sample, index, completion, places);
      this.segments.push(segmentStart, length, segmentStart, length);
      this.maxLength = Math.max(this.maxLength, length);
      from += count;
    }
  }

  private take(
    sample: Sample,
    from: number,
    to: number,
    { start, length }: { readonly start: number; readonly length: number },
  ): void {
    for (let i = from; i < to; i++) {
      this.firstRows.push(this.tokens.length);
      this.tokens.push(this.ids.length);
      this.ids.push(sample.ids[i]!);
    }
    this.spans.push({ start, count: to - from, length });
  }

  /** Targets among tokens [from, to) of the sample: the first stands behind token `before`, the rest from `first` on. */
  private score(
    { ids, targetMask }: Sample,
    sample: number,
    completion: ScoredRun["completion"],
    { from, to, before, first }: { from: number; to: number; before: number; first: number },
  ): void {
    const start = this.targets.length;
    for (let i = from; i < to; i++) {
      if (completion !== "prompt" && targetMask[i] !== 1) continue;
      this.rows.push(i === from ? before : first + (i - from) - 1);
      this.targets.push(ids[i]!);
    }
    this.runs.push({ sample, completion, start, end: this.targets.length });
  }
}
