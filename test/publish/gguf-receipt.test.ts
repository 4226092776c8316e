// The receipt of an exported GGUF file: what it predicts is held against what it was made of; a file that is further from
// it than allowed is not written, unless forced. With node-llama-cpp (LOWRANK_LLAMA) llama.cpp reads it too.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { ggufReceipt, receiptProblems } from "../../src/publish/gguf-receipt.ts";
import { llama } from "./llama.ts";
import { scratchFolder, writeRandomAdapter } from "./tiny-model.ts";

const root = scratchFolder();
const model = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
const cache = process.env.LOWRANK_CACHE;
let backend: Backend;
beforeAll(async () => {
  process.env.LOWRANK_CACHE = join(root, "cache");
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => {
  backend.close();
  if (cache === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = cache;
});

const plain = { model, adapterOnly: false, modelfile: false, receipt: true } as const;

describe("a GGUF file's receipt", () => {
  it("holds a q8_0 file with an adapter merged in against both", async () => {
    const adapter = await writeRandomAdapter(join(root, "adapter"), model, {}, 0.02);
    const out = join(root, "q8.gguf");
    const { receipt } = await exportGguf(backend, { ...plain, adapter, out, type: "q8_0" });
    expect(receipt).toMatchObject({ file: out, tokens: 320, passed: true });
    expect(receipt!.source!.meanKl).toBeLessThan(1e-3);
    expect(receipt!.source!.meanKl).toBeGreaterThan(0);
    // Against the base alone it is another model.
    const without = await ggufReceipt(backend, { file: out, model, bound: 1e-3 });
    expect(without.passed).toBe(false);
    expect(receiptProblems(without).join()).toMatch(/nats from what it was made of, and 0\.001 are allowed/);
    if (llama.present) expect(receipt!.llamaCpp).toMatchObject({ passed: true });
    else expect(receipt!.llamaCpp).toHaveProperty("absent");
  });

  it("is a reason not to write a file, which --force overrides", async () => {
    const out = join(root, "far.gguf");
    const far = { ...plain, out, type: "q4_0", receiptBound: 1e-6 } as const;
    await expect(exportGguf(backend, far)).rejects.toThrow(/not written, for it is not what was exported/);
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(root).filter((name) => name.includes("unchecked"))).toEqual([]);
    const { receipt } = await exportGguf(backend, { ...far, force: true });
    expect(receipt).toMatchObject({ passed: false });
    expect(existsSync(out)).toBe(true);
  });
});
