// What a pass over a decoder is given: tokens, where they stand, what varies from pass to pass, and the keys and values
// of earlier tokens. Blocks (blocks/) read it; the decoder (decoder.ts) hands it on.

import type { RopeTables } from "../autograd/ops/attention.ts";
import type { Routing } from "../autograd/ops/experts.ts";
import { rmsNorm } from "../autograd/ops/layers.ts";
import type { SharedPrefixes } from "../autograd/ops/shared-prefixes.ts";
import type { Parameter, Tape, Value } from "../autograd/tape.ts";
import type { Segments, Tensor } from "../backend/backend.ts";
import { type PassContext, rowsWith } from "../nn/module.ts";
import type { DecoderConfig, LayerConfig } from "./decoder-config.ts";

/** Token ids and where they stand. */
export interface TokenBatch {
  readonly ids: Tensor; // i32 [T]
  /** Each token's row of `tables`: what the decoder's ropeCache.place() says. */
  readonly rows: Tensor; // i32 [T]
  /** One for each of the configuration's RoPEs. */
  readonly tables: readonly RopeTables[];
  readonly segments: Segments;
  /** Where sequences share tokens: `segments` are then of its rows, and only attention knows of them. */
  readonly shared?: SharedPrefixes | undefined;
  /** The tokens' embeddings for each layer, [T, layers * width]: what the decoder's perLayerRows() says. */
  readonly perLayer?: Tensor | undefined;
  /** What is added to the tokens' embeddings, [T, C], in training: session/embedding-noise.ts. */
  readonly noise?: Tensor | undefined;
}

/** Keys and values of earlier tokens, for generation; see generate/kv-cache.ts. */
export interface KeyValueStore {
  /** Stores this layer's new keys and values [T, G*D] and returns the memory of all, as cachedAttention reads it. */
  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor };
  /** The lists of blocks that the pass's segments name, and the tokens of a block. */
  readonly blocks: { readonly places: Tensor; readonly tokens: number };
  /** What this layer keeps of a sequence however long it is. */
  state(layer: number): LayerState;
}

/** State of a layer that walks along a sequence; segments name its rows. */
export interface LayerState {
  readonly segments: Segments;
  /** Its convolution's last inputs: [slots, taps, channels]. */
  readonly inputs?: Tensor;
  /** Its heads' matrices: [slots, value heads, key width, value width]. */
  readonly matrices?: Tensor;
}

export interface ForwardOptions {
  readonly context: PassContext;
  /** Keep only each block's input and run its forward pass again in the backward pass. */
  readonly checkpointing?: boolean;
  /** Hears where a layer's tokens go, when that is recorded. */
  readonly routed?: (layer: number, routing: Routing) => void;
  /** Generation: attend to earlier tokens through the cache. */
  readonly cache?: KeyValueStore;
}

/** Keys and values that layers attend to. */
export type KeysAndValues = readonly [keys: Value, values: Value];

/** A block's part of a pass. */
export interface BlockPass {
  readonly tape: Tape;
  readonly config: DecoderConfig;
  readonly layer: LayerConfig;
  /** Of the layer. */
  readonly index: number;
  /** What came into the part, before its norm. */
  readonly stream: Value;
  readonly batch: TokenBatch;
  readonly options: ForwardOptions;
  /** Ones, [the widest head]: the weight of norms without one. Where the configuration has such norms. */
  readonly ones?: Tensor;
  /** Of the layer that this one attends to in place of its own. */
  readonly given?: KeysAndValues;
  /** Takes what later layers attend to. */
  readonly hand?: (made: KeysAndValues) => void;
  /** The layer's part of the tokens' second embedding, [T, width of a part]. */
  readonly perLayer?: Value;
}

/** The configuration's RMSNorm with this weight, and with `residual` on top where there is one. */
export function norm(
  { tape, config, options }: Pick<BlockPass, "tape" | "config" | "options">,
  x: Value,
  weight: Parameter,
  residual?: Value,
): Value {
  const { adapterRows } = options.context;
  const own = rowsWith(adapterRows, "parameter", (group) => group.replaced?.get(weight.name));
  return rmsNorm(tape, x, weight, { epsilon: config.normEpsilon, shift: config.normShift, own, residual });
}
