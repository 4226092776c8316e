// The lines of `train --json`: those of real runs are all in docs/PROGRESS.md, as it says they are, and the types have
// no event that the page has not.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { ProgressLine } from "../../src/train/progress-lines.ts";
import {
  backendName,
  type Finished,
  lowrank,
  makeRows,
  scratchFolder,
  startLowrank,
  until,
  writeRows,
} from "../e2e/lowrank.ts";

interface Documented {
  readonly type: string;
  readonly optional: boolean;
}

/** Types of lines on the page, with their fields. */
const page = new Map<string, Map<string, Documented>>();
let heads: string[] = [];
for (const line of readFileSync(new URL("../../docs/PROGRESS.md", import.meta.url), "utf8").split("\n")) {
  const head = /^## ([a-z, ]+)$/.exec(line)?.[1];
  if (head !== undefined) heads = head.split(", ");
  else if (line.startsWith("## ")) heads = [];
  const [, names, type] = /^\| (`.*?) \| (\w+) \|/.exec(line) ?? [];
  if (names === undefined || type === undefined) continue;
  for (const name of names.split(", ")) {
    const [, field, mark] = /^`([\w.]+)`(\??)$/.exec(name)!;
    for (const each of heads) {
      if (!page.has(each)) page.set(each, new Map());
      page.get(each)!.set(field!, { type, optional: mark === "?" });
    }
  }
}

// One entry a type: a new one in the types does not compile until it is here, and fails until it is on the page.
const types: Record<ProgressLine["type"], true> = {
  ...{ start: true, info: true, warning: true, model: true, preflight: true, data: true, train: true },
  ...{ eval: true, forget: true, rollout: true, sample: true, checkpoint: true, result: true, error: true },
};
const folder = scratchFolder();
const place = (name: string) => join(folder, name);
const rows = writeRows(place("rows.jsonl"), makeRows(24));
const common = ["train", "--model", "tiny", "--backend", backendName, "--batch-size", "2", "--json"];

function linesOf({ stdout }: Finished): (Record<string, unknown> & { type: string })[] {
  expect(stdout.endsWith("\n")).toBe(true);
  return stdout
    .slice(0, -1)
    .split("\n")
    .map((line) => JSON.parse(line));
}

const kindOf = (value: unknown) => (Array.isArray(value) ? "array" : typeof value);

/** Holds lines to the page: types, fields, what kind of value each is, and what comes first and last. */
function expectAsDocumented(lines: ReturnType<typeof linesOf>): void {
  expect(lines[0]).toMatchObject({ type: "start", protocol: 1, command: "train" });
  expect(lines.filter(({ type }) => type === "start")).toHaveLength(1);
  expect(lines.findIndex(({ type }) => type === "result" || type === "error")).toBe(lines.length - 1);
  for (const { type, ...fields } of lines) {
    const known = page.get(type);
    expect(known, type).toBeDefined();
    for (const [field, value] of Object.entries(fields)) {
      const name = field.replace(/^reward\..+\.(mean|std)$/, "reward.NAME.$1");
      expect(known!.get(name)?.type, `${type}.${field}`).toBe(value === null ? "number" : kindOf(value));
    }
    for (const [field, { optional }] of known!)
      if (!optional) expect(Object.keys(fields), type).toContain(field);
  }
}

describe("the page", () => {
  it("has every type of line, and no other", () => {
    expect([...page.keys()].sort()).toEqual(Object.keys(types).sort());
  });
});

describe("lines of real runs", () => {
  let plain: ReturnType<typeof linesOf>;
  beforeAll(() => {
    const result = lowrank(
      ...[...common, "--data", rows, "--out", place("plain"), "--eval-fraction", "0.25", "--max-steps", "6"],
      ...["--eval-every", "3", "--save-every", "2", "--sample", "1 red:", "--forget", rows],
      ...["--eval-metrics", "exact-match,rouge,bleu,chrf,json-validity", "--keep-best", "loss"],
      ...["--max-new-tokens", "4"],
    );
    expect(result.status, result.stderr).toBe(0);
    plain = linesOf(result);
  });

  it("are as documented, and in order", () => {
    expectAsDocumented(plain);
    const steps = plain.filter(({ type }) => type === "train").map(({ step }) => step);
    expect(steps).toEqual([1, 2, 3, 4, 5, 6]);
    for (const type of ["model", "preflight", "data", "eval", "forget", "sample", "checkpoint"])
      expect(plain.map((line) => line.type)).toContain(type);
    expect(plain.at(-1)).toMatchObject({ type: "result", status: "done", steps: 6, out: place("plain") });
  });

  it("train, eval and forget are the lines of metrics.jsonl", () => {
    const told = plain.filter(({ type }) => ["train", "eval", "forget"].includes(type));
    const kept = readFileSync(join(place("plain"), "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    expect(told).toEqual(kept.map((line) => JSON.parse(line)));
  });

  it("of preferences and of rewards too", () => {
    const pairs = makeRows(12).map(({ prompt, completion }) => ({
      prompt,
      chosen: completion,
      rejected: " no",
    }));
    const reward = place("length.mjs");
    writeFileSync(reward, "export default (prompt, completion) => -completion.length;\n");
    for (const [name, words] of [
      [
        "dpo",
        ["--data", writeRows(place("pairs.jsonl"), pairs), "--eval-fraction", "0.3", "--objective", "dpo"],
      ],
      [
        "grpo",
        [
          "--data",
          rows,
          "--objective",
          "grpo",
          "--reward",
          reward,
          "--group-size",
          "2",
          "--max-new-tokens",
          "4",
        ],
      ],
    ] as const) {
      const result = lowrank(...common, ...words, "--out", place(name), "--max-steps", "2");
      expect(result.status, result.stderr).toBe(0);
      expectAsDocumented(linesOf(result));
    }
  });

  it("an error is the last line, with the exit code that follows", () => {
    const empty = writeRows(place("empty.jsonl"), [{ text2: "x" }]);
    const result = lowrank(...common, "--data", empty, "--out", place("failed"));
    expect(result.status).toBe(1);
    const lines = linesOf(result);
    expectAsDocumented(lines);
    expect(lines.at(-1)).toMatchObject({ type: "error", code: 1, message: expect.stringContaining("text2") });
  });

  it("a wrong command line prints none", () => {
    expect(lowrank(...common, "--data", rows, "--out", place("wrong"), "--rank", "no").stdout).toBe("");
  });

  it("a signal ends them with what was saved", async () => {
    const out = place("stopped");
    const words = [...common, "--data", rows, "--out", out, "--max-steps", "100000"];
    const { child, finished } = startLowrank(words);
    let seen = "";
    child.stdout!.on("data", (text: string) => {
      seen += text;
    });
    await until(() => seen.includes('"type":"train"'), finished);
    child.kill("SIGTERM");
    const result = await finished;
    expect(result.status).toBe(130);
    const lines = linesOf(result);
    expectAsDocumented(lines);
    const steps = lines.at(-1)!.steps as number;
    expect(lines.at(-1)).toMatchObject({ type: "result", status: "interrupted" });
    expect(lines.at(-1)!.checkpoint).toBe(join(out, "checkpoints", `step-${steps}`));
  });
});
