// Text to ids without a string for every token: stretches between added tokens are cut into words (word-splitter.ts), and
// a word's ids are computed once (bpe-merges.ts) and remembered. Ids are those of Rust's tokenizers on every text. Models
// other than byte-pair encoding, and pre-tokenizers that are not known here, are left to the library (tokenizer.ts).

import type { AddedTokenSplitter } from "./added-tokens.ts";
import { type BpeMerges, type BpeModel, readMerges } from "./bpe-merges.ts";
import { type LibraryPreTokenizer, type WordSplitter, wordSplitter } from "./word-splitter.ts";

/** Words that are remembered; all are forgotten when there are more. */
const REMEMBERED_WORDS = 2 ** 17;
/** Longer ones seldom come again. */
const REMEMBERED_LENGTH = 128;
/** V8 copies shorter slices; a longer one would hold the whole text that it was cut from. */
const COPIED_LENGTH = 13;

export class FastEncoder {
  private readonly known = new Map<string, number | readonly number[]>();
  private readonly utf8 = new TextEncoder();
  /** Id of each byte's letter, or of <0x..>; -1 where there is none. */
  private readonly bytes: Int32Array;
  private readonly unknown: number | undefined;

  constructor(
    private readonly model: BpeModel,
    private readonly merges: BpeMerges,
    private readonly words: WordSplitter,
    private readonly pieces: AddedTokenSplitter,
  ) {
    const letters = byteLetters();
    const spelled = (byte: number) =>
      words.byteLevel ? letters[byte]! : `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
    this.bytes = Int32Array.from({ length: 256 }, (_, byte) => merges.ids.get(spelled(byte)) ?? -1);
    this.unknown = typeof model.unk_token === "string" ? merges.ids.get(model.unk_token) : undefined;
  }

  /** Without what the post-processor adds. */
  encode(text: string): number[] {
    const ids: number[] = [];
    const { known } = this;
    for (const piece of this.pieces(text)) {
      if ("id" in piece) {
        ids.push(piece.id);
        continue;
      }
      for (const word of this.words.split(piece.text, piece.first)) {
        const found = known.get(word) ?? this.learn(word);
        if (typeof found === "number") ids.push(found);
        else for (const id of found) ids.push(id);
      }
    }
    return ids;
  }

  private learn(word: string): number | readonly number[] {
    const ids = this.words.byteLevel ? this.encodeBytes(word) : this.encodeCharacters(word);
    const learnt = ids.length === 1 ? ids[0]! : ids;
    if (word.length > REMEMBERED_LENGTH) return learnt;
    if (this.known.size >= REMEMBERED_WORDS) this.known.clear();
    this.known.set(word.length < COPIED_LENGTH ? word : ` ${word}`.slice(1), learnt);
    return learnt;
  }

  private encodeBytes(word: string): number[] {
    const bytes = this.utf8.encode(word);
    if (this.model.ignore_merges === true) {
      const letters = byteLetters();
      let spelled = "";
      for (const byte of bytes) spelled += letters[byte];
      const whole = this.merges.ids.get(spelled);
      if (whole !== undefined) return [whole];
    }
    const symbols: number[] = [];
    let waits = false;
    for (const byte of bytes) {
      const id = this.bytes[byte]!;
      if (id >= 0) {
        if (waits) symbols.push(this.unknown!);
        waits = false;
        symbols.push(id);
      } else waits = this.meetUnknown(symbols, waits);
    }
    if (waits) symbols.push(this.unknown!);
    return this.merges.merge(symbols);
  }

  private encodeCharacters(word: string): number[] {
    const { ids } = this.merges;
    if (this.model.ignore_merges === true) {
      const whole = ids.get(word);
      if (whole !== undefined) return [whole];
    }
    const symbols: number[] = [];
    let waits = false;
    for (const character of word) {
      const id = ids.get(character);
      if (id !== undefined) {
        if (waits) symbols.push(this.unknown!);
        waits = false;
        symbols.push(id);
        continue;
      }
      if (this.model.byte_fallback === true) {
        const bytes = Array.from(this.utf8.encode(character), (byte) => this.bytes[byte]!);
        if (bytes.every((byte) => byte >= 0)) {
          symbols.push(...bytes);
          continue;
        }
      }
      waits = this.meetUnknown(symbols, waits);
    }
    if (waits) symbols.push(this.unknown!);
    return this.merges.merge(symbols);
  }

  /** The unknown token waits for what follows, and those that follow each other may be one; without one, none is left. */
  private meetUnknown(symbols: number[], waits: boolean): boolean {
    if (this.unknown === undefined) return false;
    if (waits && this.model.fuse_unk !== true) symbols.push(this.unknown);
    return true;
  }
}

/** The encoder of a tokenizer.json and the library's parts for it; undefined where the library has to encode. */
export function fastEncoder(
  json: Readonly<Record<string, unknown>>,
  library: LibraryPreTokenizer | null,
  pieces: AddedTokenSplitter,
): FastEncoder | undefined {
  const model = (json.model ?? {}) as BpeModel;
  const read = readMerges(model);
  if (read === undefined) return undefined;
  const { ids } = read.merges;
  // Where a text without words may be cut depends on the tokens that it can become, and on none of it being dropped.
  const whole = ids.has("\u2581") && typeof model.unk_token === "string" && ids.has(model.unk_token);
  const tokens = model.ignore_merges === true ? [...ids.keys()] : read.products;
  const words = wordSplitter(json.pre_tokenizer, library, whole ? tokens : undefined);
  return words && new FastEncoder(model, read.merges, words, pieces);
}

let letters: readonly string[] | undefined;

/** GPT-2's letters for bytes: printable ones stand for themselves, the others are shifted to 256 and up. */
function byteLetters(): readonly string[] {
  if (letters) return letters;
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let shifted = 256;
  letters = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : shifted++));
  return letters;
}
