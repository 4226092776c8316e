// Tokenizers whose files are older than the key that names their kind (GPT-2's own is one): with merges they are BPE.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { scratchFolder, writeTinyModel } from "./tiny-model.ts";

const root = scratchFolder();

async function exported(name: string, change: (model: Record<string, unknown>) => void) {
  const model = writeTinyModel(join(root, name));
  const file = join(model, "tokenizer.json");
  const json = JSON.parse(readFileSync(file, "utf8"));
  change(json.model);
  writeFileSync(file, JSON.stringify(json));
  const out = join(root, `${name}.gguf`);
  const options = { adapterOnly: false, modelfile: false, preTokenizer: "gpt-2" };
  await exportGguf(openReference(), { ...options, model, out, type: "f32" });
  const read = await openGguf(await openFile(out));
  const { metadata } = read;
  await read.close();
  return [...metadata].filter(([key]) => key.startsWith("tokenizer."));
}

it("is exported as what it is", async () => {
  const named = await exported("named", () => {});
  const unnamed = await exported("unnamed", (model) => {
    delete model.type;
  });
  expect(unnamed).toEqual(named);
  expect(named.length).toBeGreaterThan(5);
});

it("is refused where nothing tells its kind", async () => {
  const change = (model: Record<string, unknown>) => {
    delete model.type;
    delete model.merges;
  };
  await expect(exported("neither", change)).rejects.toThrow(/model|BPE|merges/);
});
