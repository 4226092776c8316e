// What an optimizer supplies. Registry: index.ts.

import type { Backend, Tensor } from "../backend/backend.ts";
import { rows } from "../tensor/tensor.ts";
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
  /** Groups that cover `data`, when there is more than one: each has a factor on the rate and decays or not. */
  readonly ranges?: readonly UpdateRange[];
}

export interface UpdateRange {
  readonly begin: number;
  readonly end: number;
  readonly rate: number;
  readonly decays: boolean;
}

/** The groups, whether or not anybody named some. */
export function rangesOf({ data, ranges }: Trainables): readonly UpdateRange[] {
  return ranges ?? [{ begin: 0, end: data.shape[0]!, rate: 1, decays: true }];
}

/** What an update of some elements is given beside the optimizer's own constants. */
export interface UpdatePiece {
  readonly params: Tensor;
  readonly grads: Tensor;
  /** The state's elements, in the order given. */
  readonly state: readonly Tensor[];
  readonly learningRate: number;
  readonly weightDecay: number;
}

/** Goes through parameters and state of equally many elements, group by group and piece by piece. */
export async function updatePieces(
  parameters: Trainables,
  memory: StateMemory,
  state: readonly Tensor[],
  { learningRate, weightDecay }: Pick<UpdatePiece, "learningRate" | "weightDecay">,
  update: (piece: UpdatePiece) => void,
): Promise<void> {
  const { data, grad } = parameters;
  for (const range of rangesOf(parameters)) {
    const constants = {
      learningRate: learningRate * range.rate,
      weightDecay: range.decays ? weightDecay : 0,
    };
    const own = state.map((tensor) => rows(tensor, range.begin, range.end));
    await memory.forEachPiece(own, (begin, end, pieces) => {
      const [first, last] = [range.begin + begin, range.begin + end];
      update({
        params: rows(data, first, last),
        grads: rows(grad, first, last),
        state: pieces,
        ...constants,
      });
    });
  }
}

/** A tensor that may not be on the device: its bytes are read and written through `store`. */
export interface StateTensor {
  readonly name: string;
  readonly tensor: Tensor;
  readonly store: ByteStore;
  /** Where ranks have parts of it (sharded.ts), on all of them: brings them together, before `store` is read. */
  collect?(): Promise<void>;
  /** And hands what rank 0 has written to `store` to the ranks. */
  spread?(): Promise<void>;
}

export interface Optimizer {
  /**
   * One update from the gradients in place, times `factor` [1] as the clipFactor kernel leaves it (below 0 nothing is
   * updated); step is 1 for the first.
   */
  update(step: number, learningRate: number, factor: Tensor | undefined): Promise<void>;
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
  /** State is laid out by whole parameters, so that ranks cannot each keep a slice of it. */
  readonly wholeParameters?: true;
}

export interface OptimizerFactory extends MakeOptimizer, OptimizerTraits {}

export function defineOptimizer(traits: OptimizerTraits, make: MakeOptimizer): OptimizerFactory {
  return Object.assign(make, traits);
}
