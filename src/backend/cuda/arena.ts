// A range of addresses that grows, cut into blocks: best fit, the lowest address among equals, neighbours joined when they are
// freed. So what lies where depends on the live blocks alone, and a step that comes again gets the addresses that it had before,
// which is what lets a recorded step be replayed as it is. Pure bookkeeping: a device puts memory behind it (memory.ts), and
// a plan runs the same code over none. Not here: who owns a block.

import { BugError } from "../../util/errors.ts";

/** Blocks begin and end at multiples of this. */
export const blockMultiple = 512;

/** A stretch of the range; in order of addresses each knows its neighbours. */
export interface Block {
  offset: number;
  sizeBytes: number;
  isFree: boolean;
  before: Block | undefined;
  after: Block | undefined;
}

export class Arena {
  /** Free blocks by size, then by offset. */
  private readonly free: Block[] = [];
  private last: Block | undefined;
  /** Bytes with memory behind them: the most that was needed so far. */
  heldBytes = 0;

  constructor(
    /** Memory is added in multiples of this. */
    private readonly growBytes: number,
    /** Puts memory behind the next bytes of the range; false: there is none left. */
    private readonly grow: (sizeBytes: number) => boolean,
  ) {}

  /** A block of at least `sizeBytes`; undefined when there is no memory for it. */
  allocate(sizeBytes: number): Block | undefined {
    const wanted = Math.max(blockMultiple, Math.ceil(sizeBytes / blockMultiple) * blockMultiple);
    const at = this.firstOfAtLeast(wanted);
    const found = at < this.free.length ? this.free[at]! : this.extend(wanted);
    if (!found) return undefined;
    this.removeFree(found);
    found.isFree = false;
    if (found.sizeBytes > wanted) {
      const rest: Block = {
        offset: found.offset + wanted,
        sizeBytes: found.sizeBytes - wanted,
        isFree: true,
        before: found,
        after: found.after,
      };
      if (rest.after) rest.after.before = rest;
      else this.last = rest;
      found.after = rest;
      found.sizeBytes = wanted;
      this.addFree(rest);
    }
    return found;
  }

  release(block: Block): void {
    if (block.isFree) throw new BugError("a block of memory is freed twice");
    let freed = block;
    const { before, after } = block;
    if (after?.isFree) {
      this.removeFree(after);
      freed.sizeBytes += after.sizeBytes;
      this.unlink(after);
    }
    if (before?.isFree) {
      this.removeFree(before);
      before.sizeBytes += freed.sizeBytes;
      this.unlink(freed);
      freed = before;
    }
    freed.isFree = true;
    this.addFree(freed);
  }

  /** A free block at the range's end that holds `wanted`, part of it the free end that there is. */
  private extend(wanted: number): Block | undefined {
    const tail = this.last?.isFree ? this.last : undefined;
    const missing = wanted - (tail?.sizeBytes ?? 0);
    const added = Math.ceil(missing / this.growBytes) * this.growBytes;
    if (!this.grow(added)) return undefined;
    const offset = this.heldBytes;
    this.heldBytes += added;
    if (tail) {
      this.removeFree(tail);
      tail.sizeBytes += added;
      this.addFree(tail);
      return tail;
    }
    const fresh: Block = { offset, sizeBytes: added, isFree: true, before: this.last, after: undefined };
    if (this.last) this.last.after = fresh;
    this.last = fresh;
    this.addFree(fresh);
    return fresh;
  }

  private unlink(block: Block): void {
    if (block.before) block.before.after = block.after;
    if (block.after) block.after.before = block.before;
    else this.last = block.before;
  }

  /** Where in the list the blocks of at least so many bytes (from this offset on) begin. */
  private firstOfAtLeast(sizeBytes: number, offset = 0): number {
    let [low, high] = [0, this.free.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const block = this.free[middle]!;
      if (block.sizeBytes < sizeBytes || (block.sizeBytes === sizeBytes && block.offset < offset))
        low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private addFree(block: Block): void {
    this.free.splice(this.firstOfAtLeast(block.sizeBytes, block.offset), 0, block);
  }

  private removeFree(block: Block): void {
    const at = this.firstOfAtLeast(block.sizeBytes, block.offset);
    if (this.free[at] !== block) throw new BugError("a free block of memory is not where it should be");
    this.free.splice(at, 1);
  }
}
