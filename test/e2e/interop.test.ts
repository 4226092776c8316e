// Adapters between PEFT and us. Those that PEFT wrote (goldens) give its logits here;
// those written here load in PEFT with our logits, where LOWRANK_PYTHON names a Python that has it.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { attachLoadedAdapter } from "../../src/models/adapter.ts";
import { openModel } from "../../src/models/open-model.ts";
import { conformanceBackends } from "../conformance/backends.ts";
import { logitsOf, openGolden, relativeDifference } from "../conformance/model-case.ts";
import { python } from "../formats/python.ts";
import { floatsOf, loadModelGolden, writeAdapterFolder } from "../golden/load-golden.ts";
import { loadAdaptersGolden } from "../golden/typed-goldens.ts";
import { makeRows, scratchFolder, succeed, writeRows, writeTinyModel } from "./lowrank.ts";

const logitsTolerance = 1e-4;
/** bf16 keeps 8 bits: products of that precision stay within a few hundredths of the largest logit. */
const bf16Tolerance = 5e-2;

const folder = scratchFolder();
const { cases, base, seed, ids } = loadAdaptersGolden();
const written = (name: string) => {
  const { config, adapter } = cases[name]!;
  return writeAdapterFolder(join(folder, name), config, seed, adapter);
};

for (const { name: backendName, exact, open, skip } of conformanceBackends) {
  describe.skipIf(skip)(`adapters of PEFT on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    it.each(Object.keys(cases))("%s", async (name) => {
      const backend = await open();
      const loaded = await openGolden(backend, loadModelGolden(base));
      const before = backend.liveBytes;
      const bare = await logitsOf(backend, loaded, ids);
      const adapter = attachLoadedAdapter(loaded, await readAdapter(written(name)), { trains: false });
      const logits = await logitsOf(backend, loaded, ids);
      const expected = floatsOf(cases[name]!.logits);
      expect(relativeDifference(logits, expected)).toBeLessThan(exact ? logitsTolerance : bf16Tolerance);
      expect(relativeDifference(bare, expected)).toBeGreaterThan(0.1);
      adapter.free();
      expect(await logitsOf(backend, loaded, ids)).toEqual(bare);
      expect(backend.liveBytes - before).toBeLessThan(2 ** 16); // the rotary tables that the first pass made
      loaded.free();
      backend.close();
    });
  });
}

it.each(Object.keys(cases))("writes %s back", async (name) => {
  const loaded = await openGolden(openReference(), loadModelGolden(base));
  const original = await readAdapter(written(name));
  const adapter = attachLoadedAdapter(loaded, original, { trains: true });
  const copy = join(folder, `${name} copy`);
  await writeAdapter(copy, adapter.config, await adapter.read());
  const again = await readAdapter(copy);
  expect(again.modules).toEqual(original.modules);
  expect(again.replacements).toEqual(original.replacements);
  expect(again.settings).toEqual(original.settings);
});

const hasPeft = python.has("torch", "transformers", "peft");
const checker = fileURLToPath(new URL("../../tools/golden/check_adapter.py", import.meta.url));
/** Runs the checker once an adapter in one process: loading torch takes longer than all the rest. */
const runChecker = `
import os, runpy, sys
checker, base, *adapters = sys.argv[1:]
sys.path.insert(0, os.path.dirname(checker))
for adapter in adapters:
    sys.argv = [checker, "--base", base, "--adapter", adapter, "--logits", adapter + "/logits.json"]
    runpy.run_path(checker, run_name="__main__")
`;

it.skipIf(!hasPeft)(`PEFT reads what train writes (${hasPeft ? "live" : python.reason})`, async () => {
  const model = writeTinyModel(join(folder, "model"));
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(16));
  const flags: Record<string, string[]> = {
    "all-linear": [],
    dora: ["--adapter", "dora", "--lora-plus-ratio", "4"],
    "pissa of some ranks": ["--init", "pissa", "--rank-pattern", "q_proj=3", "--alpha-pattern", "up_proj=5"],
    "some layers, and modules whole": [
      ...["--layers", "1", "--exclude", "v", "--modules-to-save", "lm_head", "--modules-to-save", "norm"],
    ],
    "rslora attention": ["--rslora", "--targets", "attention", "--rank", "3"],
    regex: ["--targets", "/.*layers\\.1\\.(self_attn\\.(q|v)|mlp\\.down)_proj/", "--alpha", "5"],
  };
  const outs: string[] = [];
  for (const [name, more] of Object.entries(flags)) {
    const out = join(folder, `run ${name}`);
    outs.push(out);
    succeed(
      ...["train", "--model", model, "--data", data, "--out", out, "--backend", "reference"],
      ...["--max-steps", "3", "--learning-rate", "0.05", ...more],
    );
    const backend = openReference();
    const opened = await openModel(backend, model, { adapter: out });
    const logits = await logitsOf(backend, opened.loaded, ids);
    const width = opened.config.vocabularySize;
    const rows = ids.map((_, i) => [...logits.subarray(i * width, (i + 1) * width)]);
    writeFileSync(join(out, "logits.json"), JSON.stringify({ ids, logits: rows }));
    await opened.close();
  }
  const reports = python
    .run(runChecker, checker, model, ...outs)
    .trim()
    .split("\n");
  expect(reports).toHaveLength(outs.length);
  for (const [i, text] of reports.entries()) {
    const report = JSON.parse(text);
    expect(report, outs[i]).toMatchObject({ missing: [], unexpected: [] });
    expect(report.maxRelativeDifference, outs[i]).toBeLessThan(logitsTolerance);
    expect(report.adapterEffect, outs[i]).toBeGreaterThan(1e-2);
  }
});
