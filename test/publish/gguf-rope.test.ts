// The rotary embedding in GGUF's terms: what is written for each type, and what is refused because llama.cpp computes
// something else.

import { describe, expect, it } from "vitest";
import type { GgufTensorToWrite } from "../../src/formats/gguf-writer.ts";
import { mainRope, ropeMetadata, ropeTensors } from "../../src/models/gguf/rope.ts";
import { architectureOf, readModelConfig } from "../../src/models/index.ts";
import { inverseFrequencies } from "../../src/nn/rope-frequencies.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";

const shape = {
  ...{ vocab_size: 8, hidden_size: 32, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2 },
  ...{ max_position_embeddings: 2048, head_dim: 16 },
};
const configOf = (modelType: string, rope: Record<string, unknown>) =>
  readModelConfig({ ...shape, model_type: modelType, rope_parameters: rope });
const likeOf = (config: ReturnType<typeof configOf>) => architectureOf(config)!.gguf!;
const written = (modelType: string, rope: Record<string, unknown>) =>
  Object.fromEntries(
    [...ropeMetadata(configOf(modelType, rope), likeOf(configOf(modelType, rope)))].map(
      ([key, { value }]) => [key, value],
    ),
  );

describe("ropeMetadata", () => {
  it("writes YaRN with what differs from llama.cpp's defaults", () => {
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 512 };
    const plain = {
      ...{ dimension_count: 16, freq_base: 10000, "scaling.type": "yarn", "scaling.factor": 4 },
      "scaling.original_context_length": 512,
    };
    expect(written("llama", yarn)).toEqual(plain);
    const usual = 0.1 * Math.log(4) + 1;
    expect(written("llama", { ...yarn, beta_fast: 16, attention_factor: 1 })).toEqual({
      ...plain,
      "scaling.yarn_beta_fast": 16,
      "scaling.attn_factor": 1 / usual,
    });
  });

  it("writes the width that turns where the architecture has one, and refuses it where not", () => {
    const part = { rope_type: "linear", factor: 2, partial_rotary_factor: 0.5 };
    expect(written("qwen2", part)).toMatchObject({ dimension_count: 8, "scaling.factor": 2 });
    expect(() => written("llama", part)).toThrow("turns 8 of a head's 16 elements");
  });

  it("refuses what llama.cpp has no word for", () => {
    const ones = Array<number>(8).fill(1);
    const long = { rope_type: "longrope", short_factor: ones, long_factor: ones };
    expect(() => written("llama", long)).toThrow("LongRoPE");
    expect(() => written("llama", { rope_type: "yarn", factor: 2, truncate: false })).toThrow("truncate");
    expect(() => written("qwen3", { rope_type: "proportional", partial_rotary_factor: 0.5 })).toThrow(
      'is of type "proportional"',
    );
  });

  it("stops the pairs that a proportional RoPE does not turn", () => {
    const config = configOf("llama", { rope_type: "proportional", partial_rotary_factor: 0.5 });
    const { rope } = mainRope(config)!;
    const [{ name, data }] = ropeTensors(config, likeOf(config)) as [GgufTensorToWrite];
    expect(name).toBe("rope_freqs.weight");
    const factors = decodeToF32(data() as Uint8Array, "f32");
    expect([...factors.slice(0, 4)]).toEqual([1, 1, 1, 1]);
    expect([...factors.slice(4)].every((factor) => factor > 9e29)).toBe(true);
    expect([...inverseFrequencies(rope, 16, 1).slice(4)]).toEqual([0, 0, 0, 0]);
  });
});
