// How many bytes of activations a training pass keeps for its backward pass, at its peak. Counts what
// decoder.ts's ops save, tensor by tensor; plan/ shows it, training chooses checkpointing by it.

import { mixerOf, mlpOf } from "./blocks/index.ts";
import { perLayerActivations } from "./blocks/per-layer-input.ts";
import type { DecoderConfig, LayerConfig } from "./decoder-config.ts";

/** Bytes for `tokens` tokens in one micro-batch, in f32. */
export function activationBytes(config: DecoderConfig, tokens: number, checkpointing: boolean): number {
  const { layers, width } = config;
  // Per layer: block input, normed input, middle residual, normed middle, what norms after the parts read, what the
  // parts keep, and the norms' factors.
  const after = config.norms === "pre" ? 0 : 2 * width;
  const of = (layer: LayerConfig) =>
    4 * width +
    after +
    mixerOf(layer).activations(config, layer) +
    mlpOf(layer).activations(config, layer) +
    perLayerActivations(config) +
    2;
  const blocks = layers.map(of);
  const kept = checkpointing
    ? layers.length * width + Math.max(...blocks)
    : blocks.reduce((sum, block) => sum + block, 0);
  return 4 * tokens * (kept + 3 * width);
}
