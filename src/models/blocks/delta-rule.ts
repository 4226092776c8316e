// Linear attention by the gated delta rule (Yang et al. 2024): queries, keys and values of one projection pass a short
// convolution, a matrix a head learns values by keys and forgets, and what queries read of it is normed and gated. The
// kernels and their backward passes are autograd/ops/recurrent.ts.

import { gatedActivation, rmsNorm } from "../../autograd/ops/layers.ts";
import { causalConv1d, deltaGates, gatedDeltaRule } from "../../autograd/ops/recurrent.ts";
import { overPrefixes } from "../../autograd/ops/shared-prefixes.ts";
import type { Value } from "../../autograd/tape.ts";
import type { Tensor } from "../../backend/backend.ts";
import { applyLinears } from "../../nn/apply.ts";
import { rowsWith } from "../../nn/module.ts";
import { invariant } from "../../util/errors.ts";
import type { ConvolutionConfig, DecoderConfig, DeltaConfig, LayerConfig } from "../decoder-config.ts";
import { blockPart, linear, vector } from "./block-part.ts";

const width = (config: DecoderConfig) => config.width;
const of = ({ convolution, delta }: LayerConfig): DeltaConfig & ConvolutionConfig => {
  invariant(convolution && delta, "linear attention without its sizes");
  return { ...convolution, ...delta };
};
const channels = (_: DecoderConfig, layer: LayerConfig) => of(layer).channels;
const heads = (_: DecoderConfig, layer: LayerConfig) => of(layer).valueHeads;
const values = (_: DecoderConfig, layer: LayerConfig) => of(layer).valueHeads * of(layer).valueWidth;

export const deltaRule = blockPart({
  weights: {
    inQkv: linear("linear_attn.in_proj_qkv", "attn_qkv", channels, width),
    inZ: linear("linear_attn.in_proj_z", "attn_gate", values, width),
    inB: linear("linear_attn.in_proj_b", "ssm_beta", heads, width),
    inA: linear("linear_attn.in_proj_a", "ssm_alpha", heads, width),
    conv: {
      path: "linear_attn.conv1d",
      gguf: "ssm_conv1d",
      kind: "vector",
      shape: (_, layer) => [of(layer).channels, 1, of(layer).taps],
      shared: true,
    },
    timeBias: { ...vector("linear_attn.dt_bias", "ssm_dt.bias", heads), bare: true, shared: true },
    logDecay: { ...vector("linear_attn.A_log", "ssm_a", heads), bare: true, shared: true },
    norm: vector("linear_attn.norm", "ssm_norm", (_, layer) => of(layer).valueWidth),
    out: linear("linear_attn.out_proj", "ssm_out", width, values),
  },
  run(pass, x, parts, residual) {
    const { tape, config, layer, index, batch, options } = pass;
    const { context, cache } = options;
    const { keyHeads, keyWidth, valueHeads, valueWidth } = of(layer);
    const held = cache?.state(index);
    const stateOf = (tensor: Tensor | undefined) => held && tensor && { segments: held.segments, tensor };
    const { segments } = batch;
    const projections = [parts.inQkv, parts.inZ, parts.inB, parts.inA];
    const [qkv, z, b, a] = applyLinears(tape, x, projections, context) as [Value, Value, Value, Value];
    const { g, beta } = deltaGates(tape, a, b, parts.logDecay, parts.timeBias);
    const read = overPrefixes(tape, batch.shared, [qkv, g, beta], (values) => {
      const mixed = causalConv1d(tape, values[0], {
        ...{ weight: parts.conv, silu: true, segments, state: stateOf(held?.inputs) },
      });
      return gatedDeltaRule(tape, mixed, values[1], values[2], {
        ...{ keyHeads, keyWidth, valueHeads, valueWidth, segments, state: stateOf(held?.matrices) },
      });
    });
    const own = rowsWith(context.adapterRows, "parameter", ({ replaced }) => replaced?.get(parts.norm.name));
    const normed = rmsNorm(tape, read, parts.norm, { epsilon: config.normEpsilon, shift: 0, own });
    const gated = gatedActivation(tape, "silu", z, normed);
    return applyLinears(tape, gated, [parts.out], context, residual)[0]!;
  },
  activations(config, layer) {
    // The projections and their convolution, the gates and what they are made of, the rule's result, its norm, the product.
    return 2 * channels(config, layer) + 5 * heads(config, layer) + 4 * values(config, layer);
  },
});
