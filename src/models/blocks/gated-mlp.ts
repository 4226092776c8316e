// The gated MLP: down(act(gate(x)) * up(x)), with gate and up apart or as the rows of one fused projection. Shazeer 2020,
// "GLU variants improve transformer". The activation's kernel is autograd/ops/layers.ts.

import { splitColumns } from "../../autograd/ops/columns.ts";
import { gatedActivation } from "../../autograd/ops/layers.ts";
import type { Value } from "../../autograd/tape.ts";
import { applyLinears } from "../../nn/apply.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import { blockPart, linear } from "./block-part.ts";

const width = (config: DecoderConfig) => config.width;
const inner = (_: DecoderConfig, { mlpWidth }: LayerConfig) => mlpWidth;

export const gatedMlp = blockPart({
  weights: {
    gate: {
      ...linear("mlp.gate_proj", "ffn_gate", inner, width),
      bias: (c) => c.mlpBias,
      present: (c) => !c.fusedGateUp,
    },
    up: {
      ...linear("mlp.up_proj", "ffn_up", inner, width),
      bias: (c) => c.mlpBias,
      present: (c) => !c.fusedGateUp,
    },
    gateUp: {
      ...linear("mlp.gate_up_proj", "ffn_up", (c, l) => 2 * inner(c, l), width),
      bias: (c) => c.mlpBias,
      present: (c) => c.fusedGateUp,
    },
    down: { ...linear("mlp.down_proj", "ffn_down", width, inner), bias: (c) => c.mlpBias },
  },
  run({ tape, config, layer, options }, x, { gate, up, gateUp, down }, residual) {
    const { context } = options;
    let halves: readonly Value[];
    if (gateUp) {
      const [fused] = applyLinears(tape, x, [gateUp], context) as [Value];
      halves = splitColumns(tape, fused, [layer.mlpWidth, layer.mlpWidth]);
    } else {
      invariant(gate && up, "a gated MLP without its gate");
      halves = applyLinears(tape, x, [gate, up], context);
    }
    const activated = gatedActivation(tape, config.activation, halves[0]!, halves[1]!);
    return applyLinears(tape, activated, [down], context, residual)[0]!;
  },
  // Gate, up, and their product.
  activations: (_, layer) => 3 * layer.mlpWidth,
});
