// GGUF files as bases: what is written of a model of every architecture that is read back has its configuration, its
// weights to the bit, its tokenizer's ids and its template; what cannot be a base says so.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import type { GgufModelFolder } from "../../src/formats/gguf-folder.ts";
import { locateModel } from "../../src/formats/locate-model.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { fromSafetensorsDType } from "../../src/formats/safetensors.ts";
import type { DecoderConfig, Json } from "../../src/models/decoder-config.ts";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { denseSource } from "../../src/models/dense-source.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { unpackGguf } from "../../src/models/gguf/unpack.node.ts";
import { folderSource, openModel } from "../../src/models/open-model.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import type { GgufFileType } from "../../src/publish/gguf-mix.ts";
import { decodeGguf } from "../../src/quant/ggml/index.ts";
import { decodeToF32, dtypeBytes } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import { type MixtureGolden, mixtureGoldens, writeMixture } from "../golden/mixtures.ts";
import { writeTinyModel } from "../publish/tiny-model.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

const root = mkdtempSync(path.join(tmpdir(), "lowrank-gguf-base-"));
const cache = process.env.LOWRANK_CACHE;
let backend: Backend;
beforeAll(async () => {
  process.env.LOWRANK_CACHE = path.join(root, "cache");
  backend = await openBackend("reference");
});
afterAll(() => {
  if (cache === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = cache;
  rmSync(root, { recursive: true, force: true });
});

async function exported(model: string, type: GgufFileType = "f32"): Promise<string> {
  const out = `${model}-${type}.gguf`;
  await exportGguf(backend, {
    model,
    out,
    type,
    adapterOnly: false,
    modelfile: false,
    preTokenizer: "gpt-2",
  });
  await unpackGguf(out);
  return locateModel(out);
}

/** What of a configuration decides what is computed. */
function computed({ notes: _, modelType, ropes, ...config }: DecoderConfig) {
  const layers = config.layers.map(({ rope, ...layer }) => ({
    ...layer,
    rope: rope === undefined ? undefined : ropes[rope],
  }));
  return JSON.parse(JSON.stringify({ ...config, layers }));
}

/** Numbers of f32 metadata come back within its rounding. */
function expectAlike(found: unknown, expected: unknown, where = ""): void {
  if (typeof expected === "number") {
    expect(typeof found, where).toBe("number");
    expect(Math.abs((found as number) - expected), where).toBeLessThanOrEqual(1e-6 * Math.abs(expected));
    return;
  }
  if (expected === null || typeof expected !== "object") {
    expect(found, where).toEqual(expected);
    return;
  }
  expect(Object.keys(found as object).sort(), where).toEqual(Object.keys(expected).sort());
  for (const [key, value] of Object.entries(expected))
    expectAlike((found as Record<string, unknown>)[key], value, `${where}.${key}`);
}

/** The goldens whose files are read back, and what llama.cpp's like of them asks of their config.json. */
const readable: Readonly<Record<string, (config: Json) => Json>> = {
  ...Object.fromEntries(
    [
      ...["llama-mha", "llama-bias", "llama-head-dim", "llama-linear", "llama-gqa-tied-llama3"],
      ...["qwen2-tied", "qwen3", "phi3-longrope", "phi3-crossing", "granite"],
      ...["olmo2", "olmo3", "seed-oss", "hunyuan", "lfm2"],
    ].map((name) => [name, (config: Json) => config]),
  ),
  gemma2: (config) => ({ ...config, query_pre_attn_scalar: config.head_dim }),
  "gemma3-text": ({ layer_types: _, ...config }) => ({
    ...config,
    query_pre_attn_scalar: config.head_dim,
    sliding_window_pattern: 6,
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 1e6 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  }),
  exaone4: ({ layer_types: _, sliding_window: __, ...config }) => ({ ...config, sliding_window: null }),
  // llama.cpp keeps value heads apart, a key's heads not side by side: 2 of keys, 4 and 6 of values.
  "qwen3-5": (config) => config,
  gemma4: (config) => config,
  "gemma4-per-layer": (config) => config,
  // What a file tells is how many pairs turn: one of six.
  "gemma4-unified": (config) => ({
    ...{ ...config, attention_bias: false },
    rope_parameters: {
      ...(config.rope_parameters as Json),
      full_attention: { rope_type: "proportional", rope_theta: 1e6, partial_rotary_factor: 1 / 6 },
    },
  }),
  ministral3: (config) => ({
    ...config,
    rope_parameters: { ...(config.rope_parameters as Json), mscale_all_dim: 1 },
  }),
  smollm3: ({ no_rope_layers: _, ...config }) => ({ ...config, no_rope_layer_interval: 4 }),
};

/** A mixture whose vocabulary holds the tokens of bytes, and whose router is as llama.cpp has it. */
function withBytes(golden: MixtureGolden): MixtureGolden {
  const vocabulary = 264;
  return {
    ...golden,
    config: {
      ...golden.config,
      ...{ vocab_size: vocabulary, norm_topk_prob: true, swiglu_limit: 7, swiglu_alpha: 1.702 },
      ...("vocab_size_per_layer_input" in golden.config ? { vocab_size_per_layer_input: vocabulary } : {}),
      ...(golden.config.model_type === "mixtral" ? { sliding_window: null } : {}),
    },
    tensors: golden.tensors.map(({ name, shape }) => ({
      name,
      shape: /embed_tokens|lm_head/.test(name) ? [vocabulary, ...shape.slice(1)] : shape,
    })),
  };
}

describe("a GGUF file as a base", () => {
  it.each(Object.keys(readable))("%s: the same model", async (name) => {
    const model = writeTinyModel(path.join(root, name), name);
    const file = path.join(model, "config.json");
    writeFileSync(file, JSON.stringify(readable[name]!(JSON.parse(readFileSync(file, "utf8")))));
    const folderPath = await exported(model);
    const [original, read] = await Promise.all([openModelFolder(model), openModelFolder(folderPath)]);
    const expected = await readFolderConfig(original);
    const config = await readFolderConfig(read);
    expectAlike(computed(config), computed(expected));
    const [from, back] = [folderSource(original), folderSource(read)];
    for (const { name: weight } of weightSpecs(expected)) {
      const [a, b] = [from, back].map((source) => source.find(weight));
      if (!a) continue;
      expect(b?.shape, weight).toEqual(a.shape);
      const [x, y] = await Promise.all([original.read(weight), read.read(weight)]);
      const [found, wanted] = [decodeToF32(y, b!.dtype), decodeToF32(x, a.dtype)];
      if (expected.normShift === 0) expect(found, weight).toEqual(wanted);
      else for (const [i, value] of wanted.entries()) expect(found[i], weight).toBeCloseTo(value, 6);
    }
    await original.close();
    await read.close();
  });

  it.each(["qwen3-moe-fused", "mixtral", "gpt-oss", "gpt-oss-mxfp4", "qwen3-5-moe", "gemma4-moe"])(
    "mixture %s: the same experts, row by row",
    async (name) => {
      const model = await writeMixture(withBytes(mixtureGoldens[name]!), path.join(root, name));
      const files = byteTokenizerFiles();
      writeFileSync(path.join(model, "tokenizer.json"), JSON.stringify(files.tokenizer));
      writeFileSync(path.join(model, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
      const folderPath = await exported(model);
      const read = await openModelFolder(folderPath);
      await using opened = await openModel(backend, model);
      expectAlike(computed(await readFolderConfig(read)), computed(opened.config));
      const original = denseSource(opened.folder, opened.config);
      for (const { name: weight } of weightSpecs(opened.config)) {
        const entry = read.tensors.get(weight)!;
        const { dtype, shape } = original.find(weight)!;
        const size = elementCount(shape) * dtypeBytes[dtype];
        const a = decodeToF32(await original.read(weight, 0, size), dtype);
        const b = decodeToF32(await read.read(weight), fromSafetensorsDType(entry.dtype)!);
        // A shift of norms, and a logarithm of decays, round.
        if (opened.config.normShift === 0) expect(b, weight).toEqual(a);
        else for (const [i, value] of a.entries()) expect(b[i], weight).toBeCloseTo(value, 6);
      }
      await read.close();
    },
  );

  it("puts heads back that its blocks have in another order, rows and columns", async () => {
    const model = writeTinyModel(path.join(root, "qwen3-5-blocks"), "qwen3-5");
    const [original, read] = await Promise.all([
      openModelFolder(model),
      openModelFolder(await exported(model, "q8_0")),
    ]);
    const source = folderSource(original);
    for (const weight of ["in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"]) {
      const name = `model.layers.0.linear_attn.${weight}.weight`;
      expect((read as GgufModelFolder).typeOf(name), name).toBe(weight === "out_proj" ? undefined : "q8_0");
      const wanted = decodeToF32(await original.read(name), source.find(name)!.dtype);
      const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const [i, value] of decodeToF32(await read.read(name), "f32").entries())
        expect(Math.abs(value - wanted[i]!), name).toBeLessThan(largest / 100);
    }
    await original.close();
    await read.close();
  });

  it("has the tokens, the template and the ends of the model", async () => {
    const model = writeTinyModel(path.join(root, "texts"), "qwen3");
    writeFileSync(path.join(model, "chat_template.jinja"), "{{ messages[0].content }}");
    const folder = await exported(model);
    await using from = await openModel(backend, model);
    await using back = await openModel(backend, folder);
    const text = "Once upon a time, naïve 12 words.\n";
    expect(back.tokenizer.encode(text)).toEqual(from.tokenizer.encode(text));
    expect(back.tokenizer.eosIds).toEqual(from.tokenizer.eosIds);
    expect(back.text.template?.hash).toBe(from.text.template?.hash);
  });

  it("reads blocks as the file has them, heads put back in their order", async () => {
    const model = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
    const out = path.join(root, "blocks.gguf");
    await exportGguf(backend, { model, out, type: "q8_0", adapterOnly: false, modelfile: false });
    await unpackGguf(out);
    const folder = (await openModelFolder(locateModel(out))) as GgufModelFolder;
    const name = "model.layers.0.self_attn.q_proj.weight";
    const whole = await folder.read(name);
    const blocks = await folder.readBlocks(name);
    expect(blocks?.type).toBe("q8_0");
    expect(decodeGguf(blocks!.bytes, "q8_0")).toEqual(decodeToF32(whole, "f32"));
    const some = await folder.readBlocks(name, 5, 9);
    const [rows, width] = folder.tensors.get(name)!.shape as [number, number];
    expect(decodeGguf(some!.bytes, "q8_0")).toEqual(decodeToF32(whole, "f32").slice(5 * width, 9 * width));
    const original = await openModelFolder(model);
    const source = folderSource(original);
    const { dtype } = source.find(name)!;
    const dense = decodeToF32(await original.read(name), dtype);
    const largest = dense.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, value] of decodeToF32(whole, "f32").entries())
      expect(Math.abs(value - dense[i]!)).toBeLessThan(largest / 100);
    // Any stretch of bytes is what the whole has there.
    for (const [begin, length] of [
      [0, 4],
      [4 * width - 8, 16],
      [4 * width * (rows - 1) + 4, 4 * width - 4],
    ] as const) {
      expect(await folder.readRange(name, begin, length)).toEqual(whole.slice(begin, begin + length));
    }
    await original.close();
    await folder.close();
  });
});
