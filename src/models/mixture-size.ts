// What of a mixture's weights one token meets, and which weights become 4 bits: counted from the configuration.

import { elementCount } from "../tensor/tensor.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { type WeightSpec, weightSpecs } from "./decoder-weights.ts";

/** Whether --method qlora turns a weight into 4 bits. */
export function isQuantizable({ kind, dense }: WeightSpec): boolean {
  return (kind === "linear" || kind === "experts") && !dense;
}

const idle = (config: DecoderConfig, of: (spec: WeightSpec) => boolean): number =>
  weightSpecs(config)
    .filter((spec) => spec.layer !== undefined && of(spec))
    .reduce((sum, { layer, shape }) => {
      const { count, perToken } = config.layers[layer!]!.experts!;
      return sum + (elementCount(shape) / count) * (count - perToken);
    }, 0);

/** Elements of the matrices of experts that a token does not go to. */
export const idleWeights = (config: DecoderConfig): number => idle(config, ({ kind }) => kind === "experts");

/** Parameters of those experts, biases among them. */
export const idleParameters = (config: DecoderConfig): number =>
  idle(config, ({ name }) => /\.experts\.\w+\.(?:weight|bias)$/.test(name));
