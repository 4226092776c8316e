// Families beyond LLaMA's four as GGUF: what is written of each, what is refused because llama.cpp computes something else,
// and, where node-llama-cpp is there, its greedy texts and log-probabilities beside ours, with adapters and without.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { ggufArchitecture } from "../../src/models/gguf/names.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { writeModelFolder } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";
import { llama, openLlama } from "./llama.ts";
import { scratchFolder, writeRandomAdapter } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => backend.close());

type Config = Readonly<Record<string, unknown>>;

const shape = {
  ...{
    vocab_size: 264,
    hidden_size: 64,
    intermediate_size: 96,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  },
  ...{ max_position_embeddings: 256, rms_norm_eps: 1e-5, bos_token_id: 0, eos_token_id: 1, dtype: "float32" },
};
const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16 };

const models: Readonly<Record<string, Config>> = {
  gemma3: {
    ...{ model_type: "gemma3_text", num_hidden_layers: 7, head_dim: 32, query_pre_attn_scalar: 32 },
    ...{ sliding_window: 16, rope_local_base_freq: 1e4, rope_theta: 1e6, intermediate_size: 96 },
    rope_scaling: { rope_type: "linear", factor: 8 },
  },
  phi3: { model_type: "phi3", num_hidden_layers: 2, partial_rotary_factor: 0.5, tie_word_embeddings: true },
  "phi3-longrope": {
    ...{ model_type: "phi3", num_hidden_layers: 2, original_max_position_embeddings: 256 },
    rope_scaling: {
      type: "longrope",
      short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
      long_factor: Array(8).fill(4),
    },
  },
  ministral3: {
    ...{ model_type: "ministral3", num_hidden_layers: 2, head_dim: 32 },
    rope_parameters: {
      ...{ ...yarn, rope_theta: 1e4, mscale: 1, mscale_all_dim: 1, llama_4_scaling_beta: 0.3 },
    },
  },
  granite: {
    ...{ model_type: "granite", num_hidden_layers: 2, attention_bias: true, mlp_bias: true },
    ...{ embedding_multiplier: 3, logits_scaling: 2, residual_multiplier: 0.4, attention_multiplier: 0.2 },
  },
  "granite-hybrid": {
    ...{
      model_type: "granitemoehybrid",
      num_hidden_layers: 2,
      num_local_experts: 0,
      embedding_multiplier: 2,
    },
    ...{ shared_intermediate_size: 96, layer_types: ["attention", "attention"], attention_multiplier: 0.3 },
    ...{ residual_multiplier: 0.5, logits_scaling: 4, tie_word_embeddings: true },
  },
  smollm3: { model_type: "smollm3", num_hidden_layers: 4 },
  exaone4: {
    ...{ model_type: "exaone4", num_hidden_layers: 2, sliding_window: null },
    layer_types: ["full_attention", "full_attention"],
    rope_parameters: {
      ...{ rope_type: "llama3", rope_theta: 1e4, factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: 32,
    },
  },
  seed_oss: { model_type: "seed_oss", num_hidden_layers: 2, head_dim: 32 },
  hunyuan: {
    ...{ model_type: "hunyuan_v1_dense", num_hidden_layers: 2, head_dim: 32, tie_word_embeddings: true },
    rope_parameters: { rope_type: "dynamic", rope_theta: 1e4, alpha: 50, factor: 1 },
  },
  olmo2: { model_type: "olmo2", num_hidden_layers: 2, tie_word_embeddings: true },
  olmo3: {
    ...{ model_type: "olmo3", num_hidden_layers: 4, sliding_window: 12 },
    rope_parameters: {
      full_attention: { ...yarn, rope_theta: 1e4 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  },
};

/** Writes a model of formula weights whose vocabulary is bytes. */
function writeModel(name: string, change: Config = {}): string {
  // llama.cpp expects certain tokens of whatever is called Phi-3.
  const folder = join(root, `${name.replace("phi3", "fused")}-${Object.keys(change).join("-")}`);
  const config = { ...shape, ...models[name], ...change };
  const tensors = weightSpecs(readModelConfig(config)).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  writeModelFolder({ seed: 77, tensors, config, configTransformers4: config }, folder);
  const files = byteTokenizerFiles();
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(files.tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
  return folder;
}

async function exported(model: string, options: { adapter?: string; adapterOnly?: boolean } = {}) {
  const out = `${model}${options.adapter ? "-adapted" : ""}${options.adapterOnly ? "-lora" : ""}.gguf`;
  const warnings: string[] = [];
  await exportGguf(
    backend,
    { model, out, type: "f32", adapterOnly: false, modelfile: false, ...options },
    (message) => void warnings.push(message),
  );
  return { out, warnings };
}

async function contentOf(out: string) {
  const file = await openGguf(await openFile(out));
  const value = (key: string) => file.metadata.get(key)?.value;
  const floats = async (name: string) => decodeToF32(await file.readTensor(name), "f32");
  return { file, value, floats, [Symbol.asyncDispose]: () => file.close() };
}

describe("GGUF of newer families", () => {
  it("writes Gemma 3's norms as 1 + w and both RoPEs", async () => {
    const model = writeModel("gemma3");
    const { out } = await exported(model);
    await using content = await contentOf(out);
    const { value, floats } = content;
    expect(value("general.architecture")).toBe("gemma3");
    expect(value("gemma3.attention.sliding_window")).toBe(16);
    expect(value("gemma3.rope.freq_base")).toBe(1e6);
    expect(value("gemma3.rope.scaling.factor")).toBe(8);
    expect(value("gemma3.rope.freq_base_swa")).toBe(1e4);
    const opened = await openModel(backend, model);
    for (const [ours, theirs] of [
      ["model.layers.1.post_feedforward_layernorm", "blk.1.post_ffw_norm"],
      ["model.layers.1.pre_feedforward_layernorm", "blk.1.ffn_norm"],
      ["model.layers.1.post_attention_layernorm", "blk.1.post_attention_norm"],
      ["model.layers.1.self_attn.q_norm", "blk.1.attn_q_norm"],
      ["model.norm", "output_norm"],
    ] as const) {
      const stored = decodeToF32(await opened.folder.read(`${ours}.weight`), "f32");
      expect(await floats(`${theirs}.weight`)).toEqual(stored.map((each) => each + 1));
    }
    await opened.close();
  });

  it("splits Granite 4's gate and up, and copies OLMo's tied head", async () => {
    const granite = await exported(writeModel("granite-hybrid"));
    {
      await using content = await contentOf(granite.out);
      expect(content.value("general.architecture")).toBe("granite");
      expect(content.value("granite.rope.scaling.finetuned")).toBe(false);
      for (const part of ["gate", "up"])
        expect(content.file.tensors.get(`blk.0.ffn_${part}.weight`)?.shape).toEqual([96, 64]);
    }
    const olmo = await exported(writeModel("olmo2"));
    await using content = await contentOf(olmo.out);
    expect(await content.floats("output.weight")).toEqual(await content.floats("token_embd.weight"));
  });

  it.each([
    ["gemma3", { query_pre_attn_scalar: 20 }, "scales scores"],
    ["gemma3", { final_logit_softcapping: 30 }, "caps its logits"],
    ["gemma3", { sliding_window_pattern: 3 }, "five of six"],
    ["smollm3", { no_rope_layer_interval: 2 }, "three of four"],
    ["olmo3", { layer_types: Array(4).fill("full_attention") }, "three of four"],
    ["olmo2", { head_dim: 8 }, "wider or narrower"],
    ["smollm3", { attention_bias: true }, "biases"],
    ["exaone4", { sliding_window: 8, layer_types: undefined }, "64 layers"],
    ["seed_oss", { attention_out_bias: true }, "biases"],
    ["hunyuan", { attention_bias: true }, "biases"],
  ] as const)("refuses %s with %j", async (name, change, why) => {
    await expect(exported(writeModel(name, change))).rejects.toThrow(why);
  });

  it("refuses by name what llama.cpp's like is not written for", () => {
    const config = { ...readModelConfig({ ...shape, ...models.granite }), modelType: "unheard_of" };
    expect(() => ggufArchitecture(config)).toThrow('model_type "unheard_of" cannot be exported to GGUF');
  });
});

describe.skipIf(!llama.present)(`llama.cpp (${llama.reason})`, () => {
  const text = "Once upon a time, there was a girl named Lily.";

  /** The largest difference of log-probabilities. Greedy texts must be equal, but for a tie of two tokens within `bound`. */
  async function compare(
    model: string,
    gguf: string,
    bound: number,
    options: { adapter?: string; lora?: string } = {},
  ): Promise<number> {
    await using opened = await openModel(backend, model, { adapter: options.adapter });
    const { decoder } = opened.loaded;
    const other = await openLlama(gguf, options.lora);
    try {
      const prompt = [0, ...other.tokenize(text)];
      const [ours] = await generateBatch(decoder, [
        { promptIds: prompt, maxNewTokens: 32, stopIds: [], sampling: greedy },
      ]);
      const theirs = await other.greedy(prompt, 32);
      const whole = [...prompt, ...ours!.tokenIds];
      const logits = await tokenLogits(decoder, whole);
      const width = opened.config.vocabularySize;
      const rowAt = (t: number) => logits.subarray(t * width, (t + 1) * width);
      const first = theirs.findIndex((id, i) => id !== ours!.tokenIds[i]);
      if (first >= 0) {
        const row = rowAt(prompt.length + first - 1);
        expect(row[ours!.tokenIds[first]!]! - row[theirs[first]!]!).toBeLessThan(bound);
      }
      let worst = 0;
      for (const [t, probabilities] of (await other.probabilities(prompt)).entries()) {
        const row = rowAt(t);
        const norm = Math.log(row.reduce((sum, each) => sum + Math.exp(each), 0));
        for (const [id, p] of probabilities)
          if (p > 1e-6) worst = Math.max(worst, Math.abs(Math.log(p) - (row[id]! - norm)));
      }
      return worst;
    } finally {
      await other.close();
    }
  }

  it.each(Object.keys(models))(
    "%s: greedy text and log-probabilities, adapted and merged too",
    async (name) => {
      // llama.cpp's GELU is a table of f16 numbers.
      const bound = name === "gemma3" ? 1e-1 : 1e-2;
      const model = writeModel(name);
      const { out } = await exported(model);
      expect(await compare(model, out, bound)).toBeLessThan(bound);
      const adapter = await writeRandomAdapter(join(root, `${name}-adapter`), model, {}, 0.05);
      const merged = await exported(model, { adapter });
      expect(await compare(model, merged.out, bound, { adapter })).toBeLessThan(bound);
      const lora = await exported(model, { adapter, adapterOnly: true });
      expect(await compare(model, out, bound, { adapter, lora: lora.out })).toBeLessThan(bound);
    },
  );
});
