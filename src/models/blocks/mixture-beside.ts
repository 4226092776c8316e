// A mixture of experts beside a dense MLP (Gemma 4's 26B-A4B): both see the stream through norms of their own, and their
// answers, normed again, are summed. The router sees the stream through a third norm, and a number of each expert multiplies
// the weight of its answer. transformers 5.24, models/gemma4. Experts and router: mixture.ts; the dense MLP: gated-mlp.ts.

import { scaled } from "../../autograd/ops/layers.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import { norm } from "../pass.ts";
import { blockPart, experts, linear, normWeight, vector } from "./block-part.ts";
import { gatedMlp } from "./gated-mlp.ts";
import { expertActivations, expertWidth, throughExperts } from "./mixture.ts";

const width = (config: DecoderConfig) => config.width;
const count = (_: DecoderConfig, layer: LayerConfig) => layer.experts!.count;
const inner = (_: DecoderConfig, layer: LayerConfig) => expertWidth(layer);
const both = (_: DecoderConfig, layer: LayerConfig) => 2 * expertWidth(layer);

export const mixtureBeside = blockPart({
  weights: {
    ...gatedMlp.weights,
    densePostNorm: normWeight("post_feedforward_layernorm_1", "post_ffw_norm_1", width),
    router: { ...linear("router.proj", "ffn_gate_inp", count, width), dense: true },
    routerNorm: { ...vector("router.scale", "ffn_gate_inp.scale", width), bare: true },
    expertScale: {
      ...vector("router.per_expert_scale", "ffn_down_exps.scale", count),
      ...{ bare: true, shared: true },
    },
    expertNorm: normWeight("pre_feedforward_layernorm_2", "pre_ffw_norm_2", width),
    expertGateUp: experts("experts.gate_up_proj", "ffn_gate_up_exps", count, both, width),
    expertDown: experts("experts.down_proj", "ffn_down_exps", count, width, inner),
    expertPostNorm: normWeight("post_feedforward_layernorm_2", "post_ffw_norm_2", width),
  },
  run(pass, x, parts, residual) {
    const { tape, stream, config } = pass;
    invariant(!residual && config.normShift === 0, "experts beside an MLP without norms behind both");
    const dense = norm(pass, gatedMlp.run(pass, x, parts), parts.densePostNorm);
    const asked = scaled(tape, norm(pass, stream, parts.routerNorm), config.width ** -0.5);
    const answers = throughExperts(
      pass,
      { x: norm(pass, stream, parts.expertNorm), asked },
      {
        ...{ router: parts.router, gateUp: parts.expertGateUp, down: parts.expertDown },
        scale: parts.expertScale,
      },
    );
    return norm(pass, answers, parts.expertPostNorm, dense);
  },
  activations(config, layer) {
    // Besides: what the two norms behind read, what the router and the experts read.
    return gatedMlp.activations(config, layer) + expertActivations(config, layer) + 4 * config.width;
  },
});
