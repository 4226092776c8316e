// The config.json that a GGUF file's metadata stands for, architecture by architecture: the inverse of what
// publish/gguf-model.ts and the architectures' own `gguf.metadata` write. Numbers that the file has in f32 come back as the
// shortest decimals that round to them, so that 1e-6 is 1e-6 again. What an architecture of llama.cpp has no key for is
// what llama.cpp itself takes it to be.
//
// Not here: names and rows of weights (names.ts), the tokenizer (tokenizer.ts), the folder that is made (unpack.ts).

import { type GgufFile, ggufText } from "../../formats/gguf.ts";
import { inverseFrequencies } from "../../nn/rope-frequencies.ts";
import { decodeGguf } from "../../quant/ggml/index.ts";
import { UserError } from "../../util/errors.ts";
import type { Json } from "../decoder-config.ts";

/** Metadata of one file, by names below its architecture. */
class Metadata {
  readonly architecture: string;

  constructor(readonly file: GgufFile) {
    const name = file.metadata.get("general.architecture")?.value;
    if (typeof name !== "string") throw new UserError(`${file.path}: it names no general.architecture`);
    this.architecture = name;
  }

  find(key: string): unknown {
    return this.file.metadata.get(`${this.architecture}.${key}`)?.value;
  }

  /** UserError where it is missing or no number, and there is no `usual`. */
  number(key: string, usual?: number): number {
    const found = this.find(key) ?? usual;
    const value = Array.isArray(found) ? this.same(key, found) : found;
    // Whatever integer type a writer chose; beyond 2^53 there is no such count.
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number === "number" && Number.isFinite(number)) return shortest(number);
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} should be a number, found ${ggufText(value)}`,
    );
  }

  optional(key: string): number | undefined {
    return this.find(key) === undefined ? undefined : this.number(key);
  }

  has(tensor: string): boolean {
    return this.file.tensors.has(tensor);
  }

  async floats(tensor: string): Promise<Float32Array | undefined> {
    const found = this.file.tensors.get(tensor);
    return found && decodeGguf(await this.file.readTensor(tensor), found.type);
  }

  private same(key: string, values: readonly unknown[]): unknown {
    if (values.every((value) => value === values[0])) return values[0];
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} differs from layer to layer, which is not read from GGUF`,
    );
  }
}

