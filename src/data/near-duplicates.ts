// Samples that say nearly the same: at least NEAR_SHARE of the runs of NEAR_GRAM words that either has are in both (Jaccard).
// Words are tokens without case, spaces, punctuation and markup; runs that many samples share, such as a system prompt,
// count for nothing. No pair below that share is found, and all above it but among rows of one mould by the thousand: two
// sets that overlap so much must share several of the first of their runs, rarest first (prefix filtering: Chaudhuri et al.
// 2006; of several: Wang et al. 2012), so that only samples that do are compared. Equal samples: distinct-samples.ts.

import type { Tokenizer } from "../text/tokenizer.ts";
import type { Samples } from "./samples.ts";

export const NEAR_SHARE = 0.7;
export const NEAR_GRAM = 3;

/** A run of words that more of the samples looked at have than this is no sample's own. */
const commonShare = 0.02;
/** Of few samples, a run is common only when more than so many have it, or nearly all. */
const commonCount = 20;
const nearlyAll = 0.9;
const fewest = 4;
/** Samples by which it is decided which runs are common. */
const sampledForCounts = 4096;
/** Runs that two sets must share among their first ones, where they have so many: more of them, fewer comparisons. */
const sharedFirst = 4;
/** Places of its runs in others that are looked up for one sample at most, and samples that it is compared with. */
const lookedUpCap = 20_000;
const comparedCap = 400;

/** What a sample says, as numbers in ascending order, rarest runs first. */
export type Runs = Float64Array;

export class RunReader {
  private readonly words = new Map<string, number>();
  private readonly wordOf: Int32Array;
  /** How many samples have a run, by some of its bits: a little too many for a few, which changes no pair. */
  private readonly counts = new Uint16Array(COUNTERS);
  private readonly scratch: number[] = [];
  /** Above this a run is common. */
  private readonly most: number;

  /** `samples`: those by which runs are rare or common. */
  constructor(
    private readonly tokenizer: Tokenizer,
    samples: Samples,
  ) {
    this.wordOf = new Int32Array(tokenizer.vocabSize).fill(UNSEEN);
    const looked = Math.min(samples.length, sampledForCounts);
    for (let i = 0; i < looked; i++) {
      const { ids } = samples.at(Math.floor((i * samples.length) / looked))!;
      for (const run of new Set(this.hashes(ids))) this.counts[run & (COUNTERS - 1)]!++;
    }
    this.most = Math.max(commonCount, commonShare * looked);
    if (looked >= fewest) this.most = Math.min(this.most, nearlyAll * looked);
  }

  read(ids: Int32Array): Runs {
    const keys = new Float64Array(Math.max(1, ids.length));
    let count = 0;
    for (const run of this.hashes(ids)) {
      const seen = this.counts[run & (COUNTERS - 1)]!;
      if (seen <= this.most) keys[count++] = seen * 2 ** 32 + run;
    }
    const sorted = keys.subarray(0, count).sort();
    let distinct = 0;
    for (let i = 0; i < count; i++)
      if (i === 0 || sorted[i] !== sorted[i - 1]) sorted[distinct++] = sorted[i]!;
    return sorted.slice(0, distinct);
  }

  /** Hashes of a sample's runs, in no order; valid until the next call. */
  hashes(ids: Int32Array): readonly number[] {
    const { scratch } = this;
    scratch.length = 0;
    let words = 0;
    let [two, one] = [0, 0];
    for (const id of ids) {
      const word = this.word(id);
      if (word < 0) continue;
      words++;
      if (words >= NEAR_GRAM) scratch.push(mixed(two, one, word));
      two = one;
      one = word;
    }
    if (words > 0 && words < NEAR_GRAM) scratch.push(mixed(0, two, one));
    return scratch;
  }

  private word(id: number): number {
    const known = this.wordOf[id];
    if (known !== undefined && known !== UNSEEN) return known;
    const text = this.tokenizer.isAdded(id) ? "" : (this.tokenizer.tokenOf(id) ?? "");
    const bare = text.replace(/[\u0120\u2581\u010a\u0109]/g, "").toLowerCase();
    let word = NO_WORD;
    if (/[\p{L}\p{N}]/u.test(bare)) {
      word = this.words.get(bare) ?? this.words.size + 1;
      this.words.set(bare, word);
    }
    this.wordOf[id] = word;
    return word;
  }
}

const COUNTERS = 2 ** 22;
const UNSEEN = -2;
const NO_WORD = -1;

function mixed(a: number, b: number, c: number): number {
  let hash = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b);
  hash = Math.imul((hash ^ (hash >>> 15)) + b, 0xc2b2ae35);
  hash = Math.imul((hash ^ (hash >>> 13)) + c, 0x27d4eb2f);
  return (hash ^ (hash >>> 16)) >>> 0;
}

