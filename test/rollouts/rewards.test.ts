// Users' reward functions: what they may be and return, and what is said of those that throw, hang, answer with something
// else than a number, or too many. Threads run compiled code alone.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { afterAll, describe, expect, it } from "vitest";
import { heldRewards } from "../../src/library/rewards.ts";

const { Rewards } = (await import(
  new URL("../../dist/rollouts/rewards.node.js", import.meta.url).href
)) as typeof import("../../src/rollouts/rewards.node.ts");

const folder = mkdtempSync(join(tmpdir(), "lowrank-rewards-"));
afterAll(() => rmSync(folder, { recursive: true }));

function module(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const items = ["one", "two", "three"].map((completion, i) => ({
  ...{ prompt: `p${i}`, completion, row: { answer: completion.length } },
  id: { file: "rows.jsonl", line: i + 5, unit: "line" as const },
}));

async function judged(path: string | readonly string[], timeoutSeconds = 20, loadSeconds?: number) {
  const specs = [path].flat().map((each, i) => ({ path: each, weight: i + 1 }));
  const rewards = await Rewards.open(specs, timeoutSeconds, [], loadSeconds);
  try {
    return { table: await rewards.judge(items), names: rewards.names, weights: rewards.weights };
  } finally {
    await rewards.close();
  }
}

describe("a reward function", () => {
  it("gets prompt, completion and row, and may be late, a list's, CommonJS, or have nothing to say", async () => {
    const one = module(
      "one.mjs",
      "export default (prompt, completion, row) => 100 * prompt.length + 10 * completion.length + row.answer;",
    );
    const late = module(
      "late.mjs",
      "export default async (_, completion) => { await new Promise((r) => setTimeout(r, 10 * (6 - completion.length))); return completion.length; };",
    );
    const lists = module(
      "lists.mjs",
      "export const rewards = (prompts, completions, rows) => completions.map((c, i) => c.length + prompts.length + rows[i].answer);",
    );
    const common = module("common.cjs", "module.exports = (p, c) => (c === 'two' ? null : 1);");
    const { table, names, weights } = await judged([one, late, lists, common]);
    expect(table).toEqual([
      [233, 3, 9, 1],
      [233, 3, 9, null],
      [255, 5, 13, 1],
    ]);
    expect(names).toEqual(["one", "late", "lists", "common"]);
    expect(weights).toEqual([1, 2, 3, 4]);
  });

  it("of the same name twice is told apart", async () => {
    const path = module("same.mjs", "export default () => 1;");
    expect((await judged([path, path])).names).toEqual(["same", "same-2"]);
  });

  it.each([
    [
      "throws",
      'export default () => { throw new TypeError("no luck"); };',
      /threw TypeError: no luck.*fault\.mjs:1/,
    ],
    ["rejects", 'export default async () => { throw new Error("later"); };', /threw Error: later/],
    ["throws no error", 'export default () => { throw "words"; };', /threw words/],
    ["returns NaN", "export default (p, c) => (c === 'two' ? NaN : 1);", /line 6.*"two".*finite number.*NaN/],
    ["returns infinity", "export default () => 1 / 0;", /finite number.*Infinity/],
    ["returns nothing", "export default () => {};", /line 5.*finite number.*undefined/],
    ["returns a text", 'export default () => "1";', /the text "1"/],
    ["returns a truth", "export default () => true;", /got true/],
    ["returns a list", "export default () => [1, 2];", /a list of 2/],
    ["returns an object", "export default () => ({ then: 1 });", /type object/],
    ["returns a function", "export default () => () => 1;", /type function/],
    ["returns too few", "export const rewards = () => [1, 2];", /line 5.*expected 3 rewards.*got 2/],
    ["returns too many", "export const rewards = () => [1, 2, 3, 4];", /expected 3 rewards.*got 4/],
    ["returns no list", "export const rewards = () => 1;", /expected 3 rewards.*got 1/],
    ["has a list with NaN", "export const rewards = () => [1, NaN, 1];", /line 6.*NaN/],
    ["is beyond single precision", "export default () => 1e300;", /line 5.*1e\+300 is no reward/],
    ["has a list beyond it", "export const rewards = () => [1, -1e39, 1];", /line 6.*-1e\+39 is no reward/],
    ["ends its process", "export default () => process.exit(3);", /reward fault: .*line 5.*ended by itself/],
    ["ends while it is loaded", "process.exit(0);", /reward fault: while it was loaded: .*ended by itself/],
  ])("that %s is refused by name and row", async (_, text, message) => {
    const path = module("fault.mjs", text);
    await expect(judged(path)).rejects.toThrow(message);
    await expect(judged(path)).rejects.toThrow(/rewards? fun|reward fault/);
  });

  it.each([
    ["loops", "export default (p, c) => { while (c === 'two'); return 1; };", /line 6.*"two"/],
    [
      "never answers",
      "export default (p, c) => (c === 'three' ? new Promise(() => {}) : 1);",
      /line 7.*"three"/,
    ],
    ["never answers lists", "export const rewards = () => new Promise(() => {});", /line 5/],
  ])("that %s is ended after its time, by name and row", async (_, text, message) => {
    const path = module("slow.mjs", text);
    await expect(judged(path, 0.5)).rejects.toThrow(/reward slow: no answer for 0.5 s/);
    await expect(judged(path, 0.5)).rejects.toThrow(message);
  });

  it("that loops while it is loaded is ended, too", async () => {
    await expect(judged(module("loading.mjs", "for (;;);"), 20, 0.5)).rejects.toThrow(
      /loading: loading it took/,
    );
  });

  it.each([
    ["missing", undefined, /no such file/],
    ["empty", "", /default export.*no exports/],
    ["named", "export const score = () => 1;", /default export.*score/],
    ["broken", "export default (", /SyntaxError/],
    ["importing", 'import "./nowhere.mjs"; export default () => 1;', /nowhere/],
  ])("module that is %s is told of before the run", async (name, text, message) => {
    const path = text === undefined ? join(folder, "missing.mjs") : module(`${name}.mjs`, text);
    await expect(judged(path)).rejects.toThrow(message);
  });

  it("in TypeScript runs where Node does, and is refused in a sentence where it does not", async () => {
    const path = module(
      "typed.ts",
      "export default (prompt: string, completion: string): number => completion.length;",
    );
    const strips = Boolean((process.features as { typescript?: unknown }).typescript);
    if (strips) expect((await judged(path)).table).toEqual([[3], [3], [5]]);
    else await expect(judged(path)).rejects.toThrow(/Node v\d+\.\d+\.\d+ does not run TypeScript.*22\.18/);
  });
});

describe("functions of the library", () => {
  it("stay where they are, and are asked through a port", async () => {
    const base = 10;
    using held = heldRewards([
      (_, completion) => base + completion.length,
      { reward: async () => 2, weight: 0.5, name: "two" },
      "file.js=0.25",
    ]);
    expect(held.names).toEqual(["function:reward1=1", "function:two=0.5", "file.js=0.25"]);
    const rewards = await Rewards.open(
      [
        { path: "function:reward1", weight: 1 },
        { path: "function:two", weight: 0.5 },
      ],
      20,
      held.ports,
    );
    expect(rewards.names).toEqual(["reward1", "two"]);
    expect(await rewards.judge(items)).toEqual([
      [13, 2],
      [13, 2],
      [15, 2],
    ]);
    await rewards.close();
  });

  it("that throw or are none are refused", async () => {
    using held = heldRewards(() => {
      throw new Error("here");
    });
    const rewards = await Rewards.open([{ path: "function:r", weight: 1 }], 20, held.ports);
    await expect(rewards.judge(items)).rejects.toThrow(/reward r: rows.jsonl line 5.*threw Error: here/);
    await rewards.close();
    expect(() => heldRewards({ reward: 1 } as never)).toThrow(/expected a path, a function/);
    expect(() => heldRewards({ reward: () => 1, weight: Number.NaN })).toThrow(/weight/);
    expect(() => heldRewards({ reward: () => 1, weight: 1e300 })).toThrow(/weight/);
  });

  it("are missed when they go away", async () => {
    const { port1, port2 } = new MessageChannel();
    const rewards = await Rewards.open([{ path: "function:gone", weight: 1 }], 20, [port2]);
    const asking = rewards.judge(items);
    port1.close();
    await expect(asking).rejects.toThrow(/ended by itself/);
    await rewards.close();
  });
});
