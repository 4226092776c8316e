// The receipt of an exported GGUF file: what it predicts is held against what it was made of; a file that is further from
// it than allowed is not written, unless forced. With node-llama-cpp (LOWRANK_LLAMA) llama.cpp reads it too.

import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { ggufPlace } from "../../src/formats/gguf-place.ts";
import { unpackGguf } from "../../src/models/gguf/unpack.node.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { ggufReceipt, receiptProblems } from "../../src/publish/gguf-receipt.ts";
import { UserError } from "../../src/util/errors.ts";
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

/** A folder with a node-llama-cpp that loads no model. */
function writeStandIn(folder: string, reason: string): string {
  return writeLlama(folder, `async () => { throw new Error(${JSON.stringify(reason)}); }`);
}

/** One that loads every model, says nothing of what comes next, and makes of each text the token 7. */
const otherTokens = `async () => ({
  tokenize: () => [7],
  createContext: async () => ({
    getSequence: () => ({ clearHistory: async () => {}, controlledEvaluate: async () => [] }),
    dispose: async () => {},
  }),
  dispose: async () => {},
})`;

function writeLlama(folder: string, loadModel: string): string {
  const package_ = join(folder, "node_modules", "node-llama-cpp");
  mkdirSync(package_, { recursive: true });
  writeFileSync(join(folder, "package.json"), "{}");
  writeFileSync(
    join(package_, "package.json"),
    JSON.stringify({ name: "node-llama-cpp", type: "module", main: "index.js" }),
  );
  writeFileSync(
    join(package_, "index.js"),
    `export const LlamaLogLevel = {};
export const getLlama = async () => ({
  loadModel: ${loadModel},
  dispose: async () => {},
});
`,
  );
  return folder;
}

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

  it("does not pass a file that llama.cpp does not load, but for want of memory", async () => {
    const place = process.env.LOWRANK_LLAMA;
    const out = join(root, "not-loaded.gguf");
    const tried = { ...plain, out, type: "q8_0" } as const;
    try {
      process.env.LOWRANK_LLAMA = writeStandIn(join(root, "llama-a"), "unknown model architecture");
      await expect(exportGguf(backend, tried)).rejects.toThrow(
        /not written.*llama\.cpp does not load it: unknown model architecture/,
      );
      expect(existsSync(out)).toBe(false);
      const { receipt } = await exportGguf(backend, { ...tried, force: true });
      expect(receipt).toMatchObject({ passed: false, llamaCpp: { refused: "unknown model architecture" } });
      process.env.LOWRANK_LLAMA = writeStandIn(join(root, "llama-b"), "insufficient memory");
      expect(await ggufReceipt(backend, { file: out })).toMatchObject({
        ...{ passed: true, llamaCpp: { absent: "insufficient memory" } },
      });
    } finally {
      if (place === undefined) delete process.env.LOWRANK_LLAMA;
      else process.env.LOWRANK_LLAMA = place;
    }
  });

  it("does not pass a file whose texts llama.cpp makes other tokens of", async () => {
    const place = process.env.LOWRANK_LLAMA;
    try {
      process.env.LOWRANK_LLAMA = writeLlama(join(root, "llama-c"), otherTokens);
      const tried = { ...plain, out: join(root, "other-tokens.gguf"), type: "q8_0" } as const;
      await expect(exportGguf(backend, tried)).rejects.toThrow(
        /not written.*llama\.cpp makes other tokens of the sample texts/,
      );
    } finally {
      if (place === undefined) delete process.env.LOWRANK_LLAMA;
      else process.env.LOWRANK_LLAMA = place;
    }
  });

  it("is bounded by the type that the file is named after", async () => {
    const adapter = await writeRandomAdapter(join(root, "slight"), model, {}, 0.06);
    for (const [type, bound] of [
      ["f16", 1e-3],
      ["q5_k_m", 0.15],
      ["q4_0", 0.4],
    ] as const) {
      const out = join(root, `${type}.gguf`);
      await exportGguf(backend, { ...plain, receipt: false, out, type });
      const { source } = await ggufReceipt(backend, { file: out, model });
      expect(source).toMatchObject({ bound, passed: true });
      expect(source!.meanKl, type).toBeLessThan(bound / 4);
    }
    // The same distance is a fault of the one and the rounding of the other.
    const [exact, rounded] = await Promise.all(
      ["f16", "q4_0"].map((type) =>
        ggufReceipt(backend, { file: join(root, `${type}.gguf`), model, adapter }),
      ),
    );
    expect(exact!.source!.meanKl).toBeGreaterThan(1e-3);
    expect(rounded!.source!.meanKl).toBeLessThan(0.4);
    expect([exact!.passed, rounded!.passed]).toEqual([false, true]);
  });

  it("leaves nothing of the file under the name that it was read back by", async () => {
    const cache = process.env.LOWRANK_CACHE;
    process.env.LOWRANK_CACHE = join(root, "receipts");
    try {
      const out = join(root, "kept.gguf");
      // Of one that was killed while it wrote.
      const killed = join(root, ".kept.unchecked.gguf.1-0123abcd.tmp");
      writeFileSync(killed, "half");
      await exportGguf(backend, { ...plain, out, type: "q8_0" });
      const far = { ...plain, out, type: "q4_0", receiptBound: 1e-6 } as const;
      await expect(exportGguf(backend, far)).rejects.toThrow(/not written/);
      expect(readdirSync(join(root, "receipts", "gguf"))).toEqual([]);
      expect(existsSync(killed)).toBe(false);
    } finally {
      process.env.LOWRANK_CACHE = cache;
    }
  });
});

describe("an export", () => {
  it("writes over nothing that it reads, and no result over the other", async () => {
    const rows = join(root, "rows.jsonl");
    const text = '{"text":"Once upon a time there was a little girl."}\n';
    writeFileSync(rows, text);
    const base = join(root, "base.gguf");
    await exportGguf(backend, { ...plain, receipt: false, out: base, type: "q8_0" });
    const bytes = readFileSync(base);
    await unpackGguf(base);
    const out = join(root, "out.gguf");
    const weighed = { ...plain, receipt: false, out, type: "q4_0", importance: rows } as const;
    const onto = (change: object) => exportGguf(backend, { ...weighed, ...change });
    const link = join(root, "link.gguf");
    symlinkSync(base, link);
    for (const own of [base, link]) {
      await expect(onto({ model: ggufPlace(base).folder, out: own })).rejects.toThrow(/this is the model/);
    }
    await expect(onto({ writeImportance: rows })).rejects.toThrow(/this is what --importance names/);
    await expect(onto({ out: rows })).rejects.toThrow(/this is what --importance names/);
    await expect(onto({ writeImportance: out })).rejects.toThrow(/this is what --out names/);
    mkdirSync(join(root, "folder.gguf"));
    await expect(onto({ out: join(root, "folder.gguf") })).rejects.toThrow(UserError);
    expect(readFileSync(rows, "utf8")).toBe(text);
    expect(readFileSync(base).equals(bytes)).toBe(true);
    expect(existsSync(out)).toBe(false);
  });
});
