// The quickstart's honesty: same seed, same rows; nothing of the test side is in train; answers are in the story.

import { describe, expect, it } from "vitest";

interface Row {
  prompt: string;
  completion: string;
}
type MakeRows = (count: number, options: { heldOut: boolean; seed?: number }) => Row[];

const script = new URL("../../examples/quickstart/make-data.mjs", import.meta.url).href;
const { makeRows } = (await import(script)) as { makeRows: MakeRows };

const train = makeRows(2000, { heldOut: false });
const heldOut = makeRows(200, { heldOut: true });

function answerOf(row: Row): { who: string; where: string; what: string } {
  return JSON.parse(row.completion) as { who: string; where: string; what: string };
}

/** "a red ball" -> "ball" */
function thingOf(what: string): string {
  return what.split(" ").at(-1)!;
}

describe("quickstart data", () => {
  it("repeats with the seed and changes with it", () => {
    expect(makeRows(50, { heldOut: false })).toEqual(train.slice(0, 50));
    expect(makeRows(50, { heldOut: false, seed: 8 })).not.toEqual(train.slice(0, 50));
  });

  it("holds no story twice, on one side or across", () => {
    const prompts = [...train, ...heldOut].map((row) => row.prompt);
    expect(new Set(prompts).size).toBe(prompts.length);
  });

  it("tests on name-place and place-thing pairs that no training answer has", () => {
    const pairsOf = (row: Row): string[] => {
      const { who, where, what } = answerOf(row);
      return [`${who} at ${where}`, `${thingOf(what)} at ${where}`];
    };
    const known = new Set(train.flatMap(pairsOf));
    expect(heldOut.flatMap(pairsOf).filter((pair) => known.has(pair))).toEqual([]);
  });

  it("tests on no name, place or thing that training never answers", () => {
    for (const field of ["who", "where", "what"] as const) {
      const values = (rows: Row[]) => new Set(rows.map((row) => thingOf(answerOf(row)[field])));
      const known = values(train);
      expect([...values(heldOut)].filter((value) => !known.has(value))).toEqual([]);
    }
  });

  it("asks for what the story says, in two to four sentences", () => {
    for (const row of [...train, ...heldOut]) {
      const [story, question, rest] = row.prompt.split("\n");
      const { who, where, what } = answerOf(row);
      for (const words of [who, where, what]) expect(story).toContain(words);
      expect(story!.match(/\.(?= |$)/g)!.length).toSatisfy((n: number) => n >= 2 && n <= 4);
      expect([question, rest]).toEqual(["Who, where, what?", ""]);
    }
  });
});
