// The shape of the tiny base and its random beginning: writes config.json and float32 model.safetensors.
// Weights are normal with standard deviation 0.02, those that write into the residual stream scaled
// down by sqrt(2 layers) as in GPT-2; norms are one; the head shares the embedding.
// Training follows in make.mjs. Usage: node tools/make-tiny-base/init-model.mjs OUT_DIR [SEED]

import { mkdirSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { writeModelFolder } from "../../dist/formats/model-folder-writer.js";
import { Random } from "../../dist/util/rng.js";

/** The shape. Every width is a multiple of 64, so that NF4 blocks never straddle rows. */
export const SHAPE = {
  vocab_size: 2048,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 32,
  max_position_embeddings: 512,
};

const STANDARD_DEVIATION = 0.02;

/** The contents of config.json; `dtype` is that of the weights beside it. */
export function modelConfig(dtype) {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    ...SHAPE,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    rope_scaling: null,
    attention_bias: false,
    attention_dropout: 0,
    mlp_bias: false,
    tie_word_embeddings: true,
    initializer_range: STANDARD_DEVIATION,
    bos_token_id: 0,
    eos_token_id: 0,
    pad_token_id: 1,
    use_cache: true,
    torch_dtype: dtype,
  };
}

/** Name, shape and standard deviation (0 means: all ones) of every weight, in file order. */
export function weightPlan() {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: head } = SHAPE;
  const queries = SHAPE.num_attention_heads * head;
  const keys = SHAPE.num_key_value_heads * head;
  const residual = STANDARD_DEVIATION / Math.sqrt(2 * SHAPE.num_hidden_layers);
  const plan = [["model.embed_tokens.weight", [SHAPE.vocab_size, hidden], STANDARD_DEVIATION]];
  for (let layer = 0; layer < SHAPE.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    plan.push(
      [`${at}.input_layernorm.weight`, [hidden], 0],
      [`${at}.self_attn.q_proj.weight`, [queries, hidden], STANDARD_DEVIATION],
      [`${at}.self_attn.k_proj.weight`, [keys, hidden], STANDARD_DEVIATION],
      [`${at}.self_attn.v_proj.weight`, [keys, hidden], STANDARD_DEVIATION],
      [`${at}.self_attn.o_proj.weight`, [hidden, queries], residual],
      [`${at}.post_attention_layernorm.weight`, [hidden], 0],
      [`${at}.mlp.gate_proj.weight`, [inner, hidden], STANDARD_DEVIATION],
      [`${at}.mlp.up_proj.weight`, [inner, hidden], STANDARD_DEVIATION],
      [`${at}.mlp.down_proj.weight`, [hidden, inner], residual],
    );
  }
  plan.push(["model.norm.weight", [hidden], 0]);
  return plan.map(([name, shape, deviation]) => ({ name, shape, deviation }));
}

/** How many numbers the model holds. */
export function parameterCount() {
  return weightPlan().reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** Writes a freshly initialised model folder (without tokenizer). */
export async function writeRandomModel(outDir, seed) {
  mkdirSync(outDir, { recursive: true });
  const tensors = weightPlan().map(({ name, shape, deviation }, index) => ({
    name,
    dtype: "F32",
    shape,
    data: () => new Uint8Array(randomValues(shape, deviation, new Random(seed, 100 + index)).buffer),
  }));
  await writeModelFolder(outDir, { config: modelConfig("float32"), tensors });
}

function randomValues(shape, deviation, random) {
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1);
  if (deviation > 0) for (let i = 0; i < values.length; i++) values[i] = deviation * random.nextNormal();
  return values;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [outDir, seed = "1"] = process.argv.slice(2);
  if (outDir === undefined) {
    console.error("Usage: node tools/make-tiny-base/init-model.mjs OUT_DIR [SEED]");
    process.exit(2);
  }
  await writeRandomModel(outDir, Number(seed));
  console.log(`${parameterCount()} parameters -> ${outDir}`);
}
