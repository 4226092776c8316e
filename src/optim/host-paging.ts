// Optimizer state in the host's memory, for devices that have one of their own (a GPU): beyond a budget that stays on
// the device, an update brings the state over piece by piece, and takes it back as it was written. Every move is
// explicit, so any backend can do it; none of them changes a bit. Devices whose memory is the host's page to a file
// instead (paging.ts).

import type { Backend, DeviceBuffer } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { rows, type Tensor, tensorBytes } from "../tensor/tensor.ts";
import { BugError, invariant, UserError } from "../util/errors.ts";
import { allocateZeros, pieceElements, type StateMemory } from "./paging.ts";

export interface HostPagingOptions {
  /** State that stays on the device. */
  readonly budgetBytes: number;
  /** Memory that the host has left; asked of the system when absent. */
  readonly availableBytes?: number;
  /** Elements that move at a time, a multiple of 16,384; for tests. */
  readonly pieceElements?: number;
}

/** One array could not hold the state of a large model. */
const chunkBytes = 64 * 2 ** 20;
/** What stays on the device ends where a piece may: 16,384 elements of four bytes. */
const keptMultiple = 4 * 16_384;

/** A buffer whose first bytes are on the device, the others here. */
class HostBuffer implements DeviceBuffer {
  readonly chunks: Uint8Array[] = [];
  constructor(
    readonly id: number,
    readonly sizeBytes: number,
    readonly keptBytes: number,
    readonly kept: DeviceBuffer | undefined,
  ) {
    for (let begin = keptBytes; begin < sizeBytes; begin += chunkBytes)
      this.chunks.push(new Uint8Array(Math.min(chunkBytes, sizeBytes - begin)));
  }

  /** The arrays behind bytes [offset, offset + length), all of them beyond what is kept, in order. */
  *parts(offset: number, length: number): Generator<Uint8Array> {
    for (let at = offset - this.keptBytes, left = length; left > 0; ) {
      const from = at % chunkBytes;
      const part = this.chunks[Math.floor(at / chunkBytes)]!.subarray(from, from + left);
      yield part;
      at += part.length;
      left -= part.length;
    }
  }
}

/** State beyond the budget in the host's memory. UserError when the host has not so much. */
export function hostState(backend: Backend, options: HostPagingOptions): StateMemory {
  return new HostState(backend, options);
}

class HostState implements StateMemory {
  readonly place = "this machine's memory";
  pagedBytes = 0;
  private budget: number;
  private readonly availableBytes: number;
  private readonly step: number;
  private lastId = 0;

  constructor(
    private readonly backend: Backend,
    options: HostPagingOptions,
  ) {
    this.budget = options.budgetBytes;
    this.availableBytes = options.availableBytes ?? hostMemoryLeft();
    this.step = options.pieceElements ?? pieceElements;
  }

  allocate(sizeBytes: number): DeviceBuffer {
    const fits = sizeBytes <= this.budget;
    const keptBytes = fits ? sizeBytes : Math.floor(this.budget / keptMultiple) * keptMultiple;
    this.budget -= keptBytes;
    if (fits) return allocateZeros(this.backend, sizeBytes);
    const held = this.pagedBytes + sizeBytes - keptBytes;
    // A system that promises more than it has would end the process later, so what it says it has is minded.
    if (held > this.availableBytes) throw tooLittle(held, this.availableBytes);
    const kept = keptBytes > 0 ? allocateZeros(this.backend, keptBytes) : undefined;
    try {
      const buffer = new HostBuffer(--this.lastId, sizeBytes, keptBytes, kept);
      this.pagedBytes = held;
      return buffer;
    } catch (error) {
      if (kept) this.backend.free(kept);
      if (error instanceof RangeError) throw tooLittle(held, this.availableBytes);
      throw error;
    }
  }

  free(buffer: DeviceBuffer): void {
    if (!(buffer instanceof HostBuffer)) {
      this.backend.free(buffer);
      return;
    }
    if (buffer.kept) this.backend.free(buffer.kept);
    this.pagedBytes -= buffer.sizeBytes - buffer.keptBytes;
    buffer.chunks.length = 0;
  }

