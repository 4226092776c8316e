// The training text of the tiny base: reads TinyStories files given by path, cleans them, removes
// doubles, keeps whole stories apart for measuring, adds a little generated text and writes two JSONL
// files of {"text"} rows. The stories themselves are never stored in this repository.
// Generated text: generated-text.mjs. Who calls it: make.mjs.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../dist/util/rng.js";
import { generatedRows } from "./generated-text.mjs";

const END = "<|endoftext|>";
/** Shorter pieces are lines of speech torn off a story, not stories. */
const MIN_STORY_CHARACTERS = 200;
/** Longer stories are cut between paragraphs: a piece stays below 512 tokens, the longest sequence of the base. */
const MAX_PIECE_CHARACTERS = 1500;
/** Share of stories kept out of training. */
const HELD_OUT_SHARE = 0.04;
/** Share of training stories told as an answer in the chat template, so that chat markers are learned. */
const CHAT_SHARE = 0.15;

/** Splits one file into stories: at <|endoftext|> where present, else at a line break without a blank line. */
export function splitStories(raw) {
  if (raw.includes(END)) {
    // A file cut by size ends inside a story, and its first piece may begin inside one.
    return raw
      .split(END)
      .slice(0, -1)
      .filter((piece) => /^\s*["A-Z]/.test(piece));
  }
  return raw.split(/(?<=[^\n])\n(?=[^\n])/).slice(0, -1);
}

/** Straight quotes, one line break between paragraphs, no stray spaces; also undoes UTF-8 read as Windows-1252. */
export function cleanStory(text) {
  return text
    .replace(/â€œ/g, '"')
    .replace(/â€™/g, "'")
    .replace(/â€/g, '"')
    .replace(/[“”]/g, '"')
    .replace(/[‘’]/g, "'")
    .replace(/\s*[–—]\s*/g, " - ")
    .replace(/[^\S\n]+/g, " ")
    .replace(/ *\n\s*/g, "\n")
    .trim();
}

/** Whether a cleaned piece is a whole plain story: long enough, ASCII, ended by a full stop or a quote. */
export function isWholeStory(text) {
  return text.length >= MIN_STORY_CHARACTERS && /^[\x20-\x7e\n]*$/.test(text) && /[.!?]"?$/.test(text);
}

/** Two stories are the same if they agree in letters over their first 120 of them or as a whole. */
function fingerprints(text) {
  const letters = text.toLowerCase().replace(/[^a-z]/g, "");
  return [letters.slice(0, 120), letters];
}

/** Stories of all files, cleaned, each once, in file order. */
export function readStories(paths) {
  const seen = new Set();
  const stories = [];
  for (const path of paths) {
    for (const piece of splitStories(readFileSync(path, "utf8"))) {
      const story = cleanStory(piece);
      if (!isWholeStory(story)) continue;
      const keys = fingerprints(story);
      if (keys.some((key) => seen.has(key))) continue;
      for (const key of keys) seen.add(key);
      stories.push(story);
    }
  }
  return stories;
}

/** Splits whole stories into train and held-out: a story is on exactly one side. */
export function splitHeldOut(stories, seed) {
  const shuffled = new Random(seed, 1).shuffle([...stories]);
  const count = Math.max(1, Math.round(shuffled.length * HELD_OUT_SHARE));
  return { train: shuffled.slice(count), heldOut: shuffled.slice(0, count) };
}

/** A story as one piece, or as several of whole paragraphs where it is long. */
export function inPieces(story) {
  const pieces = [];
  let piece = "";
  for (const paragraph of story.split("\n")) {
    if (piece !== "" && piece.length + 1 + paragraph.length > MAX_PIECE_CHARACTERS) {
      pieces.push(piece);
      piece = paragraph;
    } else piece = piece === "" ? paragraph : `${piece}\n${paragraph}`;
  }
  return [...pieces, piece].filter((text) => text.length <= MAX_PIECE_CHARACTERS);
}

/** Some stories become the answer to a request, in the text that the chat template renders. */
function asChat(story, random) {
  const name = /\b(?:named|called) ([A-Z][a-z]+)\b/.exec(story)?.[1];
  const plain = ["Tell me a story.", "Please tell me a short story.", "Can you tell me a story?"];
  const asked = [`Tell me a story about ${name}.`, `I want to hear a story about ${name}.`];
  const wishes = name === undefined ? plain : asked;
  const wish = wishes[random.nextInt(wishes.length)];
  return `<|user|>\n${wish}${END}\n<|assistant|>\n${story}`;
}

/** Writes train.jsonl and held-out.jsonl into `outDir` and returns what they hold. */
export function writeCorpus({ storyPaths, outDir, seed, generatedCount }) {
  const stories = readStories(storyPaths);
  const { train, heldOut } = splitHeldOut(stories, seed);
  const random = new Random(seed, 2);
  const told = train.flatMap((story) => {
    const [first, ...rest] = inPieces(story);
    if (first === undefined) return [];
    return [random.nextFloat() < CHAT_SHARE ? asChat(first, random) : first, ...rest];
  });
  const rows = random.shuffle([...told, ...generatedRows(generatedCount, seed)]);
  mkdirSync(outDir, { recursive: true });
  const trainPath = join(outDir, "train.jsonl");
  const heldOutPath = join(outDir, "held-out.jsonl");
  writeJsonl(trainPath, rows);
  writeJsonl(heldOutPath, heldOut.flatMap(inPieces));
  return {
    trainPath,
    heldOutPath,
    stories: stories.length,
    train: train.length,
    heldOut: heldOut.length,
    rows,
  };
}

function writeJsonl(path, texts) {
  writeFileSync(path, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
}
