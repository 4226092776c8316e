// Floating-point operations of a training step, from the shapes alone: products only, two operations a
// multiply-add. What element-wise work costs is not counted, as everywhere in the field (Kaplan et al. 2020, app. B).

import { elementCount } from "../tensor/tensor.ts";
import type { DecoderConfig, LayerConfig } from "./decoder-config.ts";
import { weightSpecs } from "./decoder-weights.ts";
import { idleWeights } from "./mixture-size.ts";

export interface StepShape {
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Tokens that meet the output head. */
  readonly targetTokens: number;
  readonly adapterParameters: number;
  /** All weights train: their gradients are products too. */
  readonly full: boolean;
  readonly checkpointing: boolean;
}

/** Operations of one forward and backward pass. */
export function stepFlops(config: DecoderConfig, shape: StepShape): number {
  const tokens = shape.sequences * shape.sequenceLength;
  const linear =
    weightSpecs(config)
      .filter((spec) => spec.kind === "linear" || spec.kind === "experts")
      .reduce((sum, spec) => sum + elementCount(spec.shape), 0) - idleWeights(config);
  const head = config.vocabularySize * config.width;
  // Scores and mixing, forward, over the visible half of each square.
  const attention = config.layers.reduce((sum, layer) => {
    const pairs = layer.mixer === "attention" ? visiblePairs(layer, shape) : 0;
    // The delta rule reads, writes and is asked of a matrix a head for each token.
    const { valueHeads = 0, keyWidth = 0, valueWidth = 0 } = layer.delta ?? {};
    return sum + 4 * config.heads * layer.headWidth * pairs + 6 * tokens * valueHeads * keyWidth * valueWidth;
  }, 0);
  const forward = 2 * tokens * (linear + shape.adapterParameters) + attention;
  const inputGradient = 2 * tokens * (linear + shape.adapterParameters) + 2.5 * attention;
  const weightGradient = 2 * tokens * (shape.full ? linear : shape.adapterParameters);
  const headPasses = shape.full ? 3 : 2;
  const recomputed = shape.checkpointing ? forward : 0;
  return forward + inputGradient + weightGradient + recomputed + headPasses * 2 * shape.targetTokens * head;
}

/** Query-key pairs that a causal mask leaves within the layer's window. */
function visiblePairs({ window }: LayerConfig, { sequences, sequenceLength }: StepShape): number {
  const w = window > 0 ? Math.min(window, sequenceLength) : sequenceLength;
  return sequences * (w * sequenceLength - (w * (w - 1)) / 2);
}
