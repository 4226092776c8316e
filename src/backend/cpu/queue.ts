// Kernel calls of the CPU backend that wait to run one after the other, and the memory freed while they wait. JavaScript
// between two kernels finds its caches full of weights and takes five times as long as among its own: many calls are
// prepared together, then run together. Not here: what a call's arguments are (write-call.ts, linear-call.ts).

import { UserError } from "../../util/errors.ts";
import type { NativeAddon } from "./addon.node.ts";
import type { CallBuffer } from "./call-buffer.ts";
import type { Recording } from "./recording.ts";

/** So many calls wait at most. */
const mostCalls = 256;
/** Freed memory that waits, and would serve others meanwhile: at most this share of what is in use, within bounds. */
const mostFreedShare = 1 / 16;
const [leastFreedBytes, mostFreedBytes] = [2 ** 20, 32 * 2 ** 20];

export class CpuQueue {
  private calls = 0;
  /** Addresses of freed blocks by size. Waiting calls may still use them, so only later calls of this queue can have them. */
  private readonly freed = new Map<number, number[]>();
  private freedBytes = 0;
  /** Of what runs now, where that is to be repeated. */
  recording: Recording | undefined;

  constructor(
    private readonly addon: NativeAddon,
    private readonly prepared: CallBuffer,
    private readonly bytesInUse: () => number,
  ) {}

  /** Counts the call that was just finished, and runs all that wait when there are many. */
  add(): void {
    if (++this.calls >= mostCalls || !this.prepared.hasRoom) this.run();
  }

  /** Runs what waits. UserError when a kernel finds no memory: the calls after it are dropped. */
  run(): void {
    if (this.calls > 0) {
      this.calls = 0;
      const length = this.prepared.take();
      this.recording?.add(this.prepared.values.subarray(0, length));
      try {
        this.call(length);
      } finally {
        this.giveBack();
      }
    } else this.giveBack();
  }

  /** Runs calls that ran before, after those that wait. */
  repeat(calls: readonly Float64Array[]): void {
    this.run();
    for (const some of calls) this.call(this.prepared.repeat(some));
  }

  private call(length: number): void {
    try {
      this.addon.call(length);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ERR_OUT_OF_MEMORY") throw error;
      throw new UserError(`${(error as Error).message}; use smaller batches`);
    }
  }

  /** Forgets what waits. */
  drop(): void {
    this.calls = 0;
    this.prepared.take();
    this.giveBack();
  }

  /** Address of memory for calls to come; 0 when there is none left. */
  allocate(sizeBytes: number): number {
    const { recording } = this;
    if (recording) {
      const address = recording.take(sizeBytes) ?? this.addon.allocate(sizeBytes);
      if (address !== 0) {
        recording.took(address);
        return address;
      }
      this.run();
      recording.free();
      return this.addon.allocate(sizeBytes);
    }
    const kept = this.freed.get(sizeBytes)?.pop();
    if (kept !== undefined) {
      this.freedBytes -= sizeBytes;
      return kept;
    }
    const fresh = this.addon.allocate(sizeBytes);
    if (fresh !== 0 || this.freedBytes === 0) return fresh;
    this.run();
    return this.addon.allocate(sizeBytes);
  }

  free(address: number, sizeBytes: number): void {
    if (this.recording?.receive(address, sizeBytes)) return;
    if (this.calls === 0) {
      this.addon.free(address, sizeBytes);
      return;
    }
    const sameSize = this.freed.get(sizeBytes);
    if (sameSize) sameSize.push(address);
    else this.freed.set(sizeBytes, [address]);
    this.freedBytes += sizeBytes;
    const allowed = Math.max(leastFreedBytes, Math.min(mostFreedBytes, mostFreedShare * this.bytesInUse()));
    if (this.freedBytes > allowed) this.run();
  }

  private giveBack(): void {
    if (this.freedBytes === 0) return;
    for (const [sizeBytes, addresses] of this.freed) {
      for (const address of addresses) this.addon.free(address, sizeBytes);
      addresses.length = 0;
    }
    this.freedBytes = 0;
  }
}
