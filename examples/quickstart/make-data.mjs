// The quickstart task: read a story of two to four sentences and answer with a record of who did
// something, where, and to what thing. Everybody and everything else in the story is there to mislead.
// Every row is generated here from a seed; nothing is taken from elsewhere.
// Held out by construction: no test story occurs in train, and no answer in test pairs a name with a place,
// or a place with a thing, that any answer in train pairs. Wording is shared by both sides.
// Usage: node examples/quickstart/make-data.mjs [OUT_DIR]   (after npm run build; run.mjs calls it)

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Random } from "../../dist/util/rng.js";

const GIRLS =
  "Lily Anna Mia Sara Lucy Sue Amy Emma Zoe Kate Rose Jane Molly Jill Ella Nina Ruby Eva Meg Ivy".split(" ");
const BOYS =
  "Tom Ben Sam Max Tim Jack Bob Joe Leo Dan Nick Billy Mark Fred Pete Adam Luke Ned Hugo John".split(" ");
const NAMES = [...GIRLS, ...BOYS];
const PLACES = (
  "park garden school kitchen forest beach barn farm river store yard zoo lake hill shop market pond castle " +
  "tower library woods playground bridge gate"
)
  .split(" ")
  .map((word) => `the ${word}`);
const COLOURS = "red blue green yellow white black brown pink".split(" ");
const THINGS = (
  "ball kite book hat doll drum cup box boat car key bell coin lamp rope spoon flower stone shell ring coat map " +
  "toy leaf basket blanket bag cake balloon crayon bottle feather"
).split(" ");

/** The line that ends every prompt. */
export const QUESTION = "Who, where, what?";

// In every template: {A} does it, at {P}, to {O}; {B}, {Q} and {R} are another person, place and thing.
const EVENTS = [
  "{A} went to {P} and found {O}.",
  "At {P}, {A} found {O}.",
  "{A} found {O} at {P}.",
  "One day {A} walked to {P} and picked up {O}.",
  "{A} picked up {O} near {P}.",
  "Near {P}, {A} saw {O} and took it.",
  "{A} ran to {P} to get {O}.",
  "While {h} was at {P}, {A} found {O}.",
  "{A} was at {P} when {h} found {O}.",
  "There was {O} at {P}, and {A} took it home.",
  "{A} came back from {P} with {O}.",
  "Under a tree by {P}, {A} found {O}.",
];
const BEFORE = [
  "{B} was at {Q} that day.",
  "{B} stayed at {Q} all day.",
  "{A} and {B} are good friends.",
  "{B} and {A} like to play.",
  "{B} went to {Q} in the morning.",
  "{B} wanted {R} very much.",
  "{B} likes to sit near {Q}.",
  "{A} did not want to go to {Q}.",
  "{A} was looking for {R}.",
  "It was a sunny day.",
  "Mom told {A} not to go to {Q}.",
];
const AFTER = [
  "{B} was still at {Q}.",
  "{B} had only {R}.",
  "{B} had seen nothing at {Q}.",
  "{A} showed it to {B}.",
  "{B} said it was pretty.",
  "{A} was very happy.",
  "It was not {R}.",
  "{B} waited near {Q}.",
  "{B} asked for {R}, but there was none.",
  "{A} did not tell {B}.",
  "Then {h} went home.",
];

/** Whether answers with this pair belong to the test side only. About one pair in seven does. */
export function isHeldOutPair(first, second) {
  return (first * 3 + second * 5) % 7 === 0;
}

/** Indices of an answer; test answers hold only reserved pairs, train answers none. */
function drawAnswer(random, heldOut) {
  for (;;) {
    const name = random.nextInt(NAMES.length);
    const place = random.nextInt(PLACES.length);
    const thing = random.nextInt(THINGS.length);
    const pairs = [isHeldOutPair(name, place), isHeldOutPair(place, thing)];
    if (pairs.every((reserved) => reserved === heldOut)) return { name, place, thing };
  }
}

function withArticle(words) {
  return `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;
}

function pick(random, list) {
  return list[random.nextInt(list.length)];
}

/** An entry of `list` other than `taken`. */
function pickOther(random, list, taken) {
  for (;;) {
    const entry = pick(random, list);
    if (entry !== taken) return entry;
  }
}

/** One row: a story as the prompt, its record as the completion. */
export function makeRow(random, heldOut) {
  const answer = drawAnswer(random, heldOut);
  const who = NAMES[answer.name];
  const where = PLACES[answer.place];
  const colour = pick(random, COLOURS);
  const what = withArticle(`${colour} ${THINGS[answer.thing]}`);
  const otherThing = pickOther(random, THINGS, THINGS[answer.thing]);
  const words = {
    A: who,
    P: where,
    O: what,
    B: pickOther(random, NAMES, who),
    Q: pickOther(random, PLACES, where),
    R: withArticle(`${pickOther(random, COLOURS, colour)} ${otherThing}`),
    h: GIRLS.includes(who) ? "she" : "he",
  };
  // Two to four sentences, of which one is the event: one to three others, at least one of them before or after.
  const before = random.nextInt(3);
  const after = before === 0 ? 1 + random.nextInt(2) : random.nextInt(before === 2 ? 2 : 3);
  const sentences = [
    ...random.shuffle([...BEFORE]).slice(0, before),
    pick(random, EVENTS),
    ...random.shuffle([...AFTER]).slice(0, after),
  ];
  const story = sentences.join(" ").replace(/\{(\w)\}/g, (_, slot) => words[slot]);
  return { prompt: `${story}\n${QUESTION}\n`, completion: JSON.stringify({ who, where, what }) };
}

/** `count` different rows of one side; the same seed gives the same rows. */
export function makeRows(count, { heldOut, seed = 7 }) {
  const random = new Random(seed, heldOut ? 1 : 0);
  const rows = new Map();
  while (rows.size < count) {
    const row = makeRow(random, heldOut);
    rows.set(row.prompt, row);
  }
  return [...rows.values()];
}

/** Writes train.jsonl, validation.jsonl and test.jsonl into `outDir`; the last two are held out and share no row. */
export function writeQuickstartData(outDir, { trainRows = 2000, validationRows = 100, testRows = 100 } = {}) {
  const heldOut = makeRows(validationRows + testRows, { heldOut: true });
  const files = {
    train: makeRows(trainRows, { heldOut: false }),
    validation: heldOut.slice(0, validationRows),
    test: heldOut.slice(validationRows),
  };
  mkdirSync(outDir, { recursive: true });
  for (const [name, rows] of Object.entries(files)) {
    const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
    writeFileSync(join(outDir, `${name}.jsonl`), lines.join(""));
  }
  return files;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [outDir = "runs/quickstart/data"] = process.argv.slice(2);
  const files = writeQuickstartData(outDir);
  for (const [name, rows] of Object.entries(files))
    console.log(`${join(outDir, name)}.jsonl: ${rows.length} rows`);
}
