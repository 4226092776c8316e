// What an optimizer supplies. Registry: index.ts.

import type { Backend, Tensor } from "../backend/backend.ts";
import type { ByteStore, StateMemory } from "./paging.ts";

export interface OptimizerOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** torch.optim.AdamW's own. */
export const defaultOptimizerOptions: OptimizerOptions = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0.01,
};

/** What trains: all values and all gradients, flat, of one length (nn/parameters.ts makes them). */
export interface Trainables {
  readonly data: Tensor; // [n]
  readonly grad: Tensor; // [n]
  /** The parameters, each a view of `data`. */
  readonly entries: readonly { readonly tensor: Tensor }[];
}

/** A tensor that may not be on the device: its bytes are read and written through `store`. */
export interface StateTensor {
  readonly name: string;
  readonly tensor: Tensor;
  readonly store: ByteStore;
}

/** Gradients are clipped to `maxNorm` by their squares' sum, as torch's clip_grad_norm_. */
export interface Clip {
  readonly sumSquares: Tensor; // [1]
  readonly maxNorm: number;
}

/** Clipping as an update kernel is told of it. */
export function clipOperands(clip: Clip | undefined): {
  clipSumSquares: Tensor | undefined;
  maxNorm: number;
} {
  return { clipSumSquares: clip?.sumSquares, maxNorm: clip?.maxNorm ?? 0 };
}

export interface Optimizer {
  /** One update from the gradients in place; step is 1 for the first. */
  update(step: number, learningRate: number, clip: Clip | undefined): Promise<void>;
  /** What a checkpoint saves and restores, in a fixed order. */
  state(): readonly StateTensor[];
  free(): void;
}

type MakeOptimizer = (
  backend: Backend,
  parameters: Trainables,
  options: OptimizerOptions,
  /** Where state lives; in the device's memory when absent. */
  memory?: StateMemory,
) => Optimizer;

/** What users are told of an optimizer, and what it takes for granted. */
export interface OptimizerTraits {
  /** "adamw8bit keeps its state in 8 bits", for the help. */
  readonly about?: string;
  /** Constants that differ from defaultOptimizerOptions. */
  readonly defaults?: Partial<OptimizerOptions>;
  /** What the default learning rate is multiplied by. */
  readonly rateFactor?: number;
}

export interface OptimizerFactory extends MakeOptimizer, OptimizerTraits {}

export function defineOptimizer(traits: OptimizerTraits, make: MakeOptimizer): OptimizerFactory {
  return Object.assign(make, traits);
}
