// Added tokens as Rust's tokenizers finds them (added_vocabulary.rs, tokenizers 0.23), in place of what
// @huggingface/tokenizers does: tokens that are not normalised first, in the text as it is; then the normalised ones, in
// each normalised stretch between. A token of whole words alone is passed over inside a word, and white space goes with
// a token that strips it. And no added token is a word of the model's own vocabulary unless it is listed there.

import type { Tokenizer as Engine } from "@huggingface/tokenizers";

/** What of the engine's inside is used here. */
interface EngineParts {
  readonly added_tokens: readonly AddedToken[];
  readonly added_tokens_map: Map<string, AddedToken>;
  readonly normalizer: ((text: string) => string) | null;
  readonly pre_tokenizer: ((text: string, options: { section_index: number }) => string[]) | null;
  readonly model: ((tokens: string[]) => string[]) & { readonly tokens_to_ids: Map<string, number> };
  encode_text(text: string | null): string[] | null;
  token_to_id(token: string): number | undefined;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
}

/** A text's added tokens and the normalised stretches between them; `first`: the stretch begins the text. */
export type AddedTokenSplitter = (
  text: string,
) => readonly (
  | { readonly id: number; readonly content: string }
  | { readonly text: string; readonly first: boolean }
)[];

/** A stretch of a text, or an added token found in it. */
type Piece = { readonly text: string; readonly start: number } | { readonly token: AddedToken };

/** Rust's \w and \s. */
const wordAtEnd = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const wordAtStart = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const space = /\p{White_Space}/u;

/**
 * Makes an engine find added tokens so, and returns what finds them. `vocabulary` is tokenizer.json's model.vocab, in either
 * of its forms.
 */
export function findAddedTokensAsRust(engine: Engine, vocabulary: unknown): AddedTokenSplitter {
  const parts = engine as unknown as EngineParts;
  const { normalizer, pre_tokenizer: preTokenizer, model, added_tokens: tokens } = parts;
  const plain = new Matcher(
    tokens.filter((token) => !token.normalized).map((token) => [token.content, token]),
  );
  const normalised = new Matcher(
    tokens
      .filter((token) => token.normalized)
      .map((token) => [normalizer ? normalizer(token.content) : token.content, token]),
  );
  const split: AddedTokenSplitter = (text) =>
    plain.split(text).flatMap((piece) => {
      if ("token" in piece) return [piece.token];
      const stretch = normalizer ? normalizer(piece.text) : piece.text;
      // What only a text's first word gets is for the beginning of the whole text.
      return normalised
        .split(stretch)
        .map((inner) =>
          "token" in inner ? inner.token : { text: inner.text, first: piece.start + inner.start === 0 },
        );
    });
  parts.encode_text = (text) => {
    if (text === null) return null;
    return split(text).flatMap((piece) => {
      if ("id" in piece) return [piece.content];
      const section_index = piece.first ? 0 : 1;
      return model(preTokenizer ? preTokenizer(piece.text, { section_index }) : [piece.text]);
    });
  };
  const ids = new Map(tokens.map((token) => [token.content, token.id]));
  // A normalised spelling may be another token of the model's own.
  for (const spelling of parts.added_tokens_map.keys())
    if (!ids.has(spelling)) parts.added_tokens_map.delete(spelling);
  const inModel = membership(vocabulary);
  for (const content of ids.keys()) if (!inModel(content)) model.tokens_to_ids.delete(content);
  parts.token_to_id = (token) => ids.get(token) ?? model.tokens_to_ids.get(token);
  return split;
}

function membership(vocabulary: unknown): (token: string) => boolean {
  if (Array.isArray(vocabulary)) {
    const listed = new Set(vocabulary.map((entry) => (Array.isArray(entry) ? entry[0] : undefined)));
    return (token) => listed.has(token);
  }
  if (typeof vocabulary !== "object" || vocabulary === null) return () => true;
  return (token) => Object.hasOwn(vocabulary, token);
}

interface Node {
  readonly next: Map<string, Node>;
  token?: AddedToken;
}

/** Finds patterns from left to right, the longest of those that begin first, none over another. */
class Matcher {
  private readonly root: Node = { next: new Map() };
  private readonly empty: boolean;
  /** Finds the next unit that a pattern begins with. */
  private readonly beginning: RegExp;

  constructor(patterns: readonly (readonly [string, AddedToken])[]) {
    for (const [pattern, token] of patterns) {
      if (pattern === "") continue;
      let node = this.root;
      for (let i = 0; i < pattern.length; i++) {
        const unit = pattern[i]!;
        let child = node.next.get(unit);
        if (!child) {
          child = { next: new Map() };
          node.next.set(unit, child);
        }
        node = child;
      }
      node.token ??= token;
    }
    this.empty = this.root.next.size === 0;
    const units = [...this.root.next.keys()].map((unit) => escapedUnit(unit));
    this.beginning = new RegExp(`[${units.join("")}]`, "g");
  }

  /** The text as tokens and the stretches between; no stretch is empty. */
  split(text: string): Piece[] {
    if (text === "") return [];
    if (this.empty) return [{ text, start: 0 }];
    const pieces: Piece[] = [];
    let done = 0;
    for (let at = 0; at < text.length; ) {
      this.beginning.lastIndex = at;
      const next = this.beginning.exec(text);
      if (!next) break;
      at = next.index;
      const found = this.longestAt(text, at);
      if (!found) {
        at++;
        continue;
      }
      const { token, end } = found;
      let [start, stop] = [at, end];
      at = end;
      if (token.single_word && insideWord(text, start, stop)) continue;
      if (token.lstrip) {
        while (start > done && space.test(text[start - 1]!)) start--;
      }
      if (token.rstrip) while (stop < text.length && space.test(text[stop]!)) stop++;
      if (done < start) pieces.push({ text: text.slice(done, start), start: done });
      pieces.push({ token });
      done = stop;
    }
    if (done < text.length) pieces.push({ text: text.slice(done), start: done });
    return pieces;
  }

  private longestAt(text: string, at: number): { token: AddedToken; end: number } | undefined {
    let node: Node | undefined = this.root;
    let found: { token: AddedToken; end: number } | undefined;
    for (let i = at; i < text.length; i++) {
      node = node.next.get(text[i]!);
      if (!node) break;
      if (node.token) found = { token: node.token, end: i + 1 };
    }
    return found;
  }
}

function escapedUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function insideWord(text: string, start: number, stop: number): boolean {
  // One code point is enough to look at, and it may be two units.
  return (
    wordAtEnd.test(text.slice(Math.max(0, start - 2), start)) || wordAtStart.test(text.slice(stop, stop + 2))
  );
}
