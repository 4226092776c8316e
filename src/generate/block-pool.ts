// Which blocks of a cache are free. Numbers alone: the memory is cache-memory.ts's, who holds which is kv-cache.ts's
// and prefix-tree.ts's affair.

export class BlockPool {
  private readonly freed: number[] = [];
  /** Blocks that were ever taken: there must be memory for as many. */
  size = 0;

  constructor(
    /** Blocks that there may be. */
    public most: number,
  ) {}

  get free(): number {
    return this.freed.length + this.most - this.size;
  }

  /** A free block, one that was taken before if there is any; there must be one. */
  take(): number {
    return this.freed.pop() ?? this.size++;
  }

  give(blocks: readonly number[]): void {
    for (let i = blocks.length - 1; i >= 0; i--) this.freed.push(blocks[i]!);
  }

  /** There is no memory for more than `count` blocks, of which those above are free. */
  limit(count: number): void {
    this.most = count;
    this.size = Math.min(this.size, count);
    const kept = this.freed.filter((block) => block < count);
    this.freed.splice(0, this.freed.length, ...kept);
  }
}
