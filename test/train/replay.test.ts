// Steps made again: bit-identical where nothing was changed, for every way of training; another where something was; and
// the run itself is only read.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { resolveInput } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { intervalsOf, type RecordedRun, replay, replayObstacle } from "../../src/train/replay.ts";
import { runTraining } from "../../src/train/run.ts";
import { backendName, makeRows, scratchFolder, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

const folder = scratchFolder();
const place = (name: string) => join(folder, name);
const model = writeTinyModel(place("model"));
const data = writeRows(place("rows.jsonl"), makeRows(24));
const more = writeRows(
  place("more.jsonl"),
  makeRows(40)
    .slice(24)
    .map(({ prompt, completion }) => ({ prompt: `more ${prompt}`, completion })),
);
const pairs = writeRows(
  place("pairs.jsonl"),
  makeRows(16).map(({ prompt, completion }) => ({ prompt, chosen: completion, rejected: " no" })),
);

async function run(name: string, input: object, stopAfter = Number.POSITIVE_INFINITY): Promise<string> {
  const out = place(name);
  const options = resolveInput(
    trainDefinition,
    { model, data, out, backend: backendName, batchSize: 2, maxSteps: 6, saveEvery: 3, ...input } as never,
    "train()",
  );
  let last = 0;
  await runTraining(
    options,
    (event) => {
      if (event.type === "train") last = event.step;
    },
    {
      get interrupted() {
        return last >= stopAfter - 1;
      },
    },
  );
  return out;
}

const recordOf = (out: string) => JSON.parse(readFileSync(join(out, "run.json"), "utf8")) as RecordedRun;

async function replayAll(out: string, record = recordOf(out), options = {}) {
  const results = [];
  for (const interval of await intervalsOf(out)) results.push(await replay(out, record, interval, options));
  return results;
}

function everythingIn(root: string): string {
  const hash = createHash("sha256");
  for (const name of (readdirSync(root, { recursive: true }) as string[]).sort()) {
    const path = join(root, name);
    hash.update(`${name}\n`);
    if (statSync(path).isFile()) hash.update(readFileSync(path));
  }
  return hash.digest("hex");
}

const ways: Record<string, object> = {
  "LoRA with dropout, packing and evaluation": {
    ...{ dropout: 0.1, packing: true, gradientAccumulation: 2, evalFraction: 0.2, evalEvery: 2 },
    ...{ schedule: "cosine", warmupSteps: 2, neftuneAlpha: 5 },
  },
  "QLoRA, in bf16": { method: "qlora", precision: "bf16" },
  "full, in 8-bit AdamW": { method: "full", optimizer: "adamw8bit" },
  "weighted sources": {
    data: [
      { path: data, weight: 3 },
      { path: more, weight: 1 },
    ],
  },
  preferences: { data: pairs, objective: "dpo" },
  "the best step's": {
    evalFraction: 0.3,
    evalEvery: 2,
    keepBest: "loss",
    maxNewTokens: 4,
    forget: data,
    keep: 1,
  },
  "a mean of checkpoints": { averageCheckpoints: 2, keep: 3 },
};

describe("an untouched run", () => {
  it.each(Object.entries(ways))("of %s is bit-identical", async (name, input) => {
    const out = await run(name, input);
    const before = everythingIn(out);
    const results = await replayAll(out);
    expect(results.at(-1)).toMatchObject({ to: 6, sameKind: true });
    for (const result of results) {
      expect(result).toMatchObject({ identical: true, passed: true, differences: [], weightDifference: 0 });
      expect(result.equalFiles).toEqual(
        expect.arrayContaining(["trainable.safetensors", "optimizer.safetensors"]),
      );
    }
    expect(everythingIn(out)).toBe(before);
  });

  it("that was interrupted, and one that was made longer afterwards", async () => {
    const out = await run("longer", { maxSteps: 4, schedule: "constant", saveEvery: 1000, keep: 9 }, 2);
    expect(await replayAll(out)).toMatchObject([{ from: 0, to: 2, identical: true }]);
    await run("longer", { maxSteps: 4, schedule: "constant", saveEvery: 1000, keep: 9, resume: true });
    await run("longer", { maxSteps: 7, schedule: "constant", saveEvery: 1000, keep: 9, resume: true });
    const results = await replayAll(out);
    expect(results.map(({ from, to, identical }) => [from, to, identical])).toEqual([
      [0, 2, true],
      [2, 4, true],
      [4, 7, true],
    ]);
  });
});

it("rows that have moved are found by their names, and keep what was said of each source", async () => {
  const own = place("before");
  const now = place("after");
  mkdirSync(own);
  writeRows(join(own, "learnt.jsonl"), makeRows(24));
  writeRows(join(own, "more.jsonl"), makeRows(12));
  writeRows(join(own, "held.jsonl"), makeRows(30).slice(24));
  const out = await run("moved", {
    data: [
      { path: join(own, "learnt.jsonl"), limit: 16, weight: 2 },
      { path: join(own, "more.jsonl"), weight: 1 },
    ],
    ...{ evalData: join(own, "held.jsonl"), keepBest: "loss", evalEvery: 2 },
  });
  const alone = await run("moved alone", { data: [{ path: join(own, "learnt.jsonl"), limit: 16 }] });
  renameSync(own, now);
  await expect(replay(out, recordOf(out), { from: 0, to: 3 })).rejects.toThrow(/learnt\.jsonl/);
  const files = ["held.jsonl", "more.jsonl", "learnt.jsonl"].map((name) => join(now, name));
  for (const data of [[now], files])
    expect(await replay(out, recordOf(out), { from: 0, to: 3 }, { data })).toMatchObject({ identical: true });
  renameSync(join(now, "learnt.jsonl"), join(now, "renamed.jsonl"));
  const data = [join(now, "renamed.jsonl")];
  expect(await replay(alone, recordOf(alone), { from: 0, to: 3 }, { data })).toMatchObject({
    identical: true,
  });
});

describe("a run that is not what it says", () => {
  it("in its metrics, its recipe, its rows or its base", async () => {
    const out = await run("changed", {});
    const record = recordOf(out);
    const [, second] = await intervalsOf(out);
    const metrics = readFileSync(join(out, "metrics.jsonl"), "utf8");
    writeFileSync(join(out, "metrics.jsonl"), metrics.replace(/("step":5,"loss":\d\.\d*)\d/, "$10"));
    expect((await replay(out, record, second!)).differences[0]).toMatch(/^step 5: loss was/);
    writeFileSync(join(out, "metrics.jsonl"), metrics);
    const other = { ...record, options: { ...(record.options as object), learningRate: 1e-3 } };
    await expect(replay(out, other, second!)).rejects.toThrow(/learningRate was 0.0002 and is now 0.001/);
    await expect(replay(out, record, second!, { data: [more] })).rejects.toThrow(/dataHash was/);
    const first = await replay(out, other, { from: 0, to: 3 });
    expect(first).toMatchObject({ passed: false, sameKind: true });
    expect(first.differences.join()).toMatch(/the recipe is another/);
  });
});

describe("on a machine of another kind", () => {
  it("losses are held to a bound", async () => {
    const out = await run("cpu", { precision: "fp32" });
    const record = { ...recordOf(out), device: "another card" };
    const [first] = await replayAll(out, record);
    // Here it is the same machine after all, so that nothing differs.
    expect(first).toMatchObject({ sameKind: false, identical: true, passed: true });
    if (backendName === "reference") return;
    const far = { ...recordOf(out), backend: "reference" };
    const [within] = await replayAll(out, far);
    expect(within).toMatchObject({ sameKind: false, identical: false, passed: true, tolerance: 1e-4 });
    expect(within!.largestLossDifference).toBeLessThan(1e-4);
    // So few steps may come to the same losses, adapter or not.
    const exact = await replayAll(out, far, { tolerance: 0 });
    for (const { passed, largestLossDifference } of exact) expect(passed).toBe(largestLossDifference === 0);
  });
});

it("what cannot be made again is told", () => {
  expect(replayObstacle({ options: { objective: "grpo" } })).toMatch(/rewards are functions of its user/);
  expect(replayObstacle({ options: { data: "memory:1" } })).toMatch(/--data F names a file/);
  expect(replayObstacle({ options: { data: "rows.jsonl" } })).toBeUndefined();
});
