// Attention in the contract, forward and backward. Not here: its projections, which are products (../backend.ts), and RoPE
// (rows.ts).

import {
  cachedType,
  type Family,
  float,
  i32,
  type NumberOperand,
  number,
  optional,
  out,
  segments,
  update,
} from "./operands.ts";

const attention = {
  q: float("tq heads headDim"),
  k: float("tk kvHeads headDim"),
  v: float("tk kvHeads headDim"),
  segments,
  scale: number,
  window: number,
  /** Above 0, scores become softcap * tanh(score / softcap) before they are masked (Gemma Team 2024). */
  softcap: number,
  /** One more score a head in every softmax's denominator, whose weight falls to no value (Xiao et al. 2023). */
  sinks: optional(float("heads")),
} as const;

export const attentionKernels = {
  /** Causal attention with grouped heads; lse is the log of each row's sum of exponentials, the sink's among them. */
  attention: { ...attention, out: out(float("tq heads headDim")), lse: out(float("tq heads")) },
  /**
   * attention over keys and values that lie in the blocks of a cache, as storeRows left them there: row blocks[i] * blockTokens
   * of k and v begins block blocks[i], and kStart is where a segment's list of blocks begins in `blocks`. f32 and 16 bits
   * are rows [kvHeads * headDim]; u8 are rows in 8 bits (storeRows). k and v are of one type.
   */
  cachedAttention: {
    q: float("tq heads headDim"),
    k: cachedType("tk *width"),
    v: cachedType("tk *width"),
    blocks: i32("places"),
    blockTokens: { kind: "number", least: 16, multipleOf: 16 } as NumberOperand,
    kvHeads: number,
    segments,
    scale: number,
    window: number,
    softcap: number,
    sinks: optional(float("heads")),
    out: out(float("tq heads headDim")),
    lse: out(float("tq heads")),
  },
  /** Only for self-attention segments (qLength = kLength, qStart = kStart). */
  attentionBackward: {
    ...attention,
    out: float("tq heads headDim"),
    lse: float("tq heads"),
    dOut: float("tq heads headDim"),
    dq: out(float("tq heads headDim")),
    dk: out(float("tk kvHeads headDim")),
    dv: out(float("tk kvHeads headDim")),
    dSinks: optional(update(float("heads"))),
  },
} as const satisfies Family;
