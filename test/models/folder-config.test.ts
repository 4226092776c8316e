// Folders whose tensors say more than config.json: a head of its own beside a tied embedding, names of a base class,
// tensors that no weight reads.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { mergeFolder } from "../../src/publish/merge-folder.ts";
import { quantizeFolder } from "../../src/publish/quantize-folder.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

type Config = Record<string, unknown>;
const configOf = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Config;
const writeConfig = (folder: string, config: Config) =>
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));

/** A tiny model whose tensors went through `change`. */
async function variant(
  name: string,
  of: string,
  change: (tensors: Map<string, Uint8Array>) => Map<string, Uint8Array>,
  config: Config = {},
): Promise<string> {
  const path = writeTinyModel(join(root, name), of);
  const folder = await openModelFolder(path);
  const tensors = new Map<string, Uint8Array>();
  const shapes = new Map<string, readonly number[]>();
  for (const [tensor, { shape }] of folder.tensors) {
    tensors.set(tensor, await folder.read(tensor));
    shapes.set(tensor, shape);
  }
  await folder.close();
  const changed = [...change(tensors)].map(([tensor, bytes]) => {
    const shape = shapes.get(tensor) ?? shapes.get(`model.${tensor}`) ?? [264, bytes.byteLength / 4 / 264];
    return { name: tensor, dtype: "F32" as const, shape, data: () => bytes };
  });
  await writeSafetensors(join(path, "model.safetensors"), changed);
  writeConfig(path, { ...configOf(path), ...config });
  return path;
}

const embedding = "model.embed_tokens.weight";
const withHead = (factor: number) => (tensors: Map<string, Uint8Array>) => {
  const values = new Float32Array(tensors.get(embedding)!.slice().buffer).map((value) => value * factor);
  return tensors.set("lm_head.weight", new Uint8Array(values.buffer));
};

async function logitsOf(path: string): Promise<{ logits: Float32Array; notes: string[] }> {
  const notes: string[] = [];
  const model = await openModel(backend, path, { tell: (note) => notes.push(note) });
  const logits = await tokenLogits(model.loaded.decoder, [3, 1, 4, 1, 5]);
  await model.close();
  return { logits, notes };
}

describe("a vocabulary that the stored table does not have", () => {
  it.each([1000, 100, 2 ** 24])("is refused before memory is taken: %d rows", async (rows) => {
    const path = await variant(`rows-${rows}`, "llama-mha", (tensors) => tensors, { vocab_size: rows });
    const before = backend.peakBytes;
    await expect(openModel(backend, path)).rejects.toThrow(
      rows === 100
        ? /the tokenizer has \d+ tokens but the model's embedding only 100/
        : new RegExp(`"${embedding}" has shape \\[264,\\d+\\], but config.json gives vocab_size ${rows};`),
    );
    expect(backend.peakBytes).toBe(before);
  });
});

describe("a stored head beside a tied embedding", () => {
  it("is used, and said, where it differs", async () => {
    const two = await logitsOf(await variant("two", "qwen2-tied", withHead(-2)));
    const untied = await logitsOf(
      await variant("untied", "qwen2-tied", withHead(-2), { tie_word_embeddings: false }),
    );
    const tied = await logitsOf(writeTinyModel(join(root, "tied"), "qwen2-tied"));
    expect(two.logits).toEqual(untied.logits);
    expect([...two.logits]).toEqual([...tied.logits].map((value) => -2 * value));
    expect(two.notes).toEqual([expect.stringContaining("lm_head.weight of its own, which differs")]);
    expect([...untied.notes, ...tied.notes]).toEqual([]);
  });

  it("stays tied where it is the same, in another type too", async () => {
    const same = await variant("same", "qwen2-tied", withHead(1));
    expect((await logitsOf(same)).notes).toEqual([]);
    const folder = await openModelFolder(same);
    expect((await readFolderConfig(folder)).tied).toBe(true);
    await folder.close();
  });

  it("survives merging and quantising, which write what they found", async () => {
    const two = await variant("two-out", "qwen2-tied", withHead(-2));
    const adapter = await writeRandomAdapter(join(root, "two-adapter"), two);
    const limits = {
      dtype: "auto",
      sampleTokens: 64,
      maxKl: 0.01,
      maxKlQuantized: 0.5,
      force: false,
    } as const;
    const warnings: string[] = [];
    const out = join(root, "two-merged");
    await mergeFolder(
      backend,
      { model: two, adapter, out, ...limits },
      { warn: (text) => warnings.push(text) },
    );
    expect(configOf(out).tie_word_embeddings).toBe(false);
    expect(warnings[0]).toContain("which differs");
    const quantized = join(root, "two-nf4");
    const how = { quantType: "nf4", blockSize: 32, doubleQuant: false } as const;
    await quantizeFolder(backend, { model: two, out: quantized, ...how });
    expect(configOf(quantized).tie_word_embeddings).toBe(false);
    const folder = await openModelFolder(quantized);
    expect(folder.tensors.has("lm_head.weight")).toBe(true);
    await folder.close();
  });
});

describe("a base class's folder", () => {
  const bare = (tensors: Map<string, Uint8Array>) =>
    new Map([...tensors].map(([name, bytes]) => [name.replace(/^model\./, ""), bytes]));

  it("loads when the head is tied", async () => {
    const base = await logitsOf(await variant("bare", "qwen2-tied", bare));
    expect(base.logits).toEqual((await logitsOf(writeTinyModel(join(root, "whole"), "qwen2-tied"))).logits);
    expect(base.notes).toEqual([]);
  });

  it("is refused when its head is nowhere", async () => {
    const headless = (tensors: Map<string, Uint8Array>) => {
      tensors.delete("lm_head.weight");
      return bare(tensors);
    };
    const path = await variant("headless", "llama-mha", headless, { architectures: ["LlamaModel"] });
    await expect(logitsOf(path)).rejects.toThrow(/no lm_head.weight.*saved as LlamaModel.*base class/);
  });
});

describe("tables of another size than config.json gives", () => {
  it.each([270, 260])("are refused, though adapters may resize them (vocab_size %i)", async (size) => {
    const path = await variant(`of-${size}`, "llama-mha", (tensors) => tensors, { vocab_size: size });
    const message = new RegExp(`of-${size}: tensor ".*" has shape \\[264,\\d+\\].*vocab_size ${size}`);
    await expect(logitsOf(path)).rejects.toThrow(message);
  });
});

describe("tensors without a place", () => {
  it("are named, tables that follow from config.json are not", async () => {
    const extra = (tensors: Map<string, Uint8Array>) => {
      const bytes = tensors.get(embedding)!;
      tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", bytes);
      return tensors.set("model.vision.patch", bytes).set("model.layers.9.mlp.up_proj.weight", bytes);
    };
    const { notes } = await logitsOf(await variant("extra", "llama-mha", extra));
    expect(notes).toEqual([
      expect.stringMatching(/2 tensors .* not used: .*model\.(vision\.patch|layers\.9)/),
    ]);
  });
});
