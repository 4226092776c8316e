// The cache of bind groups. A step binds the same ranges of the same blocks as the step before (memory.ts hands blocks out
// in an order that repeats), so nearly every launch finds its group here. Keys are whole numbers: each range of a block has
// one, and a group is found by its layout's and its ranges'.

import type { Block } from "./memory.ts";
import { paramsBytes } from "./pipelines.ts";

/** Groups that are kept; when there are more, the half that was used longest ago goes. */
const mostGroups = 8192;

interface Entry {
  readonly hash: number;
  /** The layout's number, then those of the ranges. */
  readonly key: Int32Array;
  readonly group: GPUBindGroup;
  readonly blocks: readonly Block[];
  lastUse: number;
  /** Another one of this hash. */
  next: Entry | undefined;
  /** What was asked for after it the last time: as a rule what is asked for this time. */
  follower: Entry | undefined;
}

export class BindGroups {
  private readonly byHash = new Map<number, Entry>();
  private size = 0;
  private uses = 0;
  private previous: Entry | undefined;
  private lastRange = 0;
  private readonly ofBlock = new Map<Block, Set<Entry>>();
  private readonly layouts = new Map<GPUBindGroupLayout, number>();

  constructor(
    private readonly device: GPUDevice,
    private readonly uniforms: GPUBuffer,
  ) {}

  /** The number of bytes [start, start + bound) of a block. */
  rangeOf(block: Block, start: number, bound: number): number {
    const { ranges } = block;
    if (ranges !== undefined && ranges.start === start && ranges.bound === bound) return ranges.id;
    const { all } = (block.ranges ??= { start, bound, id: 0, all: new Map() });
    let lengths = all.get(start);
    if (!lengths) all.set(start, (lengths = new Map()));
    let id = lengths.get(bound);
    if (id === undefined) lengths.set(bound, (id = ++this.lastRange));
    block.ranges.start = start;
    block.ranges.bound = bound;
    block.ranges.id = id;
    return id;
  }

  /** A group of the launches' parameters and the first `count` ranges; ids are rangeOf()'s. */
  find(
    layout: GPUBindGroupLayout,
    ids: Int32Array,
    count: number,
    blocks: readonly Block[],
    starts: Float64Array,
    bounds: Float64Array,
  ): GPUBindGroup {
    let layoutId = this.layouts.get(layout);
    if (layoutId === undefined) this.layouts.set(layout, (layoutId = this.layouts.size));
    const guess = this.previous?.follower;
    if (guess !== undefined && isOf(guess, layoutId, ids, count)) return this.use(guess);
    let hash = layoutId;
    for (let i = 0; i < count; i++) hash = (Math.imul(hash, 0x2c9277b5) + ids[i]!) | 0;
    for (let entry = this.byHash.get(hash); entry; entry = entry.next) {
      if (isOf(entry, layoutId, ids, count)) return this.use(entry);
    }
    if (this.size >= mostGroups) this.dropOldest();
    const key = Int32Array.of(layoutId, ...ids.subarray(0, count));
    const entry: Entry = {
      ...{ hash, key, blocks: [...new Set(blocks.slice(0, count))], lastUse: 0 },
      ...{ next: this.byHash.get(hash), follower: undefined },
      group: this.device.createBindGroup({
        layout,
        entries: [
          { binding: 0, resource: { buffer: this.uniforms, size: paramsBytes } },
          ...blocks.slice(0, count).map(({ gpu }, i) => ({
            binding: i + 1,
            resource: { buffer: gpu, offset: starts[i]!, size: bounds[i]! },
          })),
        ],
      }),
    };
    this.byHash.set(hash, entry);
    this.size++;
    for (const block of entry.blocks) {
      const entries = this.ofBlock.get(block);
      if (entries) entries.add(entry);
      else this.ofBlock.set(block, new Set([entry]));
    }
    return this.use(entry);
  }

  private use(entry: Entry): GPUBindGroup {
    if (this.previous) this.previous.follower = entry;
    this.previous = entry;
    entry.lastUse = ++this.uses;
    return entry.group;
  }

  /** Forgets the groups of a block that is about to be destroyed. */
  forget(block: Block): void {
    for (const entry of [...(this.ofBlock.get(block) ?? [])]) this.drop(entry);
  }

  private drop(entry: Entry): void {
    // A dropped group may still stand as somebody's follower; its key must not be found there.
    entry.key.fill(-1);
    for (const block of entry.blocks) {
      const entries = this.ofBlock.get(block)!;
      entries.delete(entry);
      if (entries.size === 0) this.ofBlock.delete(block);
    }
    this.size--;
    const first = this.byHash.get(entry.hash)!;
    if (first === entry) {
      if (entry.next) this.byHash.set(entry.hash, entry.next);
      else this.byHash.delete(entry.hash);
      return;
    }
    let before = first;
    while (before.next !== entry) before = before.next!;
    before.next = entry.next;
  }

  private dropOldest(): void {
    const entries = new Set([...this.ofBlock.values()].flatMap((list) => [...list]));
    const byUse = [...entries].sort((a, b) => a.lastUse - b.lastUse);
    for (const entry of byUse.slice(0, byUse.length / 2)) this.drop(entry);
  }
}

function isOf({ key }: Entry, layoutId: number, ids: Int32Array, count: number): boolean {
  if (key.length !== count + 1 || key[0] !== layoutId) return false;
  for (let i = 0; i < count; i++) if (key[i + 1] !== ids[i]) return false;
  return true;
}