const FILTER_BYTES = 2 ** 21;

/** Samples by the first of their runs. */
export class NearIndex {
  private readonly owners = new Map<number, number[]>();
  private readonly sizes: number[] = [];
  private readonly ids: number[] = [];
  /** How many runs each sample shares with the one that is looked for now. */
  private shared = new Uint16Array(1024);
  /** Which runs, by some of their bits, any of the first ones is. */
  private readonly filter = new Uint8Array(FILTER_BYTES);

  /** `runsOf` gives the runs of one that was added, by the number it was added with. */
  constructor(private readonly runsOf: (id: number) => Runs) {}

  add(id: number, runs: Runs): void {
    if (runs.length === 0) return;
    const owner = this.sizes.push(runs.length) - 1;
    this.ids.push(id);
    if (owner >= this.shared.length) this.shared = new Uint16Array(2 * this.shared.length);
    for (const run of runs.subarray(0, prefixOf(runs.length))) {
      const there = this.owners.get(run);
      if (there === undefined) this.owners.set(run, [owner]);
      else there.push(owner);
      this.filter[(run >>> 3) & (FILTER_BYTES - 1)]! |= 1 << (run & 7);
    }
  }

  /** Whether any of these hashes may be among the first runs of a sample; false means that none is near. */
  mayHold(hashes: readonly number[]): boolean {
    return hashes.some((run) => (this.filter[(run >>> 3) & (FILTER_BYTES - 1)]! & (1 << (run & 7))) !== 0);
  }

  /** Those near to these runs, by their numbers; the first that is found alone where one is enough. */
  near(runs: Runs, one = false): number[] {
    const { shared } = this;
    const met: number[] = [];
    let lookedUp = 0;
    for (const run of runs.subarray(0, prefixOf(runs.length))) {
      const there = this.owners.get(run);
      if (there === undefined) continue;
      lookedUp += there.length;
      if (lookedUp > lookedUpCap) break;
      for (const owner of there) if (shared[owner]!++ === 0) met.push(owner);
    }
    const found: number[] = [];
    let compared = 0;
    for (const owner of met) {
      const both = shared[owner]!;
      shared[owner] = 0;
      if ((one && found.length > 0) || compared === comparedCap) continue;
      const other = this.sizes[owner]!;
      const [less, more] = runs.length < other ? [runs.length, other] : [other, runs.length];
      if (less < NEAR_SHARE * more || both < Math.min(sharedFirst, least(more))) continue;
      compared++;
      const id = this.ids[owner]!;
      if (shareOf(runs, this.runsOf(id)) >= NEAR_SHARE) found.push(id);
    }
    return found;
  }
}

/** Runs that a set of this size shares with one it is near to, at least. */
function least(size: number): number {
  return Math.ceil(NEAR_SHARE * size - 1e-9);
}

/** Sets that are near share `sharedFirst` runs, or all that they share, among so many first ones of each. */
function prefixOf(size: number): number {
  return Math.min(size, size - least(size) + sharedFirst);
}

/** Of what either has, the part that both have. */
export function shareOf(a: Runs, b: Runs): number {
  let both = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      both++;
      i++;
      j++;
    } else if (a[i]! < b[j]!) i++;
    else j++;
  }
  return both / (a.length + b.length - both);
}

export interface NearPair {
  readonly sample: number;
  readonly earlier: number;
}

/** Samples that are near an earlier one that is not itself near one before it, with the first such. */
export function nearDuplicates(samples: Samples, tokenizer: Tokenizer): NearPair[] {
  const reader = new RunReader(tokenizer, samples);
  const index = new NearIndex((id) => reader.read(samples.at(id)!.ids));
  const pairs: NearPair[] = [];
  let sample = 0;
  for (const { ids } of samples) {
    const runs = reader.read(ids);
    const [earlier] = index.near(runs, true);
    if (earlier === undefined) index.add(sample, runs);
    else pairs.push({ sample, earlier });
    sample++;
  }
  return pairs;
}

/** Evaluation samples that are near a training sample, with the first such. */
export function nearTraining(train: Samples, evaluation: Samples, tokenizer: Tokenizer): NearPair[] {
  const reader = new RunReader(tokenizer, train);
  const index = new NearIndex((id) => reader.read(evaluation.at(id)!.ids));
  let number = 0;
  for (const { ids } of evaluation) index.add(number++, reader.read(ids));
  const found = new Map<number, number>();
  let place = 0;
  for (const { ids } of train) {
    // Nearly all of a large set has nothing to do with any.
    if (index.mayHold(reader.hashes(ids))) {
      for (const sample of index.near(reader.read(ids))) if (!found.has(sample)) found.set(sample, place);
    }
    place++;
  }
  return [...found].sort(([a], [b]) => a - b).map(([sample, earlier]) => ({ sample, earlier }));
}
