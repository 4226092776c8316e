// The config.json that a GGUF file's metadata stands for, architecture by architecture: the inverse of what
// publish/gguf-model.ts and the architectures' own `gguf.metadata` write. Numbers that the file has in f32 come back as the
// shortest decimals that round to them, so that 1e-6 is 1e-6 again. What an architecture of llama.cpp has no key for is
// what llama.cpp itself takes it to be.
//
// Not here: names and rows of weights (names.ts), the tokenizer (tokenizer.ts), the folder that is made (unpack.ts).

import type { GgufFile } from "../../formats/gguf.ts";
import { inverseFrequencies } from "../../nn/rope-frequencies.ts";
import { UserError } from "../../util/errors.ts";
import type { Json } from "../decoder-config.ts";
import { Metadata, shortest } from "./metadata.ts";
import { layersDiffer, readers } from "./readers.ts";

/** Architectures of GGUF that can be a base. */
export const readableArchitectures = Object.keys(readers);

/** The configuration. UserError for an architecture that is not read from GGUF, and for metadata that says nothing. */
export async function configOfGguf(file: GgufFile): Promise<Json> {
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
  const layers = layersOf(meta);
  const most = (key: string, usual?: number) =>
    layersDiffer.has(meta.architecture) && meta.find(key) !== undefined
      ? Math.max(...meta.perLayer(key, layers))
      : meta.number(key, usual);
  const heads = meta.number("attention.head_count");
  const headWidth = meta.optional("attention.key_length") ?? width / heads;
  const token = (name: string) => {
    const id = file.metadata.get(`tokenizer.ggml.${name}_token_id`)?.value;
    return typeof id === "number" && Number.isInteger(id) && id >= 0 ? id : undefined;
  };
  const common: Json = {
    vocab_size: embedding.shape[0],
    hidden_size: width,
    intermediate_size:
      meta.find("feed_forward_length") === undefined
        ? meta.number("expert_feed_forward_length")
        : most("feed_forward_length"),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: most("attention.head_count_kv", heads),
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
  // Layers that guess further tokens come last and are no part of the model as it is trained.
  const layers = meta.number("block_count") - meta.number("nextn_predict_layers", 0);
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
