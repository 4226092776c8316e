import { describe, expect, it } from "vitest";
import { DistinctHashes, sampleHash } from "../../src/data/distinct-samples.ts";
import {
  NEAR_SHARE,
  nearDuplicates,
  nearTraining,
  RunReader,
  shareOf,
} from "../../src/data/near-duplicates.ts";
import type { Sample } from "../../src/data/render.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { Random } from "../../src/util/rng.ts";

const words = Array.from({ length: 400 }, (_, i) => `w${i}`);
const spelled = [
  ...words,
  ...words.map((word) => word.toUpperCase()),
  ...words.map((word) => `\u0120${word}`),
  ".",
];
/** A token a word, in three spellings. */
const tokenizer = new Tokenizer({
  name: "words",
  tokenizer: {
    ...{ version: "1.0", normalizer: null, post_processor: null, decoder: null, added_tokens: [] },
    pre_tokenizer: { type: "WhitespaceSplit" },
    model: {
      type: "WordLevel",
      unk_token: ".",
      vocab: Object.fromEntries(spelled.map((word, i) => [word, i])),
    },
  },
  tokenizerConfig: { eos_token: "." },
});
const punctuation = spelled.length - 1;
const sampleOf = (ids: readonly number[]): Sample => ({
  ids: Int32Array.from(ids),
  targetMask: new Uint8Array(ids.length).fill(1),
  rowId: { file: "a", line: 1, unit: "line" },
});

const random = new Random(5);
const text = (length: number) => Array.from({ length }, () => random.nextInt(400));
/** Every kind of copy, of texts of many lengths: one word in `every` is another. */
const changed = (ids: readonly number[], every: number) =>
  ids.map((id, i) => (i % every === every - 1 ? (id + 7) % 400 : id));

const texts = Array.from({ length: 120 }, (_, i) => text(3 + i));
const copies = texts.flatMap((ids) => [changed(ids, 12), changed(ids, 5), ids.map((id) => id + 400)]);

describe("near copies", () => {
  const all = [...texts, ...copies].map(sampleOf);
  const reader = new RunReader(tokenizer, all);
  const runs = all.map(({ ids }) => reader.read(ids));

  it("are all the pairs that share enough, and no others", () => {
    const leaders: number[] = [];
    const expected: number[] = [];
    for (const [i, own] of runs.entries()) {
      if (leaders.some((j) => shareOf(own, runs[j]!) >= NEAR_SHARE)) expected.push(i);
      else leaders.push(i);
    }
    const found = nearDuplicates(all, tokenizer);
    expect(found.map(({ sample }) => sample)).toEqual(expected);
    expect(expected.length).toBeGreaterThan(120);
    for (const { sample, earlier } of found)
      expect(shareOf(runs[sample]!, runs[earlier]!)).toBeGreaterThanOrEqual(NEAR_SHARE);
  });

  it("of training samples are found in evaluation", () => {
    const train = texts.map(sampleOf);
    const evaluation = [...copies, text(40)].map(sampleOf);
    const judge = new RunReader(tokenizer, train);
    const near = (a: Sample, b: Sample) => shareOf(judge.read(a.ids), judge.read(b.ids)) >= NEAR_SHARE;
    const expected = evaluation.flatMap((sample, i) =>
      train.some((other) => near(sample, other)) ? [i] : [],
    );
    expect(nearTraining(train, evaluation, tokenizer).map(({ sample }) => sample)).toEqual(expected);
    expect(expected).not.toContain(evaluation.length - 1);
  });
});

describe("what counts for nothing", () => {
  it("case, spaces and punctuation", () => {
    const ids = text(12);
    const other = ids.flatMap((id, i) => [id + (i % 2 === 0 ? 400 : 800), punctuation]);
    expect(nearDuplicates([sampleOf(ids), sampleOf(other)], tokenizer)).toEqual([{ sample: 1, earlier: 0 }]);
  });

  it("what nearly all samples share, such as a long system prompt", () => {
    const prompt = text(200);
    const chats = Array.from({ length: 30 }, () => sampleOf([...prompt, ...text(12)]));
    expect(nearDuplicates(chats, tokenizer)).toEqual([]);
    const last = sampleOf([...prompt, ...[...chats[4]!.ids].slice(200)]);
    expect(nearDuplicates([...chats, last], tokenizer)).toEqual([{ sample: 30, earlier: 4 }]);
  });

  it("samples without words", () => {
    const dots = sampleOf([punctuation, punctuation]);
    expect(nearDuplicates([dots, dots], tokenizer)).toEqual([]);
  });
});

it("few words are near when they are the same, in the same order", () => {
  const near = nearDuplicates([[1], [1], [2], [1, 2], [2, 1], [401, 2]].map(sampleOf), tokenizer);
  expect(near).toEqual([
    { sample: 1, earlier: 0 },
    { sample: 5, earlier: 3 },
  ]);
});

it("distinct hashes are numbered in the order they are met, however many", () => {
  const distinct = new DistinctHashes();
  const hashes = Array.from({ length: 20_000 }, (_, i) => sampleHash(sampleOf([i % 400, i >> 8, 3]), true));
  const numbers = new Map<number, number>();
  for (const hash of hashes) {
    if (!numbers.has(hash)) numbers.set(hash, numbers.size);
    expect(distinct.add(hash)).toBe(numbers.get(hash));
  }
  expect(distinct.size).toBe(numbers.size);
  expect(distinct.has(hashes[7]!)).toBe(true);
  expect(distinct.has(-1)).toBe(false);
});
