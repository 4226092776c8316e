// Memory of the WebGPU backend: handles over GPU buffers, and a pool of freed ones. Commands run in order, so a freed
// buffer may be handed out again at once. The ledger counts the bytes asked for; what rounding and the pool hold beyond it
// is bounded here.

import { BugError, UserError } from "../../util/errors.ts";
import type { DeviceBuffer } from "../backend.ts";
import { Ledger, type MemoryCategory } from "../ledger.ts";
import type { Failure } from "./device.ts";

/** A GPU buffer; it outlives the handles that use it in turn. */
export interface Block {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly capacity: number;
  /** The command batch that last used it; see commands.ts. */
  batch: number;
  /** Numbers of its ranges; bind-groups.ts's. */
  ranges?: BlockRanges;
}

/** Ranges of a block that were bound, by number. */
export interface BlockRanges {
  /** The one that was asked for last. */
  start: number;
  bound: number;
  id: number;
  /** All of them, by start and length. */
  readonly all: Map<number, Map<number, number>>;
}

/** What allocate() hands out. */
export class GpuMemory implements DeviceBuffer {
  freed = false;
  constructor(
    readonly id: number,
    readonly sizeBytes: number,
    /** Undefined: a kernel's own. */
    readonly category: MemoryCategory | undefined,
    readonly block: Block,
  ) {}
}

// GPUBufferUsage: COPY_SRC | COPY_DST | UNIFORM | STORAGE; the names are no globals under Node.
const usage = 4 | 8 | 64 | 128;
/** Memory that pooled blocks may take beyond the most that was ever in use: a share of it, and so many bytes. */
const spareShare = 1 / 8;
const spareBytes = 64 * 2 ** 20;

export class Memory {
  readonly ledger = new Ledger();
  /**
   * Freed blocks by capacity, the last one the first to be used: that with the lowest number, whatever order they were
   * freed in. So a step that allocates as the step before did gets the same blocks, and bind groups are found again.
   */
  private readonly pool = new Map<number, Block[]>();
  /** All of them, the one freed longest ago first to be destroyed. */
  private readonly pooled = new Set<Block>();
  private pooledBytes = 0;
  private usedBytes = 0;
  private mostUsedBytes = 0;
  private nextId = 1;
  private nextBlock = 1;
  /** Called before blocks are destroyed: recorded commands that use them must be submitted. */
  onPressure: () => void = () => {};
  /** Called with a block before it is destroyed. */
  onDestroy: (block: Block) => void = () => {};
  /** Whether a block that was freed is still read: then it goes back to the pool with release(). */
  keeps: (block: Block) => boolean = () => false;

  constructor(
    private readonly device: GPUDevice,
    private readonly failure: Failure,
  ) {}

  allocate(sizeBytes: number, category: MemoryCategory): GpuMemory {
    const memory = this.take(sizeBytes, category);
    this.ledger.add(category, sizeBytes);
    return memory;
  }

  /** Memory for a kernel's own use, which no ledger counts; free() it once the kernel is recorded. */
  scratch(sizeBytes: number): GpuMemory {
    return this.take(sizeBytes, undefined);
  }

  private take(sizeBytes: number, category: MemoryCategory | undefined): GpuMemory {
    this.failure.check();
    const capacity = sizeClass(sizeBytes);
    const free = this.pool.get(capacity);
    let block = free?.pop();
    if (block) {
      this.pooled.delete(block);
      this.pooledBytes -= capacity;
    }
    this.usedBytes += capacity;
    this.mostUsedBytes = Math.max(this.mostUsedBytes, this.usedBytes);
    block ??= this.create(capacity, sizeBytes, category ?? "a kernel");
    return new GpuMemory(this.nextId++, sizeBytes, category, block);
  }

  private create(capacity: number, sizeBytes: number, purpose: string): Block {
    const limit = this.device.limits.maxBufferSize;
    if (capacity > limit) {
      this.usedBytes -= capacity;
      throw new UserError(
        `this GPU allows buffers of ${limit} bytes through WebGPU, and one of ${sizeBytes} for ${purpose} was asked for; ${smaller(purpose)}`,
      );
    }
    this.trim();
    const gpu = this.device.createBuffer({ size: capacity, usage });
    // Dawn tells of what went wrong within the call; without its checks nothing may be done with such a buffer.
    this.failure.check();
    return { id: this.nextBlock++, gpu, capacity, batch: 0 };
  }

  free(buffer: DeviceBuffer): void {
    const memory = this.of(buffer);
    memory.freed = true;
    if (memory.category) this.ledger.remove(memory.category, memory.sizeBytes);
    if (!this.keeps(memory.block)) this.release(memory.block);
  }

  /** Gives a block back to the pool. */
  release(block: Block): void {
    const free = this.pool.get(block.capacity);
    if (free) insert(free, block);
    else this.pool.set(block.capacity, [block]);
    this.pooled.add(block);
    this.pooledBytes += block.capacity;
    this.usedBytes -= block.capacity;
  }

  /** The handle behind a buffer; a BugError when it is not this backend's or was freed. */
  of(buffer: DeviceBuffer): GpuMemory {
    if (!(buffer instanceof GpuMemory)) throw new BugError("a buffer of another backend");
    if (buffer.freed) throw new BugError(`use of freed buffer ${buffer.id}`);
    return buffer;
  }

  /** Bytes of all blocks, in use or pooled. */
  get heldBytes(): number {
    return this.usedBytes + this.pooledBytes;
  }

  /** Destroys the pooled blocks that were freed longest ago while too much is held. */
  private trim(): void {
    const allowed = this.mostUsedBytes * (1 + spareShare) + spareBytes;
    if (this.heldBytes <= allowed) return;
    this.onPressure();
    for (const block of this.pooled) {
      if (this.heldBytes <= allowed) return;
      this.pooled.delete(block);
      this.pooledBytes -= block.capacity;
      const free = this.pool.get(block.capacity)!;
      free.splice(free.indexOf(block), 1);
      this.onDestroy(block);
      block.gpu.destroy();
    }
  }
}

/** Into a list that descends by number. */
function insert(blocks: Block[], block: Block): void {
  let [low, high] = [0, blocks.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (blocks[middle]!.id > block.id) low = middle + 1;
    else high = middle;
  }
  blocks.splice(low, 0, block);
}

/** What makes a buffer smaller. */
function smaller(purpose: string): string {
  return /^(weights|gradients|optimizer)$/.test(purpose)
    ? "train fewer weights with --method lora or qlora, or use --backend cpu"
    : "use a smaller --batch-size or --sequence-length, or --backend cpu";
}

/** Sizes are rounded up, by an eighth at most, so that batches of varying length reuse each other's buffers. */
function sizeClass(sizeBytes: number): number {
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(1, sizeBytes))) - 3));
  return Math.max(256, Math.ceil(sizeBytes / step) * step);
}
