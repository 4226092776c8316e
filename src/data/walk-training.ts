// One walk over the training samples for the preflight (preflight.ts): those without an end, with unknown text, equal to
// earlier ones or to evaluation samples, and what each source gives. Keeps a few samples to show and a number for each, since
// there may be more samples than memory holds.

import type { Tokenizer } from "../text/tokenizer.ts";
import { sampleHash } from "./distinct-samples.ts";
import type { MixedSource, SourceTokens } from "./mix-report.ts";
import { type Sample, targetTokensOf } from "./render.ts";
import type { Samples } from "./samples.ts";

/** How many samples there are of a kind, and the first of them. */
export interface Counted {
  readonly count: number;
  readonly shown: readonly Pick<Sample, "rowId">[];
}

const shownSamples = 5;
/** Unended samples that are looked at for what ends them instead. */
const looked = 1000;

class Count implements Counted {
  count = 0;
  readonly shown: Pick<Sample, "rowId">[] = [];

  add({ rowId }: Sample): void {
    this.count++;
    if (this.shown.length < shownSamples) this.shown.push({ rowId });
  }
}

export interface WalkedSamples {
  readonly train: Samples;
  readonly evaluation?: Samples;
  readonly sources: readonly MixedSource[];
  readonly tokenizer: Tokenizer;
}

export function walkTraining({ train, evaluation = [], sources, tokenizer }: WalkedSamples) {
  const first: Sample[] = [];
  const [unended, unknown, alike] = [new Count(), new Count(), new Count()];
  const endings = new Map<number, number>();
  const unknownId = unknownIdOf(tokenizer);
  const hashes = new Float64Array(train.length);
  const parts: SourceTokens[] = sources.map(() => ({ tokens: 0, targets: 0 }));
  let source = 0;
  let index = 0;
  for (const sample of train) {
    while (source + 1 < sources.length && sources[source + 1]!.first <= index) source++;
    hashes[index] = sampleHash(sample, true);
    if (index++ < shownSamples) first.push(sample);
    parts[source]!.tokens += sample.ids.length;
    parts[source]!.targets += targetTokensOf(sample);
    if (!ends(sample, tokenizer)) {
      unended.add(sample);
      const ending = unended.count <= looked ? lastAdded(sample, tokenizer) : undefined;
      if (ending !== undefined) endings.set(ending, (endings.get(ending) ?? 0) + 1);
    }
    if (answersEqual(sample)) alike.add(sample);
    if (unknownId !== undefined && sample.ids.includes(unknownId)) unknown.add(sample);
  }
  const { repeated, copies } = repeatedAmong(hashes);
  const copied = copies === 0 ? new Count() : copiesAmong(train, hashes, repeated, copies);
  const shared = new Count();
  const wanted = new Set<number>();
  for (const sample of evaluation) wanted.add(sampleHash(sample, true));
  const trained = new Set<number>();
  if (wanted.size > 0) for (const hash of hashes) if (wanted.has(hash)) trained.add(hash);
  const sharedAt = new Set<number>();
  if (trained.size > 0) {
    let place = 0;
    for (const sample of evaluation) {
      if (trained.has(sampleHash(sample, true))) {
        shared.add(sample);
        sharedAt.add(place);
      }
      place++;
    }
  }
  return {
    first,
    unended: unended as Counted,
    unknown: unknown as Counted,
    copies: copied as Counted,
    shared: shared as Counted,
    /** Pairs of one answer twice. */
    alike: alike as Counted,
    /** Whether a training sample equals another. */
    isCopy: (sample: number) => isAmong(repeated, hashes[sample]!),
    /** Whether an evaluation sample equals a training sample. */
    isShared: (sample: number) => sharedAt.has(sample),
    whyUnended: () => whyUnended(endings, Math.min(unended.count, looked), tokenizer),
    /** What each source has. */
    parts,
  };
}

function answersEqual({ ids, fork }: Sample): boolean {
  if (fork === undefined || fork.completions.length < 2) return false;
  const [one, other] = fork.completions as [number, number];
  if (one !== other) return false;
  for (let i = fork.prompt; i < fork.prompt + one; i++) if (ids[i] !== ids[i + one]) return false;
  return true;
}

/** The hashes that more than one sample has, in ascending order, and how many samples are not the first of theirs. */
function repeatedAmong(hashes: Float64Array): { repeated: Float64Array; copies: number } {
  const sorted = hashes.slice().sort();
  let [distinct, copies] = [0, 0];
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i] !== sorted[i - 1]) continue;
    copies++;
    // What is written lies before what is read.
    if (distinct === 0 || sorted[distinct - 1] !== sorted[i]) sorted[distinct++] = sorted[i]!;
  }
  return { repeated: sorted.slice(0, distinct), copies };
}

function isAmong(sorted: Float64Array, value: number): boolean {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return sorted[low] === value;
}

/** Names the first few. */
function copiesAmong(train: Samples, hashes: Float64Array, repeated: Float64Array, count: number): Counted {
  const copies = new Count();
  const met = new Set<number>();
  for (let i = 0; i < hashes.length && copies.shown.length < shownSamples; i++) {
    const hash = hashes[i]!;
    if (!isAmong(repeated, hash)) continue;
    if (met.has(hash)) copies.add(train.at(i)!);
    met.add(hash);
  }
  copies.count = count;
  return copies;
}

/** Whether a sample trains an end: its last target is one, or (many turns) any of its targets. */
function ends({ ids, targetMask }: Sample, { eosIds }: Tokenizer): boolean {
  for (let i = ids.length - 1; i >= 0; i--) if (targetMask[i] === 1 && eosIds.includes(ids[i]!)) return true;
  return false;
}

/** An added token among the last targets; a line break may follow it. */
function lastAdded({ ids, targetMask }: Sample, tokenizer: Tokenizer): number | undefined {
  let i = ids.length - 1;
  for (let steps = 0; i >= 0 && targetMask[i] === 1 && steps < 3; i--, steps++) {
    if (tokenizer.isAdded(ids[i]!)) return ids[i];
  }
  return undefined;
}

/** What ends these samples instead: most often a token of the chat template that the tokenizer does not call EOS. */
function whyUnended(endings: ReadonlyMap<number, number>, unended: number, tokenizer: Tokenizer): string {
  const [id, count] = [...endings].sort(([, a], [, b]) => b - a)[0] ?? [];
  if (id === undefined || count! <= unended / 2) {
    return "the chat template or the cut at --sequence-length leaves it out";
  }
  const token = JSON.stringify(tokenizer.tokenOf(id));
  return `they end with ${token}: if that ends an answer, pass --eos-token ${token}`;
}

function unknownIdOf(tokenizer: Tokenizer): number | undefined {
  const name = tokenizer.specialTokens.unk_token;
  const id = name === undefined ? undefined : tokenizer.idOf(name);
  // Some tokenizers name their end of text as the unknown token, for want of one.
  if (id === undefined || tokenizer.eosIds.includes(id) || tokenizer.prefixIds.includes(id)) return undefined;
  return id;
}
