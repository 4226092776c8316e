// Calls of a pass that are made again later, over the same memory: decoding makes the same ones for every token, and
// writing them anew costs as much as a fifth of running them. While a recording is made, the queue's calls are copied here
// as they run, and memory that is freed goes to the recording, so that what its calls use stays theirs. Not here: when a pass
// may be repeated (generate/repeated-passes.ts).

import type { RecordedCalls } from "../backend.ts";

/** What the device knows of the recordings' world. */
interface Device {
  /** The entry of a living block of memory, which is another when its address lives a second time. */
  entryOf(address: number): object | undefined;
  /** Blocks freed so far. */
  freedBlocks(): number;
  /** Runs calls that were copied before. */
  repeat(calls: readonly Float64Array[]): void;
  /** Counts memory that a recording keeps. */
  keep(sizeBytes: number): void;
  giveBack(address: number, sizeBytes: number, counted: boolean): void;
}

export class Recording implements RecordedCalls {
  private readonly calls: Float64Array[] = [];
  /** What its calls use and others own, by address. */
  private readonly uses = new Map<number, object>();
  /** Memory allocated for its calls, and of that what is freed, by size. */
  private readonly own = new Set<number>();
  private readonly freed = new Map<number, number[]>();
  private checkedAt = -1;
  private kept = false;
  /** Whether its calls can be made again, as far as is known. */
  repeatable = true;

  constructor(private readonly device: Device) {}

  /** The calls that ran just now. */
  add(calls: Float64Array): void {
    this.calls.push(calls.slice());
  }

  /** A call uses a block of memory. */
  use(address: number, entry: object): void {
    this.uses.set(address, entry);
  }

  /** Something happened that repeated calls would not do. */
  spoil(): void {
    this.repeatable = false;
  }

  /** Freed memory of this size, which earlier calls are done with when later ones begin. */
  take(sizeBytes: number): number | undefined {
    return this.freed.get(sizeBytes)?.pop();
  }

  took(address: number): void {
    this.own.add(address);
  }

  /** Takes a freed block in; false for one that was there before. */
  receive(address: number, sizeBytes: number): boolean {
    if (!this.own.has(address)) this.spoil();
    if (!this.repeatable) return false;
    this.uses.delete(address);
    const sameSize = this.freed.get(sizeBytes);
    if (sameSize) sameSize.push(address);
    else this.freed.set(sizeBytes, [address]);
    return true;
  }

  /** Ends the making of it. */
  finish(): void {
    if (!this.repeatable) {
      this.free();
      return;
    }
    this.kept = true;
    for (const [sizeBytes, addresses] of this.freed)
      for (let i = 0; i < addresses.length; i++) this.device.keep(sizeBytes);
  }

  replay(): boolean {
    const { device } = this;
    const freed = device.freedBlocks();
    if (this.checkedAt !== freed) {
      for (const [address, entry] of this.uses) if (device.entryOf(address) !== entry) this.spoil();
      this.checkedAt = freed;
    }
    if (this.repeatable) device.repeat(this.calls);
    return this.repeatable;
  }

  free(): void {
    this.spoil();
    for (const [sizeBytes, addresses] of this.freed)
      for (const address of addresses) this.device.giveBack(address, sizeBytes, this.kept);
    this.freed.clear();
    this.calls.length = 0;
    this.uses.clear();
  }
}
