// How tokenizer.json's pre-tokenizer cuts a stretch of text into the words that byte-pair encoding sees, without writing
// each byte as a letter, which the encoder does once a word (fast-encoder.ts). Patterns are the library's, which has
// rewritten them for JavaScript. What is not listed here is undefined, and the library tokenises.

type Json = Readonly<Record<string, unknown>>;

/** Of the library's pre-tokenizers what is used here. */
export interface LibraryPreTokenizer {
  (text: string, options: { section_index: number }): string[];
  readonly pattern?: RegExp | null;
  readonly tokenizers?: readonly (LibraryPreTokenizer | null)[];
}

export interface WordSplitter {
  /** Words are bytes, of which each is a token's letter; else they are characters. */
  readonly byteLevel: boolean;
  /** `first`: the stretch begins the text. */
  readonly split: (text: string, first: boolean) => readonly string[];
}

/** GPT-2's, with white space as Rust has it: JavaScript's \s knows U+FEFF and not U+0085. */
const gpt2Words =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Longer sequences are nobody's. */
const STEPS_CAP = 16;

/** `tokens`: all that a text can become, the space among them: where none has one inside, a text is cut before its spaces. */
export function wordSplitter(
  described: unknown,
  library: LibraryPreTokenizer | null,
  tokens: readonly string[] | undefined,
): WordSplitter | undefined {
  if (described === null || described === undefined) {
    // No merge reaches over the place before a space that follows something else.
    const words = /\u2581*[^\u2581]+|\u2581+/g;
    const cut =
      tokens && spacesOnlyLead(tokens) ? (text: string) => text.match(words) ?? [] : (text: string) => [text];
    return { byteLevel: false, split: cut };
  }
  const { type, pretokenizers } = described as Json;
  const steps = type === "Sequence" ? pretokenizers : [described];
  const made = type === "Sequence" ? library?.tokenizers : [library];
  if (!Array.isArray(steps) || steps.length === 0 || steps.length > STEPS_CAP) return undefined;
  const cuts: ((text: string, first: boolean) => readonly string[])[] = [];
  for (const [i, step] of (steps as (Json | null)[]).entries()) {
    const last = i === steps.length - 1;
    const engine = made?.[i];
    if (!step || !engine) return undefined;
    if (step.type === "ByteLevel") {
      if (!last) return undefined;
      cuts.push(byteLevelCut(step));
    } else if (step.type === "Metaspace") {
      // Where it is not alone, its words would all begin the text.
      const cut = steps.length === 1 ? metaspaceCut(step, engine) : undefined;
      if (!cut) return undefined;
      cuts.push(cut);
    } else if (step.type === "Digits") {
      const digits = step.individual_digits === true ? /\p{N}|\P{N}+/gu : /\p{N}+|\P{N}+/gu;
      cuts.push((text) => text.match(digits) ?? []);
    } else if (step.type === "Split") {
      const cut = splitCut(step, engine.pattern);
      if (!cut) return undefined;
      cuts.push(cut);
    } else return undefined;
  }
  const byteLevel = (steps.at(-1) as Json).type === "ByteLevel";
  if (cuts.length === 1) return { byteLevel, split: cuts[0]! };
  return {
    byteLevel,
    split: (text, first) =>
      cuts.reduce<readonly string[]>(
        (words, cut) =>
          words.length === 1 ? cut(words[0]!, first) : words.flatMap((word) => cut(word, first)),
        [text],
      ),
  };
}

function byteLevelCut(step: Json): (text: string) => readonly string[] {
  const spaced = (text: string) =>
    step.add_prefix_space === true && !text.startsWith(" ") ? ` ${text}` : text;
  if (step.use_regex === false) return (text) => [spaced(text)];
  return (text) => spaced(text).match(gpt2Words) ?? [];
}

/** The library puts the space before a text and knows no `split`. */
function metaspaceCut(
  step: Json,
  engine: LibraryPreTokenizer,
): ((text: string, first: boolean) => readonly string[]) | undefined {
  const whole = (text: string, first: boolean) => engine(text, { section_index: first ? 0 : 1 });
  if (step.split === false) return whole;
  if ((step.replacement ?? "\u2581") !== "\u2581") return undefined;
  return (text, first) => whole(text, first).flatMap((part) => part.match(/\u2581?[^\u2581]+|\u2581/g) ?? []);
}

type Part = { text: string; readonly match: boolean };

/** What becomes of a pattern's matches and of what is between them, as Rust's SplitDelimiterBehavior has it. */
function splitCut(
  step: Json,
  pattern: RegExp | null | undefined,
): ((text: string) => readonly string[]) | undefined {
  if (!pattern?.global) return undefined;
  const { behavior } = step;
  if (behavior === "Isolated")
    return (text) => matchesThatCover(text, pattern) ?? texts(parts(text, pattern));
  const inverted = step.invert === true;
  if (behavior === "Removed")
    return (text) => texts(parts(text, pattern).filter(({ match }) => match === inverted));
  const join = joins[String(behavior)];
  if (!join) return undefined;
  return (text) =>
    texts(join(parts(text, pattern).map((part) => ({ ...part, match: part.match !== inverted }))));
}

/** A match after the other is quicker to come by than matches with their places. */
function matchesThatCover(text: string, pattern: RegExp): readonly string[] | undefined {
  const words = text.match(pattern);
  if (words === null) return undefined;
  let covered = 0;
  for (const word of words) {
    if (word.length === 0) return undefined;
    covered += word.length;
  }
  return covered === text.length ? words : undefined;
}

function parts(text: string, pattern: RegExp): Part[] {
  const found: Part[] = [];
  let at = 0;
  for (const { 0: word, index } of text.matchAll(pattern)) {
    if (at < index) found.push({ text: text.slice(at, index), match: false });
    if (word !== "") found.push({ text: word, match: true });
    at = index + word.length;
  }
  if (at < text.length) found.push({ text: text.slice(at), match: false });
  return found;
}

const texts = (found: readonly Part[]) => found.map(({ text }) => text);

const joins: Readonly<Record<string, (found: readonly Part[]) => readonly Part[]>> = {
  Contiguous: (found) => joined(found, (part, before) => part.match === before.match),
  MergedWithPrevious: (found) => joined(found, (part, before) => part.match && !before.match),
  MergedWithNext: (found) => joined(found, (part, before) => before.match && !part.match),
};

/** A part that joins the one before it is judged by what stands before it in the text, joined already or not. */
function joined(found: readonly Part[], joins: (part: Part, before: Part) => boolean): Part[] {
  const result: Part[] = [];
  for (const [i, part] of found.entries()) {
    if (i > 0 && joins(part, found[i - 1]!)) result.at(-1)!.text += part.text;
    else result.push({ ...part });
  }
  return result;
}

/** Whether a space is in no token but at its beginning. */
function spacesOnlyLead(tokens: readonly string[]): boolean {
  return !tokens.some((token) => /[^\u2581]\u2581/.test(token));
}
