// The weights of a decoder's block: once, with their names in checkpoints and in GGUF, shapes, kinds and when a model has
// them. Specs (decoder-weights.ts), the block itself (decoder.ts) and exports (publish/gguf-names.ts) come from it. Not
// here: what a block does with them.

import type { DecoderConfig } from "./decoder-config.ts";

export interface BlockWeight {
  /** After model.layers.<i>. in a checkpoint. */
  readonly path: string;
  /** After blk.<i>. in GGUF. */
  readonly gguf: string;
  /** "linear" weights [out, in] can be adapted and quantised. */
  readonly kind: "linear" | "vector";
  readonly shape: (config: DecoderConfig) => readonly number[];
  /** Absent: never. */
  readonly bias?: (config: DecoderConfig) => boolean;
  /** Absent: always. */
  readonly present?: (config: DecoderConfig) => boolean;
  /** Heads that its rows make up and the rotary embedding turns; absent: none. */
  readonly rotatedHeads?: (config: DecoderConfig) => number;
}

const queries = ({ heads, headWidth }: DecoderConfig) => heads * headWidth;
const keys = ({ kvHeads, headWidth }: DecoderConfig) => kvHeads * headWidth;

export const blockTable = {
  attentionNorm: vector("input_layernorm", "attn_norm", (c) => c.width),
  q: {
    ...linear("self_attn.q_proj", "attn_q", queries, (c) => c.width),
    bias: (c) => c.qkvBias,
    rotatedHeads: (c) => c.heads,
  },
  k: {
    ...linear("self_attn.k_proj", "attn_k", keys, (c) => c.width),
    bias: (c) => c.qkvBias,
    rotatedHeads: (c) => c.kvHeads,
  },
  v: { ...linear("self_attn.v_proj", "attn_v", keys, (c) => c.width), bias: (c) => c.qkvBias },
  qNorm: { ...vector("self_attn.q_norm", "attn_q_norm", (c) => c.headWidth), present: (c) => c.qkNorm },
  kNorm: { ...vector("self_attn.k_norm", "attn_k_norm", (c) => c.headWidth), present: (c) => c.qkNorm },
  o: { ...linear("self_attn.o_proj", "attn_output", (c) => c.width, queries), bias: (c) => c.outputBias },
  mlpNorm: vector("post_attention_layernorm", "ffn_norm", (c) => c.width),
  gate: {
    ...linear(
      "mlp.gate_proj",
      "ffn_gate",
      (c) => c.mlpWidth,
      (c) => c.width,
    ),
    bias: (c) => c.mlpBias,
  },
  up: {
    ...linear(
      "mlp.up_proj",
      "ffn_up",
      (c) => c.mlpWidth,
      (c) => c.width,
    ),
    bias: (c) => c.mlpBias,
  },
  down: {
    ...linear(
      "mlp.down_proj",
      "ffn_down",
      (c) => c.width,
      (c) => c.mlpWidth,
    ),
    bias: (c) => c.mlpBias,
  },
} as const satisfies Record<string, BlockWeight>;

export type BlockPart = keyof typeof blockTable;

/** In the order of a pass. */
export const blockParts: readonly (readonly [BlockPart, BlockWeight])[] = Object.entries(blockTable) as never;

function linear(
  path: string,
  gguf: string,
  outputs: (config: DecoderConfig) => number,
  inputs: (config: DecoderConfig) => number,
) {
  const shape = (config: DecoderConfig) => [outputs(config), inputs(config)];
  return { path, gguf, kind: "linear", shape } as const;
}

function vector(path: string, gguf: string, size: (config: DecoderConfig) => number) {
  return { path, gguf, kind: "vector", shape: (config: DecoderConfig) => [size(config)] } as const;
}
