// Softmax attention with grouped heads and rotary embedding: the mixer of most layers. What varies (windows, head widths,
// norms of q and k, rows of one fused projection, no rotation at all) is the configuration's to say. The kernel and its
// backward pass are autograd/ops/attention.ts.

import { type AttentionSpec, cachedAttention, rope } from "../../autograd/ops/attention.ts";
import { splitColumns } from "../../autograd/ops/columns.ts";
import { gatedActivation, rmsNorm } from "../../autograd/ops/layers.ts";
import { attentionOverPrefixes } from "../../autograd/ops/shared-prefixes.ts";
import { type Tape, Value } from "../../autograd/tape.ts";
import type { Segments } from "../../backend/backend.ts";
import { applyLinears } from "../../nn/apply.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import { type BlockPass, type KeyValueStore, norm } from "../pass.ts";
import { blockPart, linear, normWeight, type PartsOf, vector } from "./block-part.ts";

const queries = ({ heads }: DecoderConfig, { headWidth }: LayerConfig) => heads * headWidth;
const keys = (_: DecoderConfig, { kvHeads, headWidth }: LayerConfig) => kvHeads * headWidth;
const width = (config: DecoderConfig) => config.width;
const ownKeys = ({ keysFrom }: LayerConfig) => keysFrom === undefined;

const weights = {
  q: {
    ...linear("self_attn.q_proj", "attn_q", (c, l) => (c.gatedAttention ? 2 : 1) * queries(c, l), width),
    bias: (c) => c.qkvBias,
    present: (c) => !c.fusedQkv,
    rotatedHeads: (c) => c.heads,
  },
  k: {
    ...linear("self_attn.k_proj", "attn_k", keys, width),
    bias: (c) => c.qkvBias,
    present: (c, l) => !c.fusedQkv && ownKeys(l),
    rotatedHeads: (_, l) => l.kvHeads,
  },
  v: {
    ...linear("self_attn.v_proj", "attn_v", keys, width),
    bias: (c) => c.qkvBias,
    present: (c, l) => !c.fusedQkv && ownKeys(l) && !l.valuesFromKeys,
  },
  qkv: {
    ...linear("self_attn.qkv_proj", "attn_qkv", (c, l) => queries(c, l) + 2 * keys(c, l), width),
    bias: (c) => c.qkvBias,
    present: (c) => c.fusedQkv,
    rotatedHeads: (c, l) => c.heads + l.kvHeads,
  },
  qNorm: {
    ...normWeight("self_attn.q_norm", "attn_q_norm", (c, l) =>
      c.qkNorm === "whole" ? queries(c, l) : l.headWidth,
    ),
    present: (c) => c.qkNorm !== "none",
  },
  kNorm: {
    ...normWeight("self_attn.k_norm", "attn_k_norm", (c, l) =>
      c.qkNorm === "whole" ? keys(c, l) : l.headWidth,
    ),
    present: (c, l) => c.qkNorm !== "none" && ownKeys(l),
  },
  sinks: { ...vector("self_attn.sinks", "attn_sinks", (c) => c.heads), present: (c) => c.attentionSinks },
  o: { ...linear("self_attn.o_proj", "attn_output", width, queries), bias: (c) => c.outputBias },
} as const satisfies Parameters<typeof blockPart>[0]["weights"];

type Parts = PartsOf<typeof weights>;

export const attention = blockPart({
  weights,
  run(pass, x, parts, residual) {
    const { tape, config, layer, index, batch, options } = pass;
    const { context, cache } = options;
    const { headWidth, kvHeads, window, attentionScale } = layer;
    if (layer.keysFrom !== undefined) return attendToGiven(pass, x, parts, residual);
    let [q, k, v]: [Value, Value, Value] = projections(pass, x, parts);
    if (config.valueNorm) v = plainNorm(pass, v);
    let gate: Value | undefined;
    if (config.gatedAttention)
      [q, gate] = splitColumns(tape, q, [headWidth, headWidth], config.heads) as [Value, Value];
    const normed = (value: Value, weight: Parts["qNorm"]) => (weight ? norm(pass, value, weight) : value);
    if (!config.qkNormAfterRope) [q, k] = [normed(q, parts.qNorm), normed(k, parts.kNorm)];
    const tables = layer.rope === undefined ? undefined : batch.tables[layer.rope];
    if (tables) {
      q = rope(tape, q, headWidth, batch.rows, tables.queries ?? tables);
      k = rope(tape, k, headWidth, batch.rows, tables);
    }
    if (config.qkNormAfterRope) [q, k] = [normed(q, parts.qNorm), normed(k, parts.kNorm)];
    if (cache) [k, v] = extendCache(tape, cache, index, k, v, batch.segments);
    if (layer.keysRead) pass.hand?.([k, v]);
    const spec = {
      ...{ heads: config.heads, kvHeads, headWidth, segments: batch.segments },
      ...{ window, scale: attentionScale, softcap: config.attentionSoftCap, sinks: parts.sinks },
    };
    const mixed = attend(pass, [q, k, v], spec);
    const gated = gate ? gatedActivation(tape, "sigmoid", gate, mixed) : mixed;
    return applyLinears(tape, gated, [parts.o], context, residual)[0]!;
  },
  activations(config, layer) {
    const q = queries(config, layer);
    const k = ownKeys(layer) ? keys(config, layer) : 0;
    // q, k, v, what their norms read, attention's output with its log-sums.
    return (
      2 * q +
      2 * k +
      (config.qkNorm === "none" ? 0 : q + k) +
      (config.valueNorm ? k : 0) +
      config.heads +
      (config.fusedQkv ? q + 2 * k : 0) +
      // The gate, and the gated output.
      (config.gatedAttention ? 2 * q : 0)
    );
  },
});

