// A run goes on under its own recipe alone: every option that is not named a place decides it, files by what they hold.

import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { resolveOptions } from "../../src/config/resolve.ts";
import { recipeOfRun, trainDefinition } from "../../src/config/train-options.ts";
import { identityOf, requireSameRun } from "../../src/train/run-identity.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-identity-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const inputs = {
  trainable: { modelHash: "m", model: { text: { hash: "t" } } } as never,
  data: { report: { dataHash: "d" } } as never,
};
const identify = (flags: Record<string, unknown>, totalSteps = 10) => {
  const options = resolveOptions(trainDefinition, { model: "tiny", data: "a.jsonl", out: "o", ...flags });
  return identityOf(options, inputs.trainable, inputs.data, totalSteps);
};
const stateOf = (identity: Record<string, unknown>) => ({ identity }) as never;

it("holds every option but the places, those of later options too", async () => {
  const options = resolveOptions(trainDefinition, { model: "tiny", data: "a.jsonl", out: "o" });
  const decides = Object.keys(trainDefinition.fields).filter((key) => !trainDefinition.places.includes(key));
  const given = Object.keys(options).filter((key) => decides.includes(key));
  expect(Object.keys(recipeOfRun(options)).sort()).toEqual(given.sort());
  const identity = await identify({});
  for (const key of given) expect(identity, key).toHaveProperty(key);
  for (const key of ["rank", "learningRate", "dropout", "packing", "seed", "beta2"])
    expect(identity, key).toHaveProperty(key);
  for (const place of ["out", "backend", "threads", "saveEvery", "keep", "vram", "model", "data", "resume"])
    expect(identity, place).not.toHaveProperty(place);
});

it("refuses another recipe by the option's name, and lets places change", async () => {
  const before = await identify({ rank: "8" });
  const same = await identify({ rank: "8", threads: "1", saveEvery: "3", keep: "5", out: "elsewhere" });
  expect(requireSameRun(stateOf(before), same, "c")).toBeUndefined();
  for (const [key, value] of [
    ["rank", "4"],
    ["dropout", "0.1"],
    ["weightDecay", "0"],
    ["packing", true],
    ["seed", "1"],
  ] as const) {
    const other = await identify({ rank: "8", [key]: value });
    expect(() => requireSameRun(stateOf(before), other, "c")).toThrow(new RegExp(`another run: ${key} was`));
  }
  const longer = await identify({ rank: "8" }, 20);
  expect(requireSameRun(stateOf(before), longer, "c")).toBe(10);
});

it("knows a file and an adapter by what they hold: they may move, and may not change", async () => {
  const template = join(folder, "a.jinja");
  writeFileSync(template, "one");
  const before = await identify({ chatTemplate: template });
  renameSync(template, join(folder, "b.jinja"));
  expect(await identify({ chatTemplate: join(folder, "b.jinja") })).toEqual(before);
  writeFileSync(join(folder, "b.jinja"), "two");
  const changed = await identify({ chatTemplate: join(folder, "b.jinja") });
  expect(() => requireSameRun(stateOf(before), changed, "c")).toThrow(/chatTemplate was/);

  const adapter = join(folder, "adapter");
  mkdirSync(adapter);
  writeFileSync(join(adapter, "adapter_model.safetensors"), "weights");
  const first = await identify({ initAdapter: adapter });
  writeFileSync(join(adapter, "README.md"), "beside it");
  expect(await identify({ initAdapter: adapter })).toEqual(first);
  writeFileSync(join(adapter, "adapter_model.safetensors"), "others");
  expect(await identify({ initAdapter: adapter })).not.toEqual(first);
});
