// Kernels put off until it is known who reads what they make. A norm, a gated activation and gradients make rows that a
// product reads next, packed and multiplied by adapters' factors: then one launch makes the rows, packs and multiplies them
// (project-rows.ts), and gradients that nobody reads in f32 are never written. Nobody sees a difference: whatever else touches
// the memory of a kernel that was put off has it run first, and memory that such a kernel reads is not handed out again before.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { type Block, GpuMemory, type Memory } from "./memory.ts";
import type { RowSource } from "./row-source.ts";

export interface DeferredKernel {
  /** The rows that it makes, one tensor a kind of the source's. */
  readonly makes: readonly Tensor[];
  /** What it writes besides. */
  readonly writes?: readonly Tensor[];
  readonly reads: readonly Tensor[];
  readonly source: RowSource;
  /** A launch of project-rows.wgsl leaves all that the kernel would have written. */
  readonly isWhole: boolean;
  /** Launches the kernel itself. */
  run(): void;
}

/** A kernel that was put off, and the memory it is about: true where it writes. */
interface Entry {
  readonly kernel: DeferredKernel;
  readonly blocks: Map<Block, boolean>;
  /** Written blocks whose memory still has an owner. */
  readonly wanted: Set<Block>;
  /** It is being launched. */
  active: boolean;
}

export class DeferredRows {
  private readonly byBlock = new Map<Block, Set<Entry>>();
  /** Freed blocks that kernels still read. */
  private readonly held = new Set<Block>();

  constructor(private readonly memory: Memory) {
    memory.keeps = (block) => this.keeps(block);
  }

  get isEmpty(): boolean {
    return this.byBlock.size === 0;
  }

  /** The tensors on handles that outlive their owners': what a kernel that is put off launches with. */
  handlesOf<T extends Readonly<Record<string, Tensor>>>(tensors: T): T {
    const handles: Record<string, Tensor> = {};
    for (const name in tensors) {
      const tensor = tensors[name]!;
      const { id, sizeBytes, block } = this.memory.of(tensor.buffer);
      handles[name] = { ...tensor, buffer: new GpuMemory(id, sizeBytes, undefined, block) };
    }
    return handles as T;
  }

  add(kernel: DeferredKernel): void {
    const blocks = new Map<Block, boolean>();
    const wanted = new Set<Block>();
    for (const { buffer } of kernel.reads) blocks.set(this.memory.of(buffer).block, false);
    for (const tensors of [kernel.makes, kernel.writes]) {
      for (const { buffer } of tensors ?? []) {
        const { block } = this.memory.of(buffer);
        blocks.set(block, true);
        wanted.add(block);
      }
    }
    for (const [block, written] of blocks) this.touch(block, written);
    const entry = { kernel, blocks, wanted, active: false };
    for (const block of blocks.keys()) {
      const known = this.byBlock.get(block);
      if (known) known.add(entry);
      else this.byBlock.set(block, new Set([entry]));
    }
  }

  /** Before a block is read, or written: runs what was put off and would come too late. */
  touch(block: Block, writes: boolean): void {
    for (const entry of this.byBlock.get(block) ?? []) {
      if (!entry.active && (writes || entry.blocks.get(block)))
        this.launch(entry, () => entry.kernel.run(), true);
    }
  }

  /** The kernel that was put off and makes these rows. */
  makerOf(tensor: Tensor): DeferredKernel | undefined {
    for (const { kernel } of this.byBlock.get(this.memory.of(tensor.buffer).block) ?? []) {
      if (kernel.makes.some((_, kind) => this.isKind(kernel, kind, tensor))) return kernel;
    }
    return undefined;
  }

  /** Whether these are the rows of this kind that the kernel makes. */
  isKind({ makes }: DeferredKernel, kind: number, { buffer, byteOffset, shape }: Tensor): boolean {
    const made = makes[kind]!;
    return (
      this.memory.of(made.buffer).block === this.memory.of(buffer).block &&
      made.byteOffset === byteOffset &&
      elementCount(made.shape) === elementCount(shape)
    );
  }

  /** Launches that make the kernel's rows by its source. */
  use(kernel: DeferredKernel, launches: () => void): void {
    for (const entries of this.byBlock.values()) {
      for (const entry of entries) {
        if (entry.kernel !== kernel) continue;
        this.launch(entry, launches, kernel.isWhole);
        return;
      }
    }
  }

  private launch(entry: Entry, launches: () => void, ends: boolean): void {
    entry.active = true;
    try {
      launches();
    } finally {
      entry.active = false;
      if (ends) this.remove(entry);
    }
  }

  private remove(entry: Entry): void {
    for (const block of entry.blocks.keys()) {
      const entries = this.byBlock.get(block)!;
      entries.delete(entry);
      if (entries.size > 0) continue;
      this.byBlock.delete(block);
      if (this.held.delete(block)) this.memory.release(block);
    }
  }

  /** A block lost its owner: whether it must be kept for a kernel that was put off. */
  private keeps(block: Block): boolean {
    for (const entry of [...(this.byBlock.get(block) ?? [])]) {
      // Nobody will read what it would have written.
      if (entry.wanted.delete(block) && entry.wanted.size === 0) this.remove(entry);
    }
    if (!this.byBlock.has(block)) return false;
    this.held.add(block);
    return true;
  }
}
