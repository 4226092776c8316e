// What a layer takes in of its own embedding of the tokens, after its MLP: gated by the stream, projected to its width,
// normed and added. Gemma 3n and Gemma 4. Where those embeddings come from is ../per-layer-rows.ts's and the decoder's.

import { gatedActivation } from "../../autograd/ops/layers.ts";
import type { Value } from "../../autograd/tape.ts";
import { applyLinears } from "../../nn/apply.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig } from "../decoder-config.ts";
import { type BlockPass, norm } from "../pass.ts";
import { linear, normWeight, type PartsOf, type WeightTable } from "./block-part.ts";

const width = (config: DecoderConfig) => config.width;
const inner = ({ perLayer }: DecoderConfig) => perLayer?.width ?? 0;
const present = ({ perLayer }: DecoderConfig) => perLayer !== undefined;

export const perLayerWeights = {
  perLayerGate: { ...linear("per_layer_input_gate", "inp_gate", inner, width), present },
  perLayerProjection: { ...linear("per_layer_projection", "proj", width, inner), present },
  perLayerNorm: { ...normWeight("post_per_layer_input_norm", "post_norm", width), present },
} as const satisfies WeightTable;

/** x + norm(projection(act(gate(x)) * the layer's embedding)). */
export function takeIn(
  pass: Omit<BlockPass, "stream">,
  x: Value,
  parts: PartsOf<typeof perLayerWeights>,
): Value {
  const { tape, config, options, perLayer } = pass;
  const { perLayerGate, perLayerProjection, perLayerNorm } = parts;
  if (!perLayerGate) return x;
  invariant(perLayerProjection && perLayerNorm && perLayer, "a layer without its embedding");
  const [gate] = applyLinears(tape, x, [perLayerGate], options.context) as [Value];
  const gated = gatedActivation(tape, config.activation, gate, perLayer);
  const [projected] = applyLinears(tape, gated, [perLayerProjection], options.context) as [Value];
  return norm(pass, projected, perLayerNorm, x);
}

/** Floats a token that a training pass keeps of it: its input, gate, embedding, their product, what the norm reads. */
export const perLayerActivations = (config: DecoderConfig): number =>
  config.perLayer ? 2 * config.width + 3 * config.perLayer.width : 0;
