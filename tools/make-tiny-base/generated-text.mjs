// Text written by rules, mixed into the stories so that the tiny base has seen what TinyStories lacks:
// braces, quotes and colons, lists, and facts said twice (which teaches a small model to copy).
// It is not the quickstart task: nothing here turns a story into a record; where a record is followed by
// prose, the record comes first. Who calls it: corpus.mjs.

import { Random } from "../../dist/util/rng.js";

const NAMES = (
  "Lily Tom Ben Anna Sam Mia Max Tim Sara Lucy Jack Sue Bob Amy Joe Emma Leo Zoe Dan Kate Nick Rose " +
  "Jane Billy Molly Jill Mark Ella Fred Nina Pete Ruby Adam Eva Luke Meg Ned Ivy Hugo Tess"
).split(" ");
const PETS = "dog cat bird fish frog bunny duck mouse turtle pony hen goat".split(" ");
/** What each colour is known for. Without such ties the colours would be interchangeable to the model. */
const COLOUR_OF = {
  red: "apple,rose,fire truck,cherry,stop sign,strawberry",
  blue: "sky,sea,river,lake,whale,rain cloud",
  green: "frog,grass,leaf,pea,tree,turtle",
  yellow: "sun,banana,lemon,duck,corn,cheese",
  white: "snow,milk,cloud,egg,rice,goat",
  black: "night,crow,coal,hole,spider,shadow",
  brown: "bear,mud,bread,dirt,wood,nut",
  pink: "pig,flower,nose,sunset,cake,worm",
};
const COLOURS = Object.keys(COLOUR_OF);
const QUALITIES =
  "big small little old new shiny soft round long heavy tiny pretty warm cold clean dirty broken sweet strange loud".split(
    " ",
  );
const THINGS = (
  "ball kite book hat doll drum cup box boat car key bell coin lamp rope spoon flower stone shell ring " +
  "coat map toy leaf basket blanket bag cake"
).split(" ");
const FOODS = "apples bread milk eggs rice soup cake honey carrots cheese jam pears corn plums".split(" ");
const PLACES =
  "park garden school kitchen forest beach barn farm river store house yard zoo lake hill shop room market".split(
    " ",
  );
const MOODS = "happy sad tired proud shy brave calm hungry sleepy kind".split(" ");

/** One row a call; each returns a string. */
const makers = [
  petRecord,
  thingRecord,
  foodList,
  numberedList,
  saidAgain,
  tidyRoom,
  mapRecord,
  whoHas,
  colourFacts,
  countRow,
];

/** `count` rows of generated text; the same seed gives the same rows. */
export function generatedRows(count, seed) {
  const random = new Random(seed, 3);
  const rows = [];
  for (let i = 0; i < count; i++) {
    const parts = [];
    const passages = 1 + random.nextInt(3);
    for (let p = 0; p < passages; p++) parts.push(pick(random, makers)(random));
    rows.push(parts.join("\n"));
  }
  return rows;
}

function pick(random, list) {
  return list[random.nextInt(list.length)];
}

/** `count` different entries of `list`. */
function pickSome(random, list, count) {
  return random.shuffle([...list]).slice(0, count);
}

function withArticle(words) {
  return `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;
}

/** A colour a third of the time, else another quality. */
function quality(random) {
  return random.nextInt(3) === 0 ? pick(random, COLOURS) : pick(random, QUALITIES);
}

function thing(random) {
  return withArticle(`${quality(random)} ${pick(random, THINGS)}`);
}

function petRecord(random) {
  const name = pick(random, NAMES);
  const pet = `${quality(random)} ${pick(random, PETS)}`;
  const age = 3 + random.nextInt(7);
  const record = JSON.stringify({ name, age, pet: withArticle(pet) });
  return `${record}\n${name} is ${age} years old. ${name} has ${withArticle(pet)}.`;
}

function thingRecord(random) {
  const owner = pick(random, NAMES);
  const item = thing(random);
  const mood = pick(random, MOODS);
  const record = JSON.stringify({ owner, item, mood });
  return `${record}\nHere is ${owner}. ${owner} has ${item} and feels ${mood}.`;
}

function foodList(random) {
  const foods = pickSome(random, FOODS, 2 + random.nextInt(4));
  return `To buy: ${JSON.stringify(foods)}\nThey bought ${spoken(foods)}.`;
}

function numberedList(random) {
  const things = pickSome(random, THINGS, 3);
  const lines = things.map((word, i) => `${i + 1}. ${withArticle(word)}`);
  return `In the box:\n${lines.join("\n")}\nThe box has ${spoken(things.map(withArticle))}.`;
}

function saidAgain(random) {
  const [first, second] = pickSome(random, NAMES, 2);
  const item = thing(random);
  const place = `the ${pick(random, PLACES)}`;
  const line = pick(random, [
    `I see ${item} near ${place}`,
    `Please bring ${item} to ${place}`,
    `We lost ${item} by ${place}`,
  ]);
  return `"${line}," said ${first}. "What?" asked ${second}. "${line}," said ${first} again.`;
}

function tidyRoom(random) {
  const [first, second] = pickSome(random, NAMES, 2);
  const [a, b] = [thing(random), thing(random)];
  return (
    `${first} and ${second} made the room tidy. ${first} took ${a}. ${second} took ${b}. ` +
    `Then ${first} put down ${a.replace(/^an? /, "the ")}, and ${second} put down ${b.replace(/^an? /, "the ")}.`
  );
}

function mapRecord(random) {
  const names = pickSome(random, NAMES, 2 + random.nextInt(3));
  const seats = Object.fromEntries(names.map((name) => [name, `the ${pick(random, PLACES)}`]));
  const lines = names.map((name) => `${name} lives near ${seats[name]}.`);
  return `${JSON.stringify(seats)}\n${lines.join(" ")}`;
}

function whoHas(random) {
  const names = pickSome(random, NAMES, 3);
  const items = names.map(() => thing(random));
  const asked = random.nextInt(3);
  const facts = names.map((name, i) => `${name} has ${items[i]}.`).join(" ");
  return `${facts}\n"Who has ${items[asked]}?" asked Mom.\n"${names[asked]} has ${items[asked]}," said Dad.`;
}

function colourFacts(random) {
  const facts = pickSome(random, COLOURS, 3).map((colour) => {
    const [first, second] = pickSome(random, COLOUR_OF[colour].split(","), 2);
    const says = [
      `The ${first} is ${colour}.`,
      `What is ${colour}? The ${first} is ${colour}, and so is the ${second}.`,
    ];
    return pick(random, says);
  });
  return facts.join(" ");
}

function countRow(random) {
  const from = 1 + random.nextInt(20);
  const numbers = Array.from({ length: 4 + random.nextInt(5) }, (_, i) => from + i);
  return `${JSON.stringify(numbers)}\nCount with me: ${numbers.join(", ")}.`;
}

function spoken(words) {
  return words.length === 1 ? words[0] : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
