// A run's samples from several sources: what an epoch has of each, what is left out as a copy, what is set aside.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { resolveInput } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { hashOfData } from "../../src/data/load-sources.node.ts";
import { preflight } from "../../src/data/preflight.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { loadTrainingData } from "../../src/train/training-data.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-training-data-"));
const before = process.env.LOWRANK_CACHE;
beforeAll(() => void (process.env.LOWRANK_CACHE = join(folder, "cache")));
afterAll(() => {
  if (before === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = before;
  rmSync(folder, { recursive: true });
});

const tokenizer = byteTokenizer();
const text = { tokenizer, template: undefined, templates: {} };
const place = (name: string, rows: readonly object[]) => {
  writeFileSync(join(folder, name), rows.map((row) => JSON.stringify(row)).join("\n"));
  return join(folder, name);
};
const rows = (count: number, word: string) =>
  Array.from({ length: count }, (_, i) => ({
    prompt: `${word} ${i * i * 7919}:`,
    completion: `${i * 31 + 5}`,
  }));
const a = place("a.jsonl", rows(30, "first"));
const b = place("b.jsonl", rows(10, "second"));
const asked = place(
  "c.jsonl",
  rows(10, "third").map(({ prompt, completion }) => ({ q: prompt, r: completion })),
);

async function load(more: object) {
  const events: TrainEvent[] = [];
  const options = resolveInput(
    trainDefinition,
    { model: "-", out: "-", sequenceLength: 64, ...more },
    "test",
  );
  const data = await loadTrainingData(text, options, (event) => events.push(event));
  const findings = preflight({
    ...{ train: data.train, report: data.report, sources: data.sources, rendering: { tokenizer } },
    evaluation: data.evaluation.length > 0 ? data.evaluation : undefined,
  });
  const messages = events.flatMap((event) => ("message" in event ? [event.message] : []));
  return { data, findings, messages };
}

const filesOf = (data: Awaited<ReturnType<typeof load>>["data"], indices: Iterable<number>) => {
  const counts: Record<string, number> = {};
  for (const index of indices) {
    const { file } = data.train.at(index)!.rowId;
    counts[file] = (counts[file] ?? 0) + 1;
  }
  return counts;
};

describe("sources", () => {
  it("without weights are one after the other, each row once", async () => {
    const { data, findings } = await load({ data: [a, b] });
    expect(data.draw).toBeUndefined();
    expect(
      filesOf(
        data,
        Array.from({ length: 40 }, (_, i) => i),
      ),
    ).toEqual({ "a.jsonl": 30, "b.jsonl": 10 });
    expect(data.report).toMatchObject({ rows: 40, samples: 40, format: "prompt-completion" });
    expect(findings.mix.map(({ share, passes }) => [share, passes])).toEqual([
      [0.75, 1],
      [0.25, 1],
    ]);
    expect(findings.mix.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(data.report.tokens);
  });

  it("with weights share an epoch, each by its own options", async () => {
    const columns = { prompt: "q", completion: "r" };
    const { data, findings } = await load({
      data: [`${a}:limit=12`, { path: b, weight: 3 }, { path: asked, columns, trainOn: "all" }],
    });
    expect(data.train.length).toBe(32);
    const shares = { "a.jsonl": 7, "b.jsonl": 19, "c.jsonl": 6 };
    for (const epoch of [0, 3]) expect(filesOf(data, data.draw!.epoch(epoch))).toEqual(shares);
    expect(findings.mix.map(({ weight, samplesPerEpoch }) => [weight, samplesPerEpoch])).toEqual([
      [1, 7],
      [3, 19],
      [1, 6],
    ]);
    const third = data.train.at(31)!;
    expect([...third.targetMask].filter((bit) => bit === 0)).toHaveLength(1);
    expect([...data.train.at(0)!.targetMask].filter((bit) => bit === 0).length).toBeGreaterThan(3);
  });

  it("keep their shares when rows are set aside, and no row is on both sides", async () => {
    const { data, findings } = await load({ data: [a, `${b}:weight=1`], evalFraction: 0.25, seed: 2 });
    expect(data.train.length + data.evaluation.length).toBe(40);
    const labels = new Set([...data.train].map(({ rowId }) => `${rowId.file} ${rowId.line}`));
    expect([...data.evaluation].some(({ rowId }) => labels.has(`${rowId.file} ${rowId.line}`))).toBe(false);
    const half = data.train.length / 2;
    for (const count of Object.values(filesOf(data, data.draw!.epoch(1)))) expect(count).toBe(half);
    expect(findings.mix.map(({ samples }) => samples)).toEqual(data.sources.map(({ count }) => count));
  });

  it("take --data-limit rows each, unless they have a limit", async () => {
    const { data } = await load({ data: [a, `${b}:limit=3`], dataLimit: 5 });
    expect(data.sources.map(({ count }) => count)).toEqual([5, 3]);
    expect((await load({ data: a, dataLimit: 7 })).data.train.length).toBe(7);
  });

  it("are told apart by contents and options, and one alone is its file", async () => {
    const one = await hashOfData(a);
    expect((await load({ data: a })).data.report.dataHash).toBe(one);
    expect((await load({ data: [a] })).data.report.dataHash).toBe(one);
    const mix = [{ path: a }, { path: b, weight: 2 }];
    const { dataHash } = (await load({ data: mix })).data.report;
    expect(dataHash).toBe(await hashOfData(mix));
    const moved = place("moved.jsonl", rows(10, "second"));
    expect(await hashOfData([mix[0]!, { path: moved, weight: 2 }])).toBe(dataHash);
    for (const other of [
      [mix[0]!, { path: b, weight: 3 }],
      [...mix].reverse(),
      [mix[0]!, { path: asked, weight: 2 }],
    ])
      expect(await hashOfData(other)).not.toBe(dataHash);
  });

  it("for evaluation have no weights", async () => {
    await expect(load({ data: a, evalData: `${b}:weight=2` })).rejects.toThrow(
      /weights belong to --data alone/,
    );
    expect((await load({ data: a, evalData: [b, { path: b, limit: 2 }] })).data.evaluation.length).toBe(12);
  });
});

/** Of a byte tokenizer every letter is a word. */
const story = (name: string) => ({
  text: `once there was a ${name} who lived in a house by the sea and was content`,
});

describe("copies", () => {
  const names = ["fox", "king of all the islands far away", "tailor with seven sons and no daughters"];
  const near = names.map((name) => ({ text: `${story(name).text}!` }));
  const copies = place("copies.jsonl", [
    ...names.map(story),
    ...near,
    story(names[0]!),
    { text: "0123456789" },
  ]);

  it("are told", async () => {
    const { findings } = await load({ data: copies, sequenceLength: 256 });
    expect(findings).toMatchObject({ samples: 8, duplicates: 1, nearDuplicates: 3 });
    const finding = findings.findings.find(({ code }) => code === "near-duplicates");
    expect(finding?.rows[0]).toBe("copies.jsonl line 4 (like copies.jsonl line 1)");
  });

  it("are left out when asked, the first of them kept", async () => {
    const { data, findings, messages } = await load({ data: copies, sequenceLength: 256, deduplicate: true });
    expect([...data.train].map(({ rowId }) => rowId.line)).toEqual([1, 2, 3, 8]);
    expect(findings).toMatchObject({ duplicates: 0, nearDuplicates: 0, mix: [{ samples: 4, rows: 8 }] });
    expect(messages).toEqual([
      "deduplicated: of 8 samples 1 equal an earlier one and 3 nearly do; 4 are left",
    ]);
  });

  it("in evaluation are told, equal and nearly equal ones apart", async () => {
    const train = place("train.jsonl", names.map(story));
    const held = place("held.jsonl", [near[0]!, story(names[1]!), { text: "0123456789" }]);
    const { findings } = await load({ data: train, evalData: held, sequenceLength: 256 });
    expect(findings).toMatchObject({ overlap: 1, nearOverlap: 1 });
    const finding = findings.findings.find(({ code }) => code === "near-overlap");
    expect(finding).toMatchObject({ level: "warn", rows: ["held.jsonl line 1 (like train.jsonl line 1)"] });
  });
});
