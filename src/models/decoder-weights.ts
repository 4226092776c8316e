// Names and shapes of a decoder's weights, as transformers' checkpoints have them. load-model.ts fills them,
// decoder.ts arranges them, plan/ counts them.

import type { DecoderConfig } from "./decoder-config.ts";

export interface WeightSpec {
  /** Name in the checkpoint, e.g. model.layers.0.mlp.up_proj.weight. */
  readonly name: string;
  readonly shape: readonly number[];
  /** "linear" weights can be adapted and quantised; "head" only when untied. */
  readonly kind: "embedding" | "linear" | "head" | "vector";
}

export const embeddingName = "model.embed_tokens";
export const headName = "lm_head";
export const finalNormName = "model.norm";

export function weightSpecs(config: DecoderConfig): WeightSpec[] {
  const { width, vocabularySize } = config;
  const specs: WeightSpec[] = [
    { name: `${embeddingName}.weight`, shape: [vocabularySize, width], kind: "embedding" },
  ];
  for (let i = 0; i < config.layers; i++) specs.push(...layerSpecs(config, i));
  specs.push({ name: `${finalNormName}.weight`, shape: [width], kind: "vector" });
  if (!config.tied) specs.push({ name: `${headName}.weight`, shape: [vocabularySize, width], kind: "head" });
  return specs;
}

/** Under which name a checkpoint holds a weight: where head and embedding are one table, some keep it as the head's. */
export function storedName(config: DecoderConfig, name: string, has: (name: string) => boolean): string {
  const head = `${headName}.weight`;
  return config.tied && name === `${embeddingName}.weight` && !has(name) && has(head) ? head : name;
}

function layerSpecs(config: DecoderConfig, index: number): WeightSpec[] {
  const { width, headWidth, mlpWidth } = config;
  const queryWidth = config.heads * headWidth;
  const keyWidth = config.kvHeads * headWidth;
  const layer = `model.layers.${index}`;
  const linear = (name: string, outputs: number, inputs: number, bias: boolean): WeightSpec[] => [
    { name: `${layer}.${name}.weight`, shape: [outputs, inputs], kind: "linear" },
    ...(bias ? [{ name: `${layer}.${name}.bias`, shape: [outputs], kind: "vector" } as const] : []),
  ];
  const vector = (name: string, size: number): WeightSpec => ({
    name: `${layer}.${name}.weight`,
    shape: [size],
    kind: "vector",
  });
  return [
    vector("input_layernorm", width),
    ...linear("self_attn.q_proj", queryWidth, width, config.qkvBias),
    ...linear("self_attn.k_proj", keyWidth, width, config.qkvBias),
    ...linear("self_attn.v_proj", keyWidth, width, config.qkvBias),
    ...(config.qkNorm ? [vector("self_attn.q_norm", headWidth), vector("self_attn.k_norm", headWidth)] : []),
    ...linear("self_attn.o_proj", width, queryWidth, config.outputBias),
    vector("post_attention_layernorm", width),
    ...linear("mlp.gate_proj", mlpWidth, width, config.mlpBias),
    ...linear("mlp.up_proj", mlpWidth, width, config.mlpBias),
    ...linear("mlp.down_proj", width, mlpWidth, config.mlpBias),
  ];
}
