// A gated short convolution as mixer (Liquid AI's LFM2): [B | C | x] of one projection, then out(C * conv(B * x)). The kernel
// and its backward pass are autograd/ops/recurrent.ts.

import { splitColumns } from "../../autograd/ops/columns.ts";
import { gatedActivation } from "../../autograd/ops/layers.ts";
import { causalConv1d } from "../../autograd/ops/recurrent.ts";
import { overPrefixes } from "../../autograd/ops/shared-prefixes.ts";
import type { Value } from "../../autograd/tape.ts";
import { applyLinears } from "../../nn/apply.ts";
import { invariant } from "../../util/errors.ts";
import type { ConvolutionConfig, DecoderConfig, LayerConfig } from "../decoder-config.ts";
import { blockPart, linear } from "./block-part.ts";

const width = (config: DecoderConfig) => config.width;
const of = ({ convolution }: LayerConfig): ConvolutionConfig => {
  invariant(convolution, "a short convolution without its sizes");
  return convolution;
};
const bias = (_: DecoderConfig, layer: LayerConfig) => of(layer).bias;

export const shortConvolution = blockPart({
  weights: {
    inProj: { ...linear("conv.in_proj", "shortconv.in_proj", (c) => 3 * c.width, width), bias },
    conv: {
      path: "conv.conv",
      gguf: "shortconv.conv",
      kind: "vector",
      shape: (_, layer) => [of(layer).channels, 1, of(layer).taps],
      shared: true,
    },
    convBias: {
      path: "conv.conv.bias",
      gguf: "shortconv.conv.bias",
      kind: "vector",
      shape: (_, layer) => [of(layer).channels],
      bare: true,
      shared: true,
      present: bias,
    },
    outProj: { ...linear("conv.out_proj", "shortconv.out_proj", width, width), bias },
  },
  run({ tape, config, index, batch, options }, h, parts, residual) {
    const { context, cache } = options;
    const held = cache?.state(index);
    const { inputs } = held ?? {};
    const [projected] = applyLinears(tape, h, [parts.inProj], context) as [Value];
    const each = config.width;
    const [b, c, x] = splitColumns(tape, projected, [each, each, each]) as [Value, Value, Value];
    const taken = gatedActivation(tape, "identity", b, x);
    const mixed = overPrefixes(tape, batch.shared, [taken], ([values]) =>
      causalConv1d(tape, values, {
        ...{ weight: parts.conv, bias: parts.convBias, silu: false, segments: batch.segments },
        state: held && inputs && { segments: held.segments, tensor: inputs },
      }),
    );
    const gated = gatedActivation(tape, "identity", c, mixed);
    return applyLinears(tape, gated, [parts.outProj], context, residual)[0]!;
  },
  // The three streams twice over, the convolution's input and output, the product.
  activations: (config) => 9 * config.width,
});
