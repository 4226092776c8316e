// Which samples are equal, token by token with their masks or by tokens alone: hashes of 64 bits in tables of numbers, since
// there may be millions. Not here: samples that are nearly equal (near-duplicates.ts).

import type { Sample } from "./render.ts";

/** Two FNV-1a hashes over ids, and over masks where they count, as one whole number below 2^53. */
export function sampleHash({ ids, targetMask, label }: Sample, masksCount: boolean): number {
  let low = 0x811c9dc5;
  let high = 0x01000193;
  for (let i = 0; i < ids.length; i++) {
    const value = (ids[i]! << 1) | (masksCount ? targetMask[i]! : 0);
    low = Math.imul(low ^ value, 0x01000193);
    high = Math.imul(high ^ (value + i), 0x85ebca6b);
    high ^= high >>> 13;
  }
  const rating = label === undefined || !masksCount ? 0 : label ? 2 : 1;
  low = Math.imul(low ^ (4 * ids.length + rating), 0x01000193);
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0);
}

/** Numbers distinct hashes from 0 in the order they are met. */
export class DistinctHashes {
  private hashes = new Float64Array(1024);
  private slots = new Int32Array(4096).fill(-1);
  private count = 0;

  get size(): number {
    return this.count;
  }

  /** The number of a hash, which is `size` before the call where it is new. */
  add(hash: number): number {
    let slot = this.slotOf(hash);
    const found = this.slots[slot]!;
    if (found >= 0) return found;
    if (2 * this.count >= this.slots.length) {
      this.grow();
      slot = this.slotOf(hash);
    }
    this.hashes[this.count] = hash;
    this.slots[slot] = this.count;
    return this.count++;
  }

  has(hash: number): boolean {
    return this.slots[this.slotOf(hash)]! >= 0;
  }

  private slotOf(hash: number): number {
    const mask = this.slots.length - 1;
    let slot = (hash ^ Math.floor(hash / 2 ** 32)) & mask;
    for (;;) {
      const found = this.slots[slot]!;
      if (found < 0 || this.hashes[found] === hash) return slot;
      slot = (slot + 1) & mask;
    }
  }

  private grow(): void {
    const hashes = new Float64Array(2 * this.slots.length);
    hashes.set(this.hashes.subarray(0, this.count));
    this.hashes = hashes;
    this.slots = new Int32Array(4 * this.slots.length).fill(-1);
    for (let i = 0; i < this.count; i++) this.slots[this.slotOf(hashes[i]!)] = i;
  }
}
