// Families beyond LLaMA's four as GGUF: what is written of each, and what is refused because llama.cpp computes something
// else. What llama.cpp answers from the files: gguf-llama.test.ts.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { ggufArchitecture } from "../../src/models/gguf/names.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { families, familyShape, writeFamily } from "./families.ts";
import { scratchFolder, writeRandomAdapter } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => backend.close());

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
    const model = writeFamily(root, "gemma3");
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
    const granite = await exported(writeFamily(root, "granite-hybrid"));
    {
      await using content = await contentOf(granite.out);
      expect(content.value("general.architecture")).toBe("granite");
      expect(content.value("granite.rope.scaling.finetuned")).toBe(false);
      for (const part of ["gate", "up"])
        expect(content.file.tensors.get(`blk.0.ffn_${part}.weight`)?.shape).toEqual([96, 64]);
    }
    const olmo = await exported(writeFamily(root, "olmo2"));
    await using content = await contentOf(olmo.out);
    expect(await content.floats("output.weight")).toEqual(await content.floats("token_embd.weight"));
  });

  it("tells Gemma 4's heads, shared keys and embeddings of each layer, of as many tokens as there are", async () => {
    const { out } = await exported(writeFamily(root, "gemma4-per-layer"));
    await using content = await contentOf(out);
    const { value, file, floats } = content;
    for (const [key, expected] of Object.entries({
      "attention.key_length": 32,
      "attention.key_length_swa": 16,
      "attention.shared_kv_layers": 2,
      "attention.sliding_window_pattern": [false, true, false, true, false],
      embedding_length_per_layer_input: 16,
      feed_forward_length: [96, 96, 96, 192, 192],
      final_logit_softcapping: 0,
      "rope.dimension_count": 32,
      "rope.dimension_count_swa": 16,
    }))
      expect(value(`gemma4.${key}`), key).toEqual(expected);
    expect(file.tensors.get("per_layer_token_embd.weight")?.shape).toEqual([264, 5 * 16]);
    expect(file.tensors.has("blk.3.attn_k.weight")).toBe(false);
    expect(file.tensors.get("blk.4.layer_output_scale.weight")?.shape).toEqual([1]);
    expect([...(await floats("rope_freqs.weight"))]).toEqual(Array(16).fill(1));
    const usual = await exported(writeFamily(root, "gemma4"));
    await using other = await contentOf(usual.out);
    const still = Array(12).fill(Math.fround(1e30));
    expect([...(await other.floats("rope_freqs.weight"))]).toEqual([1, 1, 1, 1, ...still]);
    expect(other.value("gemma4.attention.head_count_kv")).toEqual([2, 2, 1]);
  });

  it.each(["qwen3_moe", "mixtral", "gpt_oss", "gemma4-moe"])(
    "%s: an adapter of experts adds to each stack what a merge adds",
    async (name) => {
      const model = writeFamily(root, name);
      const targetParameters = ["experts.gate_up_proj", "experts.down_proj"];
      const given = { targets: ["q_proj"], targetParameters, useRslora: true, alpha: 6 };
      const adapter = await writeRandomAdapter(`${model}-experts`, model, given, 0.1);
      await using lora = await contentOf((await exported(model, { adapter, adapterOnly: true })).out);
      await using plain = await contentOf((await exported(model)).out);
      await using merged = await contentOf((await exported(model, { adapter })).out);
      const stacks = [...lora.file.tensors.keys()].filter((each) => /_exps\.weight\.lora_a$/.test(each));
      const alpha = lora.value("adapter.lora.alpha") as number;
      expect(stacks.length).toBe(2 * (name === "gemma4-moe" ? 2 : 3));
      for (const a of stacks) {
        const weight = a.replace(/\.lora_a$/, "");
        const [experts, out, width] = plain.file.tensors.get(weight)!.shape as [number, number, number];
        const rank = lora.file.tensors.get(a)!.shape[1]!;
        expect(lora.file.tensors.get(a)!.shape).toEqual([experts, rank, width]);
        expect(lora.file.tensors.get(`${weight}.lora_b`)!.shape).toEqual([experts, out, rank]);
        const factors = [await lora.floats(a), await lora.floats(`${weight}.lora_b`)] as const;
        const [before, after] = [await plain.floats(weight), await merged.floats(weight)];
        let worst = 0;
        for (let i = 0; i < before.length; i++) {
          const [row, column] = [Math.floor(i / width), i % width];
          const expert = Math.floor(row / out);
          let sum = 0;
          for (let r = 0; r < rank; r++)
            sum += factors[1][row * rank + r]! * factors[0][(expert * rank + r) * width + column]!;
          worst = Math.max(worst, Math.abs(before[i]! + (alpha / rank) * sum - after[i]!));
        }
        expect(worst, weight).toBeLessThan(1e-5);
      }
    },
  );

  it("writes the experts beside Gemma 4's MLPs as stacks, with the scales around them", async () => {
    const { out } = await exported(writeFamily(root, "gemma4-moe"));
    await using content = await contentOf(out);
    expect(content.value("gemma4.expert_count")).toBe(6);
    expect(content.value("gemma4.expert_feed_forward_length")).toBe(32);
    expect(content.value("gemma4.feed_forward_length")).toBe(96);
    for (const [name, shape] of Object.entries({
      "ffn_gate.weight": [96, 64],
      "ffn_gate_inp.weight": [6, 64],
      "ffn_gate_inp.scale": [64],
      "ffn_down_exps.scale": [6],
      "ffn_gate_up_exps.weight": [6, 64, 64],
      "ffn_down_exps.weight": [6, 64, 32],
      "pre_ffw_norm_2.weight": [64],
      "post_ffw_norm_1.weight": [64],
      "post_ffw_norm_2.weight": [64],
      "post_ffw_norm.weight": [64],
    }))
      expect(content.file.tensors.get(`blk.1.${name}`)?.shape, name).toEqual(shape);
  });

  it("tells Gemma 2's window, and Gemma 3's cap where it has one", async () => {
    const gemma2 = await exported(writeFamily(root, "gemma2"));
    await using content = await contentOf(gemma2.out);
    expect(content.value("gemma2.attention.sliding_window")).toBe(12);
    const capped = await exported(writeFamily(root, "gemma3", { final_logit_softcapping: 9 }));
    await using other = await contentOf(capped.out);
    expect(other.value("gemma3.final_logit_softcapping")).toBe(9);
  });

  it.each([
    ["gemma3", { query_pre_attn_scalar: 20 }, "scales scores"],
    ["gemma2", { attention_bias: true }, "biases"],
    ["gemma2", { tie_word_embeddings: false }, "a head of its own"],
    ["gemma4", { attention_bias: true }, "biases"],
    ["gemma4", { layer_types: Array(3).fill("full_attention") }, "no layer with an attention window"],
    ["gemma4", { hidden_activation: "silu" }, "activation is silu"],
    [
      "gemma4",
      { num_kv_shared_layers: 1, layer_types: ["full_attention", "sliding_attention", "full_attention"] },
      "last two",
    ],
    [
      "gemma4",
      { rope_parameters: { sliding_attention: { rope_type: "linear", factor: 2, rope_theta: 1e4 } } },
      'windowed layers by "linear"',
    ],
    ["gemma3", { sliding_window_pattern: 3 }, "five of six"],
    ["smollm3", { no_rope_layer_interval: 2 }, "three of four"],
    ["olmo3", { layer_types: Array(4).fill("full_attention") }, "three of four"],
    ["olmo2", { head_dim: 8 }, "wider or narrower"],
    ["smollm3", { attention_bias: true }, "biases"],
    ["exaone4", { sliding_window: 8, layer_types: undefined }, "64 layers"],
    ["seed_oss", { attention_out_bias: true }, "biases"],
    ["hunyuan", { attention_bias: true }, "biases"],
  ] as const)("refuses %s with %j", async (name, change, why) => {
    await expect(exported(writeFamily(root, name, change))).rejects.toThrow(why);
  });

  it("refuses by name what llama.cpp's like is not written for", () => {
    const config = { ...readModelConfig({ ...familyShape, ...families.granite }), modelType: "unheard_of" };
    expect(() => ggufArchitecture(config)).toThrow('model_type "unheard_of" cannot be exported to GGUF');
  });
});