/** The shortest decimal that rounds to this number in f32; the number itself where it is none. */
function shortest(value: number): number {
  if (Math.fround(value) !== value || Number.isInteger(value)) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

type Reader = (meta: Metadata, common: Json) => Json | Promise<Json>;

const experts = (meta: Metadata) => ({
  num_experts_per_tok: meta.number("expert_used_count"),
  moe_intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
});

const kinds = (common: Json, isSliding: (layer: number) => boolean): Json => ({
  layer_types: Array.from({ length: Number(common.num_hidden_layers) }, (_, i) =>
    isSliding(i) ? "sliding_attention" : "full_attention",
  ),
});

/** By llama.cpp's names. */
const readers: Readonly<Record<string, Reader>> = {
  llama(meta, common) {
    const biases = {
      attention_bias: meta.has("blk.0.attn_output.bias"),
      mlp_bias: meta.has("blk.0.ffn_down.bias"),
    };
    if (!meta.optional("expert_count")) return { model_type: "llama", ...common, ...biases };
    return {
      ...{ model_type: "mixtral", ...common },
      num_local_experts: meta.number("expert_count"),
      num_experts_per_tok: meta.number("expert_used_count"),
      intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
    };
  },
  qwen2: (_, common) => ({ model_type: "qwen2", ...common, use_sliding_window: false }),
  qwen3: (meta, common) => ({
    ...{ model_type: "qwen3", ...common, use_sliding_window: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  qwen3moe: (meta, common) => ({
    ...{ model_type: "qwen3_moe", ...common, use_sliding_window: false, ...experts(meta) },
    num_experts: meta.number("expert_count"),
    norm_topk_prob: true,
  }),
  gemma2: (meta, common) => ({
    ...{ model_type: "gemma2", ...common, ...gemma(meta, common, 46) },
    attn_logit_softcapping: meta.number("attn_logit_softcapping", 50),
    final_logit_softcapping: meta.number("final_logit_softcapping", 30),
    sliding_window: meta.number("attention.sliding_window", 4096),
    ...kinds(common, (layer) => layer % 2 === 0),
  }),
  gemma3: (meta, common) => ({
    ...{ model_type: "gemma3_text", ...common, ...gemma(meta, common, 62) },
    sliding_window: meta.number("attention.sliding_window"),
    ...kinds(common, (layer) => (layer + 1) % 6 !== 0),
    final_logit_softcapping: meta.optional("final_logit_softcapping") || null,
    rope_parameters: {
      full_attention: common.rope_parameters,
      sliding_attention: { rope_type: "default", rope_theta: meta.number("rope.freq_base_swa", 10_000) },
    },
  }),
  phi3: (meta, common) => ({
    ...{ model_type: "phi3", ...common },
    sliding_window: meta.optional("attention.sliding_window") || null,
    pad_token_id: null,
    // Its class reads this one beside the RoPE, not in it.
    original_max_position_embeddings:
      (common.rope_parameters as Json).original_max_position_embeddings ?? common.max_position_embeddings,
  }),
  granite: (meta, common) => ({
    ...{ model_type: "granite", ...common },
    attention_bias: meta.has("blk.0.attn_output.bias"),
    mlp_bias: meta.has("blk.0.ffn_down.bias"),
    attention_multiplier: meta.number("attention.scale"),
    embedding_multiplier: meta.number("embedding_scale", 1),
    residual_multiplier: meta.number("residual_scale", 1),
    logits_scaling: meta.number("logit_scale", 1),
  }),
  smollm3: (meta, common) => ({
    ...{ model_type: "smollm3", ...common, no_rope_layer_interval: 4, use_sliding_window: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  olmo2(meta, common) {
    const window = meta.optional("attention.sliding_window");
    if (window === undefined) return { model_type: "olmo2", ...common };
    return {
      ...{ model_type: "olmo3", ...common, sliding_window: window },
      ...kinds(common, (layer) => (layer + 1) % 4 !== 0),
      rope_parameters: {
        full_attention: common.rope_parameters,
        sliding_attention: {
          rope_type: "default",
          rope_theta: (common.rope_parameters as Json).rope_theta,
        },
      },
    };
  },
  seed_oss: (meta, common) => ({
    ...{ model_type: "seed_oss", ...common, attention_out_bias: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  "hunyuan-dense": (_, common) => ({ model_type: "hunyuan_v1_dense", ...common }),
  "gpt-oss": (meta, common) => ({
    ...{ model_type: "gpt_oss", ...common },
    attention_bias: meta.has("blk.0.attn_q.bias"),
    num_local_experts: meta.number("expert_count"),
    num_experts_per_tok: meta.number("expert_used_count"),
    intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
    sliding_window: meta.number("attention.sliding_window", 128),
    ...kinds(common, (layer) => layer % 2 === 0),
    // Its ramp has fractions of pairs, which GGUF has no key for.
    rope_parameters: { ...(common.rope_parameters as Json), truncate: false },
  }),
};

/** Gemma's scale of scores, which has no key: by the head's width, but in the largest size. */
function gemma(meta: Metadata, common: Json, layersOfLargest: number): Json {
  const {
    num_hidden_layers: layers,
    hidden_size: width,
    num_attention_heads: heads,
    head_dim: head,
  } = common;
  return {
    query_pre_attn_scalar: layers === layersOfLargest ? Number(width) / Number(heads) : head,
    hidden_activation: "gelu_pytorch_tanh",
    hidden_act: "gelu_pytorch_tanh",
    attention_bias: meta.has("blk.0.attn_q.bias"),
    // The head is the embedding in all of them, and files may hold no other.
    tie_word_embeddings: true,
  };
}

/** Architectures of GGUF that can be a base. */
export const readableArchitectures = Object.keys(readers);

/** The configuration. UserError for an architecture that is not read from GGUF, and for metadata that says nothing. */
export async function configOfGguf(file: GgufFile): Promise<Json> {
  const parts = file.metadata.get("split.count")?.value;
  if (parts !== undefined && parts !== 1) {
    throw new UserError(
      `${file.path}: it is one of ${ggufText(parts)} files that a model was split into; join them first (llama-gguf-split --merge FIRST.gguf WHOLE.gguf) and give the whole file`,
    );
  }
  const meta = new Metadata(file);
  if (!Object.hasOwn(readers, meta.architecture)) {
    throw new UserError(
      `${file.path}: GGUF files of architecture "${meta.architecture}" cannot be a base; supported are ${readableArchitectures.join(", ")}`,
    );
  }
  const embedding = file.tensors.get("token_embd.weight");
  if (!embedding)
    throw new UserError(
      `${file.path}: it has no token_embd.weight: a model's file is expected, not a part or an adapter`,
    );
  const width = meta.number("embedding_length");
  const heads = meta.number("attention.head_count");
  const headWidth = meta.optional("attention.key_length") ?? width / heads;
  const token = (name: string) => {
    const id = file.metadata.get(`tokenizer.ggml.${name}_token_id`)?.value;
    return typeof id === "number" && Number.isInteger(id) && id >= 0 ? id : undefined;
  };
  const common: Json = {
    vocab_size: embedding.shape[0],
    hidden_size: width,
    intermediate_size: meta.optional("feed_forward_length") ?? meta.number("expert_feed_forward_length"),
    num_hidden_layers: layersOf(meta),
    num_attention_heads: heads,
    num_key_value_heads: meta.number("attention.head_count_kv", heads),
    head_dim: headWidth,
    max_position_embeddings: meta.number("context_length"),
    rms_norm_eps: meta.number("attention.layer_norm_rms_epsilon"),
    hidden_act: "silu",
    tie_word_embeddings: !meta.has("output.weight"),
    rope_parameters: await ropeOf(meta, headWidth),
    ...(token("bos") === undefined ? {} : { bos_token_id: token("bos") }),
    ...(token("eos") === undefined ? {} : { eos_token_id: token("eos") }),
  };
  return readers[meta.architecture]!(meta, common);
}

/** A layer has a tensor at the least: what is made for each layer is no longer than the file's list of tensors. */
function layersOf(meta: Metadata): number {
  const layers = meta.number("block_count");
  const { path, tensors } = meta.file;
  if (Number.isInteger(layers) && layers >= 1 && layers <= tensors.size) return layers;
  throw new UserError(
    `${path}: metadata ${meta.architecture}.block_count is ${layers}; expected a whole number of layers, of which there are at most ${tensors.size} in a file of ${tensors.size} tensors`,
  );
}

async function ropeOf(meta: Metadata, headWidth: number): Promise<Json> {
  const theta = meta.number("rope.freq_base", 10_000);
  const turned = meta.optional("rope.dimension_count") ?? headWidth;
  const plain = {
    rope_theta: theta,
    ...(turned === headWidth ? {} : { partial_rotary_factor: turned / headWidth }),
  };
  const [long, short, factors] = await Promise.all(
    ["rope_factors_long", "rope_factors_short", "rope_freqs"].map((name) => meta.floats(`${name}.weight`)),
  );
  const original = () => meta.number("rope.scaling.original_context_length");
  if (long && short) {
    return {
      ...{ ...plain, rope_type: "longrope", long_factor: decimals(long), short_factor: decimals(short) },
      original_max_position_embeddings: original(),
      attention_factor: meta.number("rope.scaling.attn_factor", 1),
    };
  }
  if (factors) return { ...plain, ...stretched(factors, theta, headWidth, meta.number("context_length")) };
  const type = meta.find("rope.scaling.type") ?? "none";
  const factor = meta.optional("rope.scaling.factor") ?? meta.optional("rope.scale_linear");
  if (type === "yarn") {
    const own = meta.number("rope.scaling.factor");
    const usual = own <= 1 ? 1 : 0.1 * Math.log(own) + 1;
    const multiplier = meta.optional("rope.scaling.yarn_log_multiplier");
    const given = meta.number("rope.scaling.attn_factor", 1);
    return {
      ...{ ...plain, rope_type: "yarn", factor: own, original_max_position_embeddings: original() },
      beta_fast: meta.number("rope.scaling.yarn_beta_fast", 32),
      beta_slow: meta.number("rope.scaling.yarn_beta_slow", 1),
      ...(multiplier ? { attention_factor: 1 } : given === 1 ? {} : { attention_factor: given * usual }),
    };
  }
  // A factor without a type is a linear one, as llama.cpp takes it.
  if (factor !== undefined && factor !== 1 && type !== "none")
    return { ...plain, rope_type: "linear", factor };
  return { ...plain, rope_type: "default" };
}

const decimals = (values: Float32Array) => Array.from(values, shortest);

/**
 * Divisors of frequencies: those that LLaMA 3's rule makes are given by its name; others are LongRoPE's whose factors are
 * one and the same at every length.
 */
function stretched(factors: Float32Array, theta: number, headWidth: number, maxPositions: number): Json {
  const factor = shortest(factors.reduce((most, value) => Math.max(most, value), 1));
  const usual = inverseFrequencies({ type: "default", theta }, headWidth, 0);
  for (let original = 16; original <= 2 ** 17; original *= 2) {
    const rule = { lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: original };
    const changed = inverseFrequencies({ type: "llama3", theta, factor, ...rule }, headWidth, 0);
    if (!factors.every((value, i) => Math.abs(usual[i]! / changed[i]! / value - 1) < 1e-5)) continue;
    return {
      ...{ rope_type: "llama3", factor, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: original,
    };
  }
  return {
    ...{ rope_type: "longrope", long_factor: decimals(factors), short_factor: decimals(factors) },
    original_max_position_embeddings: maxPositions,
    attention_factor: 1,
  };
}
