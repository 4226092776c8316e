// Where an optimizer's state lives: in the device's memory, or, beyond a budget, in pages of a file that are brought in
// piece by piece ahead of the update and written back behind it. An update goes through the state once from front to
// back, so what comes next is always known. The arithmetic does not depend on any of this: paged and unpaged runs are
// bit-identical. Not here: how a device pages (backend/cpu-paging.ts).
// After: Dettmers et al. 2023, "QLoRA", section 3, "Paged Optimizers".

import type { Backend, DeviceBuffer, Paging } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { rows, type Tensor, viewOf } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";

export interface StateMemory {
  /** Zeros. */
  allocate(sizeBytes: number): DeviceBuffer;
  /**
   * Calls update(begin, end) until [0, count) is covered, count being the elements that all `tensors` have; they are
   * in memory where update touches them. begin is a multiple of 16,384.
   */
  forEachPiece(tensors: readonly Tensor[], update: (begin: number, end: number) => void): void;
  /** Bytes in files, 0 when all is in memory. */
  readonly pagedBytes: number;
}

/** All state in the device's memory; an update is one piece. */
export function residentState(backend: Backend): StateMemory {
  return {
    pagedBytes: 0,
    allocate: (sizeBytes) => allocateZeros(backend, sizeBytes),
    forEachPiece(tensors, update) {
      const count = tensors[0]!.shape[0]!;
      if (count > 0) update(0, count);
    },
  };
}

function allocateZeros(backend: Backend, sizeBytes: number): DeviceBuffer {
  // Whole words, so that bytes too can be filled as floats.
  const words = Math.max(1, Math.ceil(sizeBytes / 4));
  const buffer = backend.allocate(4 * words, "optimizer");
  backend.fill(viewOf(buffer, [words], "f32"), 0);
  return buffer;
}

/** Elements of a piece: 16 MiB of f32. Reading and writing at full speed takes a few megabytes at a time. */
const pieceElements = 4 * 2 ** 20;

export interface PagingOptions {
  /** Where the file is made: the run's folder. */
  readonly folder: string;
  /** State that stays in memory; when absent, half of what is available now. */
  readonly budgetBytes?: number;
}

/** State beyond the budget in a file. UserError when the device has no such memory, or the disk no room. */
export function pagedState(backend: Backend, options: PagingOptions): StateMemory {
  const { paging } = backend;
  if (!paging) {
    throw new UserError(
      `--paged: the ${backend.name} backend has no memory that can be paged out; use --backend cpu, or --optimizer adamw8bit`,
    );
  }
  return new PagedState(backend, paging, options);
}

class PagedState implements StateMemory {
  pagedBytes = 0;
  private budget: number;

  constructor(
    private readonly backend: Backend,
    private readonly paging: Paging,
    private readonly options: PagingOptions,
  ) {
    this.budget = options.budgetBytes ?? paging.availableBytes() / 2;
  }

  allocate(sizeBytes: number): DeviceBuffer {
    const kept = Math.min(sizeBytes, this.budget);
    this.budget -= kept;
    if (kept === sizeBytes) return allocateZeros(this.backend, sizeBytes);
    this.pagedBytes += sizeBytes - kept;
    return this.paging.allocate(sizeBytes, "optimizer", this.options.folder, kept);
  }

  forEachPiece(tensors: readonly Tensor[], update: (begin: number, end: number) => void): void {
    const { paging } = this;
    const count = tensors[0]!.shape[0]!;
    const step = pieceElements;
    const piece = (begin: number) => tensors.map((t) => rows(t, begin, Math.min(begin + step, count)));
    for (const tensor of count > 0 ? piece(0) : []) paging.prefetch(tensor);
    for (let begin = 0; begin < count; begin += step) {
      if (begin + step < count) for (const tensor of piece(begin + step)) paging.prefetch(tensor);
      update(begin, Math.min(begin + step, count));
      for (const tensor of piece(begin)) paging.writeBack(tensor);
      // One piece later its pages have mostly been written: nobody waits long.
      if (begin > 0) for (const tensor of piece(begin - step)) paging.evict(tensor);
      if (begin + step >= count) for (const tensor of piece(begin)) paging.evict(tensor);
    }
  }
}

/** Bytes [offset, offset + length) of state set to one value, in pieces that fit in memory. */
export function fillBytes(backend: Backend, tensor: Tensor, value: number): void {
  const count = tensor.shape[0]! * dtypeBytes[tensor.dtype];
  const bytes = new Uint8Array(Math.min(count, pieceElements)).fill(value);
  for (let begin = 0; begin < count; begin += bytes.length) {
    backend.write(
      tensor.buffer,
      bytes.subarray(0, Math.min(bytes.length, count - begin)),
      tensor.byteOffset + begin,
    );
  }
}
