// What config.json's of mixtures of experts have in common.

import type { GgufValue } from "../formats/gguf.ts";
import { UserError } from "../util/errors.ts";
import { expertWidth } from "./blocks/mixture.ts";
import { ConfigReader } from "./config-reader.ts";
import type { DecoderConfig, Json } from "./decoder-config.ts";

/** More experts than any released mixture has. */
const mostExperts = 4096;

/** num_experts; transformers 5 writes num_local_experts for all. */
export function readExpertCount(json: Json, usual?: number): number {
  const read = new ConfigReader(json);
  const key = json.num_experts === undefined ? "num_local_experts" : "num_experts";
  return read.integer(key, usual, mostExperts);
}

/** Layers that are no mixtures: those of mlp_only_layers, and all but every decoder_sparse_step-th. */
export function denseLayers(json: Json, layers: number): (layer: number) => boolean {
  const step = new ConfigReader(json).integer("decoder_sparse_step", 1, 2 ** 31);
  const only = json.mlp_only_layers ?? [];
  const isLayer = (layer: unknown) => typeof layer === "number" && Number.isInteger(layer);
  if (!Array.isArray(only) || only.length > layers || !only.every(isLayer))
    throw new UserError(
      `config.json: mlp_only_layers should be a list of layers, found ${JSON.stringify(only).slice(0, 80)}`,
    );
  const named = new Set(only);
  return (layer) => named.has(layer) || (layer + 1) % step !== 0;
}

/** Keys of GGUF that say how many experts there are. UserError where layers differ, which GGUF cannot say. */
export function expertMetadata(config: DecoderConfig): Readonly<Record<string, GgufValue>> {
  const [first] = config.layers;
  const experts = first?.experts;
  if (!experts || config.layers.some((layer) => !layer.experts))
    throw new UserError(
      "llama.cpp has this architecture with experts in every layer alone, and some layers of this model are dense; merge into a folder instead",
    );
  return {
    expert_count: { type: "u32", value: experts.count },
    expert_used_count: { type: "u32", value: experts.perToken },
    expert_feed_forward_length: { type: "u32", value: expertWidth(first) },
  };
}
