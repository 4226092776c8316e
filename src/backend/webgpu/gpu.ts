// What the files that launch kernels are given: a device's commands, pipelines and memory, and the arithmetic that its tier
// allows. Also the windows in which tensors larger than a binding are walked.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { Commands } from "./commands.ts";
import type { DeferredRows } from "./deferred-rows.ts";
import type { MatrixShape, Tier } from "./device.ts";
import type { GpuMemory, Memory } from "./memory.ts";
import type { Pipelines, Variant } from "./pipelines.ts";
import type { TileChoices } from "./tile-choices.ts";

export interface Gpu {
  readonly commands: Commands;
  readonly pipelines: Pipelines;
  readonly memory: Memory;
  /** Kernels that products may take over. */
  readonly deferred: DeferredRows;
  readonly tier: Tier;
  readonly matrix?: MatrixShape;
  /** Lanes of a subgroup where products take gemm-lanes.wgsl: on adapters that are programs on a CPU. */
  readonly lanes?: number;
  readonly limits: GPUSupportedLimits;
  /** Tiles of the products that were measured to be fastest here (tuning.ts). */
  tiles: TileChoices;
}

/** Elements that one workgroup of the element-by-element kernels takes. */
export const elementsPerGroup = 1024;

/** A variant without specialisation: one file. */
export function plain(...files: Variant["files"]): () => Variant {
  return () => ({ files });
}

/**
 * Ranges [start, start + length) that cover `count` items of `itemBytes` each, none larger than a binding. Starts are
 * multiples of `multiple` items.
 */
export function* windows(
  gpu: Gpu,
  count: number,
  itemBytes: number,
  multiple = 1,
): Generator<{ start: number; length: number }> {
  // A binding starts at the alignment below its operand.
  const room = gpu.commands.bindingLimit - 256;
  const most = Math.max(multiple, Math.floor(room / Math.max(1, itemBytes) / multiple) * multiple);
  for (let start = 0; start < count; start += most) yield { start, length: Math.min(most, count - start) };
}

/** Scratch memory for the kernels recorded by `use`; later kernels may have it again. */
export function withScratch<T>(gpu: Gpu, sizeBytes: number, use: (memory: GpuMemory) => T): T {
  const memory = gpu.memory.scratch(Math.max(16, sizeBytes));
  try {
    return use(memory);
  } finally {
    gpu.memory.free(memory);
  }
}

export function bytesOf(tensor: Tensor): number {
  return elementCount(tensor.shape) * 4;
}
