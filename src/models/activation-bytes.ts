// How many bytes of activations a training pass keeps for its backward pass, at its peak. Counts what
// decoder.ts's ops save, tensor by tensor; plan/ shows it, training chooses checkpointing by it.

import type { DecoderConfig } from "./decoder-config.ts";

/** Bytes for `tokens` tokens in one micro-batch, in f32. */
export function activationBytes(config: DecoderConfig, tokens: number, checkpointing: boolean): number {
  const queries = config.heads * config.headWidth;
  const keys = config.kvHeads * config.headWidth;
  // Per layer: block input, normed input, q, k, v, attention's output with its log-sums, middle residual, normed
  // middle, gate, up, and their product.
  const normed = config.qkNorm ? queries + keys : 0;
  const block = 4 * config.width + 2 * queries + 2 * keys + normed + config.heads + 3 * config.mlpWidth + 2;
  const kept = checkpointing ? config.layers * config.width + block : config.layers * block;
  return 4 * tokens * (kept + 3 * config.width);
}
