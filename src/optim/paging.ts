// Where an optimizer's state lives: in the device's memory, or, beyond a budget, in pages of a file that are brought in
// piece by piece ahead of the update and written back behind it. An update goes through the state once from front to
// back, so what comes next is always known. The arithmetic does not depend on any of this: paged and unpaged runs are
// bit-identical. Not here: how a device pages (backend/cpu/paging.ts), state that a GPU leaves to the host
// (host-paging.ts).
// After: Dettmers et al. 2023, "QLoRA", section 3, "Paged Optimizers".

import type { Backend, DeviceBuffer, Paging } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { rows, type Tensor, viewOf } from "../tensor/tensor.ts";

/** Whoever has a buffer's bytes. */
export type ByteStore = Pick<Backend, "read" | "write" | "free">;

/** Buffers of state; only their maker reads, writes and frees them, and only pieces of them are a kernel's operands. */
export interface StateMemory extends ByteStore {
  /** Zeros. */
  allocate(sizeBytes: number): DeviceBuffer;
  /**
   * Calls update(begin, end, pieces) until [0, count) is covered, count being the elements that all `tensors` have;
   * pieces are their elements [begin, end) on the device, where kernels may change them. begin is a multiple of 16,384.
   */
  forEachPiece(
    tensors: readonly Tensor[],
    update: (begin: number, end: number, pieces: readonly Tensor[]) => void,
  ): Promise<void>;
  /** Bytes that are not in the device's memory. */
  readonly pagedBytes: number;
  /** Where those are, for people. */
  readonly place: string;
}

/** All state in the device's memory; an update is one piece. */
export function residentState(backend: Backend): StateMemory {
  return {
    pagedBytes: 0,
    place: "",
    allocate: (sizeBytes) => allocateZeros(backend, sizeBytes),
    read: (buffer, offset, sizeBytes) => backend.read(buffer, offset, sizeBytes),
    write: (buffer, data, offset) => backend.write(buffer, data, offset),
    free: (buffer) => backend.free(buffer),
    async forEachPiece(tensors, update) {
      const count = tensors[0]!.shape[0]!;
      if (count > 0) update(0, count, tensors);
    },
  };
}

/** Device memory full of zeros. */
export function allocateZeros(backend: Backend, sizeBytes: number): DeviceBuffer {
  // Whole words, so that bytes too can be filled as floats.
  const words = Math.max(1, Math.ceil(sizeBytes / 4));
  const buffer = backend.allocate(4 * words, "optimizer");
  backend.fill({ y: viewOf(buffer, [words], "f32"), value: 0 });
  return buffer;
}

/** Elements of a piece: 16 MiB of f32. Reading and writing at full speed takes a few megabytes at a time. */
export const pieceElements = 4 * 2 ** 20;

export interface PagingOptions {
  /** Where the file is made: the run's folder. */
  readonly folder: string;
  /** State that stays in memory; when absent, half of what is available now. */
  readonly budgetBytes?: number;
}

/** State beyond the budget in a file. UserError when the disk has no room. */
export function pagedState(backend: Backend, paging: Paging, options: PagingOptions): StateMemory {
  return new PagedState(backend, paging, options);
}

class PagedState implements StateMemory {
  pagedBytes = 0;
  readonly place: string;
  private budget: number;

  constructor(
    private readonly backend: Backend,
    private readonly paging: Paging,
    private readonly options: PagingOptions,
  ) {
    this.place = options.folder;
    this.budget = options.budgetBytes ?? paging.availableBytes() / 2;
  }

  allocate(sizeBytes: number): DeviceBuffer {
    const kept = Math.min(sizeBytes, this.budget);
    this.budget -= kept;
    if (kept === sizeBytes) return allocateZeros(this.backend, sizeBytes);
    this.pagedBytes += sizeBytes - kept;
    return this.paging.allocate(sizeBytes, "optimizer", this.options.folder, kept);
  }

  read(buffer: DeviceBuffer, offset?: number, sizeBytes?: number): Promise<Uint8Array> {
    return this.backend.read(buffer, offset, sizeBytes);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset?: number): void {
    this.backend.write(buffer, data, offset);
  }

  free(buffer: DeviceBuffer): void {
    this.backend.free(buffer);
  }

  async forEachPiece(
    tensors: readonly Tensor[],
    update: (begin: number, end: number, pieces: readonly Tensor[]) => void,
  ): Promise<void> {
    const { paging } = this;
    const count = tensors[0]!.shape[0]!;
    const step = pieceElements;
    const piece = (begin: number) => tensors.map((t) => rows(t, begin, Math.min(begin + step, count)));
    for (const tensor of count > 0 ? piece(0) : []) paging.prefetch(tensor);
    for (let begin = 0; begin < count; begin += step) {
      if (begin + step < count) for (const tensor of piece(begin + step)) paging.prefetch(tensor);
      update(begin, Math.min(begin + step, count), piece(begin));
      for (const tensor of piece(begin)) paging.writeBack(tensor);
      // One piece later its pages have mostly been written: nobody waits long.
      if (begin > 0) for (const tensor of piece(begin - step)) paging.evict(tensor);
      if (begin + step >= count) for (const tensor of piece(begin)) paging.evict(tensor);
    }
  }
}

/** Bytes [offset, offset + length) of state set to one value, in pieces that fit in memory. */
export function fillBytes(store: ByteStore, tensor: Tensor, value: number): void {
  const count = tensor.shape[0]! * dtypeBytes[tensor.dtype];
  const bytes = new Uint8Array(Math.min(count, pieceElements)).fill(value);
  for (let begin = 0; begin < count; begin += bytes.length) {
    store.write(
      tensor.buffer,
      bytes.subarray(0, Math.min(bytes.length, count - begin)),
      tensor.byteOffset + begin,
    );
  }
}
