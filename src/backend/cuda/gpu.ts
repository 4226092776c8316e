// What the files of kernels are given to launch with, and kernels whose arguments are the contract's operands under the
// same names, whose calls need no code of their own but the number of blocks. Not here: the launches of kernels that need more
// than that (the other files), operands' checks (../operand-check.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import type { DeviceBuffer, Precision } from "../backend.ts";
import type { ContractKernels, KernelName, Operands } from "../contract.ts";
import { OperandCheck } from "../operand-check.ts";
import type { CudaCard } from "./addon.ts";
import type { ArgumentsOf, Commands, Grid } from "./commands.ts";
import { type CudaKernel, cudaKernels, layouts } from "./kernels.ts";
import type { CudaMemory } from "./memory.ts";
import type { Chooser } from "./product-types.ts";

export interface CudaGpu {
  readonly commands: Commands;
  readonly memory: CudaMemory;
  readonly card: CudaCard;
  readonly precision: Precision;
  /** How products are made. */
  readonly products: Chooser;
  /** Waits for everything that was launched. */
  settle(): void;
  launch<K extends CudaKernel>(kernel: K, grid: Grid, values: ArgumentsOf<K>): void;
}

/** Runs `body` with memory that is a kernel's own; launches run in order, so it may be freed behind them. */
export function withScratch(gpu: CudaGpu, sizeBytes: number, body: (memory: DeviceBuffer) => void): void {
  const memory = gpu.memory.scratch(sizeBytes);
  body(memory);
  gpu.memory.free(memory);
}

/** The same tensor as one row of floats in scratch memory. */
export function scratchTensor(memory: DeviceBuffer, shape: readonly number[]): Tensor {
  return { buffer: memory, byteOffset: 0, shape, dtype: "f32" };
}

/** What a call's sizes and operands come to, by the names that the contract has for them. */
export type Sizes = (name: string) => number;

/**
 * A call of a contract's kernel as one launch: every field of the kernel's arguments is an operand, a size, or
 * "<operand>Type" of the contract under the same name; `grid` says how many blocks.
 */
export function derivedKernel<K extends KernelName & CudaKernel>(
  gpu: CudaGpu,
  kernel: K,
  grid: (size: Sizes) => Grid,
): (operands: object) => void {
  const check = new OperandCheck(kernel, "f32", (id) => gpu.memory.isLive(id));
  const { fields } = layouts[cudaKernels[kernel].arguments];
  const plan = Int32Array.from(
    fields.flatMap(([name, , , count]) => {
      const slot = check.slotOf(name);
      if (slot === undefined) throw new BugError(`${kernel}: nothing in the contract is named ${name}`);
      return Array.from({ length: count }, (_, i) => slot + i);
    }),
  );
  const size: Sizes = (name) => {
    const slot = check.slotOf(name);
    if (slot === undefined) throw new BugError(`${kernel}: there is no size ${name}`);
    return check.slots[slot]!;
  };
  return (operands) => {
    check.run(operands);
    gpu.commands.launchList(kernel, grid(size), check.slots, plan);
  };
}

/** A kernel whose launches `body` writes itself, once its operands were held against the contract. */
export function writtenKernel<K extends KernelName>(
  gpu: CudaGpu,
  kernel: K,
  body: (operands: Operands<K>) => void,
): (operands: Operands<K>) => void {
  const check = new OperandCheck(kernel, "f32", (id) => gpu.memory.isLive(id));
  return (operands) => {
    check.run(operands);
    body(operands);
  };
}

/** Several of these. */
export function writtenKernels(gpu: CudaGpu, bodies: Partial<ContractKernels>): Partial<ContractKernels> {
  const entries = Object.entries(bodies) as [KernelName, (operands: object) => void][];
  return Object.fromEntries(entries.map(([name, body]) => [name, writtenKernel(gpu, name, body)]));
}

/** Blocks that take `each` of the elements counted by a size. */
export function elements(each: number, name = "n"): (size: Sizes) => Grid {
  return (size) => [Math.ceil(size(name) / each)];
}
