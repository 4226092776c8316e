// Memory of a card: buffers are stretches of two ranges of addresses that grow as they are needed, one for small blocks and one for
// large, so that small ones do not cut the large range up. Launches run in order, so a freed stretch may be used again at
// once. The ledger counts what was asked for; what rounding and gaps hold beyond it is in heldBytes. Not here: how
// stretches are chosen (arena.ts).

import { BugError, UserError } from "../../util/errors.ts";
import type { DeviceBuffer } from "../backend.ts";
import { Ledger, type MemoryCategory } from "../ledger.ts";
import { Arena, type Block } from "./arena.ts";

/** Blocks of at most so many bytes count as small; the ranges grow by so much at a time. */
const mostSmallBytes = 2 ** 20;
const [smallGrowBytes, largeGrowBytes] = [2 * 2 ** 20, 32 * 2 ** 20];
/** Bytes behind every block in which the emulator watches for writes. */
const fenceBytes = 256;

/** Where memory comes from: a card, or a count of what one would be asked for. */
export interface MemorySource {
  /** Memory that can only be added in multiples of this, at a power of two. */
  readonly granularity: number;
  readonly totalBytes: number;
  /** Address of a range without memory behind it. */
  reserve(sizeBytes: number): number;
  grow(address: number, sizeBytes: number): boolean;
  /** The emulator is told of every block that comes and goes, in the order of the launches. */
  mark?(address: number, sizeBytes: number, capacity: number, live: boolean): void;
}

interface Range {
  readonly address: number;
  readonly arena: Arena;
}

interface Entry {
  readonly sizeBytes: number;
  /** Absent: a kernel's own. */
  readonly category: MemoryCategory | undefined;
  readonly range: Range;
  readonly block: Block;
}

export class CudaMemory {
  readonly ledger = new Ledger();
  private readonly live = new Map<number, Entry>();
  private readonly small: Range;
  private readonly large: Range;

  constructor(private readonly source: MemorySource) {
    const range = (growBytes: number): Range => {
      const address = source.reserve(source.totalBytes);
      const step = Math.max(growBytes, source.granularity);
      return { address, arena: new Arena(step, (sizeBytes) => source.grow(address, sizeBytes)) };
    };
    this.small = range(smallGrowBytes);
    this.large = range(largeGrowBytes);
  }

  /** Bytes that the card has given: what is in use, what was and is kept for later, and what lies between. */
  get heldBytes(): number {
    return this.small.arena.heldBytes + this.large.arena.heldBytes;
  }

  isLive(address: number): boolean {
    return this.live.has(address);
  }

  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer {
    const buffer = this.take(sizeBytes, category);
    this.ledger.add(category, sizeBytes);
    return buffer;
  }

  /** Memory for a kernel's own use, which no ledger counts; free() it once the kernel was launched. */
  scratch(sizeBytes: number): DeviceBuffer {
    return this.take(sizeBytes, undefined);
  }

  private take(sizeBytes: number, category: MemoryCategory | undefined): DeviceBuffer {
    const range = sizeBytes <= mostSmallBytes ? this.small : this.large;
    const { mark } = this.source;
    const block = range.arena.allocate(mark ? sizeBytes + fenceBytes : sizeBytes);
    if (!block) throw new UserError(this.outOfMemory(sizeBytes, category));
    const id = range.address + block.offset;
    this.live.set(id, { sizeBytes, category, range, block });
    mark?.call(this.source, id, sizeBytes, block.sizeBytes, true);
    return { id, sizeBytes };
  }

  free(buffer: DeviceBuffer): void {
    const entry = this.live.get(buffer.id);
    if (!entry) throw new BugError("cuda backend: a buffer was freed twice");
    this.live.delete(buffer.id);
    if (entry.category) this.ledger.remove(entry.category, entry.sizeBytes);
    this.source.mark?.(buffer.id, entry.sizeBytes, entry.block.sizeBytes, false);
    entry.range.arena.release(entry.block);
  }

  /** Address of bytes in a buffer. BugError when they are not in it, or it was freed. */
  within(buffer: DeviceBuffer, offset: number, sizeBytes: number): number {
    if (!this.isLive(buffer.id)) throw new BugError("cuda backend: the buffer was freed");
    if (offset < 0 || sizeBytes < 0 || offset + sizeBytes > buffer.sizeBytes)
      throw new BugError(
        `cuda backend: bytes ${offset}..${offset + sizeBytes} of a buffer of ${buffer.sizeBytes}`,
      );
    return buffer.id + offset;
  }

  private outOfMemory(sizeBytes: number, category: MemoryCategory | undefined): string {
    const advice =
      category === "optimizer"
        ? "keep the optimizer's state in the machine's memory with --paged, shrink it with --optimizer adamw8bit, or train fewer weights with --method lora or qlora"
        : "use shorter sequences, smaller batches, --gradient-checkpointing on, or 4-bit weights with --method qlora";
    return `this card is out of memory: ${gigabytes(sizeBytes)} for ${category ?? "a kernel"} were asked for, beside ${gigabytes(this.ledger.liveBytes)} in use, and it has ${gigabytes(this.source.totalBytes)} in all, other programs' included; ${advice}`;
  }
}

/** 1.53e9 -> "1.53 GB". */
function gigabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
