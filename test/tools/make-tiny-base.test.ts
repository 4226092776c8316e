// The parts of the tiny base's recipe: the learned tokenizer in the tokenizer that training uses, and the corpus.

import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../src/text/tokenizer.ts";

interface Learned {
  vocab: Record<string, number>;
  merges: [string, string][];
}
interface BpeModule {
  SPECIAL_TOKENS: string[];
  trainBpe(texts: string[], vocabSize: number): Learned;
  tokenizerJson(learned: Learned): unknown;
  tokenizerConfig(modelMaxLength: number): { chat_template: string };
}
interface CorpusModule {
  splitStories(raw: string): string[];
  cleanStory(text: string): string;
  inPieces(story: string): string[];
  splitHeldOut(stories: string[], seed: number): { train: string[]; heldOut: string[] };
}

async function load<T>(name: string): Promise<T> {
  return (await import(new URL(`../../tools/make-tiny-base/${name}`, import.meta.url).href)) as T;
}
const bpe = await load<BpeModule>("train-bpe.mjs");
const corpus = await load<CorpusModule>("corpus.mjs");

const texts = [
  "the cat sat on the mat, the cat sat",
  'then the "cat" said: {"a":1}',
  "low lower lowest\nlow",
];
const learned = bpe.trainBpe(texts, 300);
const tokenizer = new Tokenizer({
  name: "learned",
  tokenizer: bpe.tokenizerJson(learned),
  tokenizerConfig: bpe.tokenizerConfig(512),
});

describe("byte-level BPE training", () => {
  it("joins the most frequent pair first", () => {
    // cat, sat, mat: no other pair is as frequent.
    expect(learned.merges[0]).toEqual(["a", "t"]);
    expect(learned.merges).toContainEqual(["t", "he"]);
  });

  it("repeats exactly", () => {
    expect(bpe.trainBpe(texts, 300)).toEqual(learned);
  });

  it("numbers special tokens first, then bytes, then merges, without gaps", () => {
    const ids = Object.values(learned.vocab).sort((a, b) => a - b);
    expect(ids).toEqual(ids.map((_, i) => i));
    expect(bpe.SPECIAL_TOKENS.map((token) => learned.vocab[token])).toEqual(
      bpe.SPECIAL_TOKENS.map((_, i) => i),
    );
    expect(learned.vocab[`${learned.merges[0]!.join("")}`]).toBe(bpe.SPECIAL_TOKENS.length + 256);
  });

  it("encodes any text and gives it back", () => {
    for (const text of [
      ...texts,
      "naïve 東京 🎉",
      "a\n\n\tb  c\r\n",
      ' {"who":"Mia"}',
      "\u0000\u0085\ufeff\u00a0x",
    ]) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });

  it("begins a text with the end token and knows its special tokens", () => {
    expect(tokenizer.prefixIds).toEqual([0]);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId]).toEqual([0, 0, 1]);
    expect(tokenizer.encode("<|user|>\nHi<|endoftext|>", { addSpecialTokens: false }).slice(0, 1)).toEqual([
      3,
    ]);
  });
});

describe("corpus", () => {
  it("splits at the end mark and leaves out what a cut file broke off", () => {
    expect(corpus.splitStories("\nOne.\n<|endoftext|>\nTwo.\n<|endoftext|>\nHalf a")).toEqual([
      "\nOne.\n",
      "\nTwo.\n",
    ]);
  });

  it("splits unmarked files where a line follows a line without a blank one between", () => {
    expect(corpus.splitStories("A one.\n\nA two.\nB one.\n\nB two.\nC cut")).toEqual([
      "A one.\n\nA two.",
      "B one.\n\nB two.",
    ]);
  });

  it("cleans quotes, doubly encoded ones too, and space", () => {
    expect(corpus.cleanStory("  â€œHi,â€ he  said. It’s \n\n “fine” ")).toBe(`"Hi," he said. It's\n"fine"`);
  });

  it("cuts long stories between paragraphs and loses none of them", () => {
    const story = Array.from({ length: 30 }, (_, i) => `${i} ${"word ".repeat(20)}`.trim()).join("\n");
    const pieces = corpus.inPieces(story);
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.join("\n")).toBe(story);
    expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThanOrEqual(1500);
  });

  it("puts a story on one side only", () => {
    const stories = Array.from({ length: 100 }, (_, i) => `story ${i}`);
    const { train, heldOut } = corpus.splitHeldOut(stories, 1);
    expect(heldOut.length).toBe(4);
    expect([...train, ...heldOut].sort()).toEqual([...stories].sort());
  });
});