  async read(buffer: DeviceBuffer, offset = 0, sizeBytes = buffer.sizeBytes - offset): Promise<Uint8Array> {
    if (!(buffer instanceof HostBuffer)) return this.backend.read(buffer, offset, sizeBytes);
    const bytes = new Uint8Array(sizeBytes);
    const onDevice = Math.max(0, Math.min(sizeBytes, buffer.keptBytes - offset));
    if (onDevice > 0) bytes.set(await this.backend.read(buffer.kept!, offset, onDevice));
    let at = onDevice;
    for (const part of buffer.parts(offset + onDevice, sizeBytes - onDevice)) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    if (!(buffer instanceof HostBuffer)) {
      this.backend.write(buffer, data, offset);
      return;
    }
    const onDevice = Math.max(0, Math.min(data.length, buffer.keptBytes - offset));
    if (onDevice > 0) this.backend.write(buffer.kept!, data.subarray(0, onDevice), offset);
    let at = onDevice;
    for (const part of buffer.parts(offset + onDevice, data.length - onDevice)) {
      part.set(data.subarray(at, at + part.length));
      at += part.length;
    }
  }

  /** One piece is on its way back while the next is updated: two are on the device at most. */
  async forEachPiece(
    tensors: readonly Tensor[],
    update: (begin: number, end: number, pieces: readonly Tensor[]) => void,
  ): Promise<void> {
    const count = tensors[0]!.shape[0]!;
    let returning: Promise<unknown> = Promise.resolve();
    for (let begin = 0; begin < count; ) {
      const end = this.endOf(tensors, begin, count);
      const pieces = tensors.map((tensor) => this.bring(rows(tensor, begin, end)));
      update(
        begin,
        end,
        pieces.map(({ tensor }) => tensor),
      );
      const back = Promise.all(pieces.map(({ takeBack }) => takeBack()));
      // Awaited below, after the piece before it; a failure in between must not count as unheard.
      back.catch(() => {});
      await returning;
      returning = back;
      begin = end;
    }
    await returning;
  }

  /** Where the piece from `begin` ends: after so many elements, or where what a tensor keeps on the device does. */
  private endOf(tensors: readonly Tensor[], begin: number, count: number): number {
    const ends = tensors.flatMap(({ buffer, byteOffset, dtype }) => {
      if (!(buffer instanceof HostBuffer)) return [];
      const end = (buffer.keptBytes - byteOffset) / dtypeBytes[dtype];
      return end > begin ? [end] : [];
    });
    return Math.min(begin + this.step, count, ...ends);
  }

  /** The piece on the device; takeBack puts what became of it where it came from. */
  private bring(piece: Tensor): { tensor: Tensor; takeBack(): Promise<void> } {
    const { backend } = this;
    const { buffer, byteOffset, shape, dtype } = piece;
    if (!(buffer instanceof HostBuffer)) return { tensor: piece, takeBack: async () => {} };
    const sizeBytes = tensorBytes(shape, dtype);
    if (byteOffset < buffer.keptBytes) {
      invariant(byteOffset + sizeBytes <= buffer.keptBytes, "a piece that is partly on the device");
      return { tensor: { ...piece, buffer: buffer.kept! }, takeBack: async () => {} };
    }
    if (byteOffset + sizeBytes > buffer.sizeBytes) throw new BugError("a piece beyond its buffer");
    const visiting = backend.allocate(sizeBytes, "optimizer");
    let at = 0;
    for (const part of buffer.parts(byteOffset, sizeBytes)) {
      backend.write(visiting, part, at);
      at += part.length;
    }
    return {
      tensor: { ...piece, buffer: visiting, byteOffset: 0 },
      takeBack: async () => {
        // Enqueued at once; what is allocated next may have the memory, for it comes later.
        const bytes = backend.read(visiting, 0, sizeBytes);
        backend.free(visiting);
        this.write(buffer, await bytes, byteOffset);
      },
    };
  }
}

/** What the system says that this process can still have; no limit where it says nothing (a browser). */
function hostMemoryLeft(): number {
  const process = (globalThis as { process?: { availableMemory?(): number } }).process;
  return process?.availableMemory?.() ?? Number.POSITIVE_INFINITY;
}

function tooLittle(sizeBytes: number, availableBytes: number): UserError {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  return new UserError(
    `--paged: ${gigabytes(sizeBytes)} of optimizer state do not fit in this machine's memory, which has ${gigabytes(availableBytes)} left; use --optimizer adamw8bit, or train fewer weights with --method lora or qlora`,
  );
}
