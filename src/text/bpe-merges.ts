// Byte-pair encoding of one word as Rust's tokenizers computes it (models/bpe in tokenizers 0.23): symbols are ids, and of
// the pairs that may merge the one of the lowest rank does first, the leftmost of equals. Pairs lie in one hash table of
// numbers. Not here: how a text becomes words (word-splitter.ts) or words are remembered (fast-encoder.ts).

/** What of tokenizer.json's model is used. Other BPE models are the library's. */
export interface BpeModel {
  readonly type?: unknown;
  readonly vocab?: unknown;
  readonly merges?: unknown;
  readonly dropout?: unknown;
  readonly unk_token?: unknown;
  readonly continuing_subword_prefix?: unknown;
  readonly end_of_word_suffix?: unknown;
  readonly fuse_unk?: unknown;
  readonly byte_fallback?: unknown;
  readonly ignore_merges?: unknown;
}

/** Above this many symbols pairs wait in a heap; below, looking at all of them is quicker. */
const SCANNED_SYMBOLS = 40;
/** Ranks times this, plus a place in the word, is exact in a double. */
const PLACES = 2 ** 31;

/**
 * The merges of a model and the tokens that they make, or undefined where it is none that this computes, or its merges
 * name what it has not.
 */
export function readMerges(
  model: BpeModel,
): { readonly merges: BpeMerges; readonly products: readonly string[] } | undefined {
  const { vocab, merges } = model;
  // Files of the first years name no type, and one with merges is this.
  if ((model.type ?? "BPE") !== "BPE" || typeof vocab !== "object" || vocab === null || Array.isArray(vocab))
    return undefined;
  if (!Array.isArray(merges) || model.dropout || model.continuing_subword_prefix || model.end_of_word_suffix)
    return undefined;
  const ids = new Map(Object.entries(vocab as Record<string, number>));
  const pairs: [string, string][] = [];
  for (const merge of merges as unknown[]) {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2) return undefined;
    const [left, right] = pair as unknown[];
    if (typeof left !== "string" || typeof right !== "string") return undefined;
    pairs.push([left, right]);
  }
  const table = new BpeMerges(ids, pairs.length);
  const products: string[] = [];
  for (const [rank, [left, right]] of pairs.entries()) {
    const product = left + right;
    const [a, b, merged] = [ids.get(left), ids.get(right), ids.get(product)];
    if (a === undefined || b === undefined || merged === undefined) return undefined;
    table.add(a, b, rank, merged);
    products.push(product);
  }
  return { merges: table, products };
}

export class BpeMerges {
  private readonly mask: number;
  /** Four numbers a pair: left, right, rank, merged; left is -1 where there is none. */
  private readonly table: Int32Array;
  private symbols = new Int32Array(256);
  private next = new Int32Array(256);
  private previous = new Int32Array(256);

  constructor(
    /** Ids of the model's own tokens. */
    readonly ids: ReadonlyMap<string, number>,
    count: number,
  ) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(16, 2 * count)));
    this.mask = slots - 1;
    this.table = new Int32Array(4 * slots).fill(-1);
  }

  add(left: number, right: number, rank: number, merged: number): void {
    let slot = hash(left, right) & this.mask;
    while (this.table[4 * slot] !== -1) {
      // A pair that is listed twice has the rank of the last, as in Rust's map.
      if (this.table[4 * slot] === left && this.table[4 * slot + 1] === right) break;
      slot = (slot + 1) & this.mask;
    }
    this.table.set([left, right, rank, merged], 4 * slot);
  }

  /** Where the pair's row begins in the table; -1 where the two do not merge. */
  private find(left: number, right: number): number {
    const { table, mask } = this;
    let slot = hash(left, right) & mask;
    for (;;) {
      const at = 4 * slot;
      if (table[at] === -1) return -1;
      if (table[at] === left && table[at + 1] === right) return at;
      slot = (slot + 1) & mask;
    }
  }

  /** The ids that a word's symbols merge to. `word` is used up. */
  merge(word: number[]): number[] {
    if (word.length < 2) return word;
    return word.length <= SCANNED_SYMBOLS ? this.mergeShort(word) : this.mergeLong(word);
  }

  private mergeShort(word: number[]): number[] {
    const { table } = this;
    for (;;) {
      let best = -1;
      let place = -1;
      for (let i = 0; i + 1 < word.length; i++) {
        const at = this.find(word[i]!, word[i + 1]!);
        if (at >= 0 && (best < 0 || table[at + 2]! < table[best + 2]!)) {
          best = at;
          place = i;
        }
      }
      if (best < 0) return word;
      word[place] = table[best + 3]!;
      word.splice(place + 1, 1);
    }
  }

  private mergeLong(word: readonly number[]): number[] {
    const n = word.length;
    if (this.symbols.length < n) {
      const room = 2 ** Math.ceil(Math.log2(n));
      [this.symbols, this.next, this.previous] = [
        new Int32Array(room),
        new Int32Array(room),
        new Int32Array(room),
      ];
    }
    const { table, symbols, next, previous } = this;
    const heap = new NumberHeap();
    const offer = (place: number) => {
      const other = next[place]!;
      if (other >= n) return;
      const at = this.find(symbols[place]!, symbols[other]!);
      if (at >= 0) heap.push(table[at + 2]! * PLACES + place);
    };
    for (let i = 0; i < n; i++) {
      symbols[i] = word[i]!;
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    for (let i = 0; i + 1 < n; i++) offer(i);
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const rank = Math.floor(top / PLACES);
      const place = top - rank * PLACES;
      if (symbols[place] === -1) continue;
      const other = next[place]!;
      if (other >= n) continue;
      // The pair that was offered may have become another since.
      const at = this.find(symbols[place]!, symbols[other]!);
      if (at < 0 || table[at + 2] !== rank) continue;
      symbols[place] = table[at + 3]!;
      symbols[other] = -1;
      next[place] = next[other]!;
      if (next[place]! < n) previous[next[place]!] = place;
      if (previous[place]! >= 0) offer(previous[place]!);
      offer(place);
    }
    const merged: number[] = [];
    for (let i = 0; i < n; i = next[i]!) merged.push(symbols[i]!);
    return merged;
  }
}

function hash(left: number, right: number): number {
  const mixed = Math.imul(left ^ Math.imul(right, 0x9e3779b1), 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

/** The smallest of its numbers first. */
class NumberHeap {
  private readonly items: number[] = [];

  push(value: number): void {
    const { items } = this;
    let at = items.push(value) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= value) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = value;
  }

  pop(): number | undefined {
    const { items } = this;
    const first = items[0];
    const last = items.pop();
    if (first === undefined || last === undefined || items.length === 0) return first;
    let at = 0;
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return first;
  }
}
