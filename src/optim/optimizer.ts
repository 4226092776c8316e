// What an optimizer supplies. Registry: index.ts.

import type { AdamwUpdate, Backend, Tensor } from "../backend/backend.ts";
import type { FlatParameters } from "../nn/parameters.ts";

export interface OptimizerOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

export interface Optimizer {
  /** One update from the gradients in place; step is 1 for the first. */
  update(step: number, learningRate: number, clip: AdamwUpdate["clip"]): void;
  /** Device tensors that a checkpoint saves and restores, in a fixed order. */
  state(): readonly { readonly name: string; readonly tensor: Tensor }[];
  free(): void;
}

export type OptimizerFactory = (
  backend: Backend,
  parameters: FlatParameters,
  options: OptimizerOptions,
) => Optimizer;
