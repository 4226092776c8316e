// What a quantised base leaves of a comparison: adapters, and a word on full fine-tuning.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { methodsOfBase } from "../../src/compare/base-model.ts";
import type { CompareOptions } from "../../src/config/compare-options.ts";
import { unpackGguf } from "../../src/models/gguf/unpack.node.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-compare-base-"));
const cache = process.env.LOWRANK_CACHE;
const folder = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
const file = join(root, "blocks.gguf");

beforeAll(async () => {
  process.env.LOWRANK_CACHE = join(root, "cache");
  const options = { adapterOnly: false, modelfile: false };
  await exportGguf(openReference(), { ...options, model: folder, out: file, type: "q8_0" });
  await unpackGguf(file);
});
afterAll(() => {
  if (cache === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = cache;
  rmSync(root, { recursive: true, force: true });
});

async function methods(given: Partial<CompareOptions>) {
  const told: string[] = [];
  const options = { methods: ["full", "lora", "qlora"], model: file, ...given } as CompareOptions;
  return { left: await methodsOfBase(options, (message) => told.push(message)), told };
}

it("trains all of a base in floats", async () => {
  expect(await methods({ model: folder })).toEqual({ left: ["full", "lora", "qlora"], told: [] });
});

it("leaves full fine-tuning out where the base is quantised, and says so by the file's name", async () => {
  const { left, told } = await methods({});
  expect(left).toEqual(["lora", "qlora"]);
  expect(told).toEqual([expect.stringContaining(`left out: ${file}: the weights are quantised`)]);
});

it("is refused where nothing else is asked for, or shares of full fine-tuning are", async () => {
  await expect(methods({ methods: ["full"] })).rejects.toThrow(/full fine-tuning cannot train/);
  await expect(methods({ keep: 97.5 })).rejects.toThrow(/full fine-tuning cannot train/);
});
