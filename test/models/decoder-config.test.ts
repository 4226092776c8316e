// What a config.json names is looked up among what there is, and nowhere else.

import { expect, it } from "vitest";
import { adaptableLayers } from "../../src/models/adaptable-layers.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { lastParts, parseTargets } from "../../src/models/target-names.ts";
import { trainableTable } from "../../src/plan/shape.ts";

const config = {
  ...{ model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1 },
  ...{ num_attention_heads: 4, max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000 },
};

it.each(["__proto__", "constructor", "toString", "relu6"])(
  "hidden_act %s is refused by name",
  (hidden_act) => {
    expect(() => readModelConfig({ ...config, hidden_act })).toThrow(
      `hidden_act "${hidden_act}" is not supported`,
    );
  },
);

it("attention is what the model has of it, and what is one matrix is one target", () => {
  const phi3 = readModelConfig({ ...config, model_type: "phi3" });
  const names = adaptableLayers(phi3).map(({ name }) => name);
  expect(names.slice(0, 4)).toEqual(
    ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"].map(
      (path) => `model.layers.0.${path}`,
    ),
  );
  expect(parseTargets("attention", lastParts(names))).toEqual(["qkv_proj", "o_proj"]);
  expect(parseTargets("qkv,gate_up", [])).toEqual(["qkv_proj", "gate_up_proj"]);
  // One A for all of q, k and v: rank * (in + out), out being 32 + 32 + 32.
  const rows = trainableTable(phi3, [2]);
  expect(rows.map(({ targets }) => targets)).toEqual([
    ...["qkv", "o", "gate_up", "down", "attention", "all-linear"],
  ]);
  expect(rows[0]!.parameters).toEqual({ 2: 2 * (32 + 96) });
});

it("a target called like a property of every object is a name", () => {
  expect(parseTargets("constructor,q", [])).toEqual(["constructor", "q_proj"]);
});
