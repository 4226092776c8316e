// Granite 3: LLaMA with four scalars, on embedded tokens, scores, what blocks add to the stream, and logits. And Granite 4's
// sizes without Mamba layers and experts, which are the same under another name, with gate and up in one projection.

import { UserError } from "../util/errors.ts";
import type { Architecture, GgufArchitecture } from "./architecture.ts";
import { ConfigReader, type DecoderConfig, eachLayer, type Json, readCommon } from "./decoder-config.ts";

const gguf: GgufArchitecture = {
  name: "granite",
  interleaves: true,
  splitsGateUp: true,
  ropeFactors: true,
  metadata: ({ embeddingScale, residualScale, logitScale, layers, ropes }) => ({
    // Granite's switch for whether anything turns.
    ...(ropes.length > 0 ? {} : { "rope.scaling.finetuned": { type: "bool", value: false } }),
    "attention.scale": { type: "f32", value: layers[0]!.attentionScale },
    embedding_scale: { type: "f32", value: embeddingScale },
    residual_scale: { type: "f32", value: residualScale },
    logit_scale: { type: "f32", value: 1 / logitScale },
  }),
};

function readScaled(json: Json): DecoderConfig {
  const read = new ConfigReader(json);
  const common = readCommon(json, { theta: 10000, tied: false, maxPositions: 2048, normEpsilon: 1e-6 });
  const bias = read.flag("attention_bias", false);
  const attentionScale = read.number("attention_multiplier", 1);
  return {
    ...common,
    ...{ qkvBias: bias, outputBias: bias, mlpBias: read.flag("mlp_bias", false) },
    embeddingScale: read.number("embedding_multiplier", 1),
    residualScale: read.number("residual_multiplier", 1),
    logitScale: 1 / read.positive("logits_scaling", 1),
    layers: eachLayer(common, () => ({ attentionScale })),
  };
}

export const granite: Architecture = { modelType: "granite", gguf, readConfig: readScaled };

export const graniteMoeHybrid: Architecture = {
  modelType: "granitemoehybrid",
  gguf,
  readConfig(json) {
    const read = new ConfigReader(json);
    const experts = json.num_local_experts === undefined ? 8 : Number(json.num_local_experts ?? 0);
    const { layer_types: own, layers_block_type: old } = json;
    const types = own ?? old;
    const attends = (type: unknown) => type === "attention" || type === "full_attention";
    if (experts > 0 || !Array.isArray(types) || !types.every(attends)) {
      const has = experts > 0 ? `${experts} experts` : "Mamba layers";
      throw new UserError(
        `config.json: this granitemoehybrid model has ${has}, which is not supported; its sizes of attention layers and one MLP alone are (Granite 4.0 350M, 1B and micro, without -h- in their names)`,
      );
    }
    const common = readScaled({ intermediate_size: 1, ...json, mlp_bias: false });
    if (types.length !== common.layers.length) {
      throw new UserError(
        `config.json: layer_types should name ${common.layers.length} layers, found ${types.length}`,
      );
    }
    const mlpWidth = read.integer("shared_intermediate_size", 1024);
    const turns = json.position_embedding_type === "rope";
    return {
      ...common,
      fusedGateUp: true,
      paths: { gateUp: "shared_mlp.input_linear", down: "shared_mlp.output_linear" },
      ropes: turns ? common.ropes : [],
      layers: eachLayer(common, (_, { rope }) => ({ mlpWidth, rope: turns ? rope : undefined })),
    };
  },
};
