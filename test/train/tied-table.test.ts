// Tied models whose one table lies in the checkpoint under the head's name: they load, and full fine-tuning saves them.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { openModel } from "../../src/models/open-model.ts";
import { runTraining } from "../../src/train/run.ts";
import { logitsOf, relativeDifference } from "../conformance/model-case.ts";
import { makeRows, scratchFolder, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

const folder = scratchFolder();

/** The untied tiny model, declared tied, without the embedding under its own name. */
function writeTied(): string {
  const path = writeTinyModel(join(folder, "tied"));
  const configPath = join(path, "config.json");
  const config = JSON.parse(readFileSync(configPath, "utf8"));
  writeFileSync(configPath, JSON.stringify({ ...config, tie_word_embeddings: true }));
  const weightsPath = join(path, "model.safetensors");
  const bytes = readFileSync(weightsPath);
  // Another name of the same length: the header keeps its size.
  const at = bytes.indexOf('"model.embed_tokens.weight"');
  bytes.write('"model.other_tokens.weight"', at);
  writeFileSync(weightsPath, bytes);
  return path;
}

it("loads, trains in full and loads again", async () => {
  const model = writeTied();
  const backend = openReference();
  const opened = await openModel(backend, model);
  const logits = await logitsOf(backend, opened.loaded, [1, 50, 60]);
  expect(logits.every(Number.isFinite)).toBe(true);
  await opened.close();

  const out = join(folder, "out");
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(8));
  const options = resolveOptions(trainDefinition, {
    ...{ model, data, out, method: "full", backend: "reference", maxSteps: 1, learningRate: 1e-9 },
  });
  await runTraining(options, () => {}, { interrupted: false });
  const again = await openModel(backend, out);
  expect([...again.folder.tensors.keys()]).toContain("model.embed_tokens.weight");
  expect(relativeDifference(await logitsOf(backend, again.loaded, [1, 50, 60]), logits)).toBeLessThan(1e-5);
  await again.close();
  expect(backend.liveBytes).toBe(0);
});