function projections(
  { tape, config, layer, options }: BlockPass,
  x: Value,
  parts: Parts,
): [Value, Value, Value] {
  const { context } = options;
  if (parts.qkv) {
    const [fused] = applyLinears(tape, x, [parts.qkv], context) as [Value];
    const [q, k] = [queries(config, layer), keys(config, layer)];
    return splitColumns(tape, fused, [q, k, k]) as [Value, Value, Value];
  }
  const { q, k, v } = parts;
  invariant(q && k, "attention without projections");
  if (layer.valuesFromKeys) {
    const [queried, keyed] = applyLinears(tape, x, [q, k], context) as [Value, Value];
    return [queried, keyed, keyed];
  }
  invariant(v, "attention without a projection of values");
  return applyLinears(tape, x, [q, k, v], context) as [Value, Value, Value];
}

/** Attention over another layer's keys and values, which are normed, turned and cached already. */
function attendToGiven(pass: BlockPass, x: Value, parts: Parts, residual: Value | undefined): Value {
  const { tape, config, layer, batch, options, given } = pass;
  const { headWidth, kvHeads, window, attentionScale } = layer;
  invariant(given && parts.q && !config.gatedAttention && !config.qkNormAfterRope, "keys that are not given");
  let [q] = applyLinears(tape, x, [parts.q], options.context) as [Value];
  if (parts.qNorm) q = norm(pass, q, parts.qNorm);
  const tables = layer.rope === undefined ? undefined : batch.tables[layer.rope];
  if (tables) q = rope(tape, q, headWidth, batch.rows, tables.queries ?? tables);
  const spec = {
    ...{ heads: config.heads, kvHeads, headWidth, segments: batch.segments },
    ...{ window, scale: attentionScale, softcap: config.attentionSoftCap },
  };
  const mixed = attend(pass, [q, ...given], spec);
  return applyLinears(tape, mixed, [parts.o], options.context, residual)[0]!;
}

/** Over this pass's keys and values, or over a cache's. */
function attend(
  { tape, batch, options }: BlockPass,
  values: readonly [Value, Value, Value],
  spec: AttentionSpec,
): Value {
  const { cache } = options;
  return cache
    ? cachedAttention(tape, values, spec, cache)
    : attentionOverPrefixes(tape, values, spec, batch.shared);
}

/** RMSNorm of each head, without a weight. */
function plainNorm({ tape, config, layer, ones }: BlockPass, x: Value): Value {
  invariant(ones, "a norm without a weight and without ones");
  const tensor = { ...ones, shape: [layer.headWidth] };
  return rmsNorm(tape, x, { name: "ones", tensor }, { epsilon: config.normEpsilon });
}

/** Puts new keys and values into the cache; attention then reads the cache's own memory. */
function extendCache(
  tape: Tape,
  cache: KeyValueStore,
  layer: number,
  k: Value,
  v: Value,
  segments: Segments,
): [Value, Value] {
  invariant(!tape.recording, "a key/value cache serves generation, not training");
  invariant(segments.count > 0, "cache without segments");
  // The cache owns this memory, not the tape.
  const outputs = [k, v].map((value) => new Value(value.shape, value.dtype, false, false)) as [Value, Value];
  tape.record({
    name: "extendCache",
    inputs: [k, v],
    outputs: [],
    forward() {
      const stored = cache.extend(layer, k.data, v.data);
      outputs[0].tensor = stored.k;
      outputs[1].tensor = stored.v;
    },
  });
  return outputs;
}
