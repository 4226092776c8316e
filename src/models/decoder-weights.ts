// Names and shapes of a decoder's weights, as transformers' checkpoints have them. load-model.ts fills them,
// decoder.ts arranges them, plan/ counts them. Those of a block are block-table.ts's.

import { blockParts } from "./block-table.ts";
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
  return blockParts.flatMap(([, { path, kind, shape, bias, present }]) => {
    if (present && !present(config)) return [];
    const name = `model.layers.${index}.${path}`;
    const weight: WeightSpec = { name: `${name}.weight`, shape: shape(config), kind };
    if (!bias?.(config)) return [weight];
    return [weight, { name: `${name}.bias`, shape: shape(config).slice(0, 1), kind: "vector" }];
  });
}
