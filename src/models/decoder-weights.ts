// Names and shapes of a decoder's weights, as transformers' checkpoints have them. load-model.ts fills them,
// decoder.ts arranges them, plan/ counts them. Those of a block are blocks/'s.

import { blockPath, blockWeights } from "./blocks/block.ts";
import type { DecoderConfig } from "./decoder-config.ts";

export interface WeightSpec {
  /** Name in the checkpoint, e.g. model.layers.0.mlp.up_proj.weight. */
  readonly name: string;
  readonly shape: readonly number[];
  /** "linear" weights and "experts", stacks of them, can be adapted and quantised; "head" only when untied. */
  readonly kind: "embedding" | "linear" | "experts" | "head" | "vector";
  /** In a block: its layer and its part (blocks/). */
  readonly layer?: number;
  readonly part?: string;
  /** Its part's name in GGUF, where the architecture says nothing else. */
  readonly gguf?: string;
  /** Its first rows make up so many heads that the rotary embedding turns; absent: none. */
  readonly rotatedHeads?: number;
  /** Stays dense where others are quantised: a router, whose choices a rounding would change. */
  readonly dense?: boolean;
  /** A norm's, which the configuration's normShift is added to. */
  readonly shifted?: boolean;
  /** Its name in GGUF is the whole of it. */
  readonly bare?: boolean;
  /** One for all rows of a pass. */
  readonly shared?: boolean;
  /** Never trains. */
  readonly constant?: boolean;
  /** Its rows are taken on the host, token by token, unless it trains. */
  readonly onHost?: boolean;
}

export const embeddingName = "model.embed_tokens";
export const headName = "lm_head";
/** Of models with embeddings for each layer (PerLayerConfig). */
export const perLayerNames = {
  table: "model.embed_tokens_per_layer",
  projection: "model.per_layer_model_projection",
  norm: "model.per_layer_projection_norm",
} as const;

export function weightSpecs(config: DecoderConfig): WeightSpec[] {
  const { width, vocabularySize } = config;
  const specs: WeightSpec[] = [
    { name: `${embeddingName}.weight`, shape: [vocabularySize, width], kind: "embedding" },
  ];
  specs.push(...perLayerSpecs(config));
  for (let i = 0; i < config.layers.length; i++) specs.push(...layerSpecs(config, i));
  specs.push({ name: `${config.finalNorm}.weight`, shape: [width], kind: "vector", shifted: true });
  if (!config.tied) specs.push({ name: `${headName}.weight`, shape: [vocabularySize, width], kind: "head" });
  return specs;
}

function perLayerSpecs({ perLayer, layers, width }: DecoderConfig): WeightSpec[] {
  if (!perLayer) return [];
  const all = layers.length * perLayer.width;
  const { table, projection, norm } = perLayerNames;
  return [
    { name: `${table}.weight`, shape: [perLayer.vocabularySize, all], kind: "embedding", onHost: true },
    { name: `${projection}.weight`, shape: [all, width], kind: "linear" },
    { name: `${norm}.weight`, shape: [perLayer.width], kind: "vector", shifted: true, shared: true },
  ];
}

/** Under which name a checkpoint holds a weight: where head and embedding are one table, some keep it as the head's. */
export function storedName(config: DecoderConfig, name: string, has: (name: string) => boolean): string {
  const head = `${headName}.weight`;
  return config.tied && name === `${embeddingName}.weight` && !has(name) && has(head) ? head : name;
}

function layerSpecs(config: DecoderConfig, layer: number): WeightSpec[] {
  const of = config.layers[layer]!;
  return blockWeights(config, of).flatMap((named) => {
    const [part, { gguf, kind, shape, bias, rotatedHeads, shifted, bare, shared, dense, constant }] = named;
    const name = blockPath(config, layer, named);
    const heads = rotatedHeads && of.rope !== undefined ? rotatedHeads(config, of) : undefined;
    const common = { layer, part, gguf, ...(heads ? { rotatedHeads: heads } : {}) };
    const weight: WeightSpec = {
      ...{ name: bare ? name : `${name}.weight`, shape: shape(config, of), kind, ...common },
      ...(shifted ? { shifted } : {}),
      ...(bare ? { bare } : {}),
      ...(shared ? { shared } : {}),
      ...(dense ? { dense } : {}),
      ...(constant ? { constant } : {}),
    };
    if (!bias?.(config, of)) return [weight];
    return [weight, { name: `${name}.bias`, shape: weight.shape.slice(0, -1), kind: "vector", ...common }];
  });
}
