// What a config.json names is looked up among what there is, and nowhere else.

import { expect, it } from "vitest";
import { readModelConfig } from "../../src/models/index.ts";
import { parseTargets } from "../../src/models/target-names.ts";

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

it("a target called like a property of every object is a name", () => {
  expect(parseTargets("constructor,q", [])).toEqual(["constructor", "q_proj"]);
});
