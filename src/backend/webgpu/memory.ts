// Memory of the WebGPU backend: handles over GPU buffers, and a pool of freed ones. Commands run in order, so a freed
// buffer may be handed out again at once. The ledger counts the bytes asked for; pooled and rounded-up bytes are extra.

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
/** A pool no larger than this is never trimmed. */
const smallPoolBytes = 256 * 2 ** 20;

export class Memory {
  readonly ledger = new Ledger();
  private readonly pool = new Map<number, Block[]>();
  private pooledBytes = 0;
  private nextId = 1;
  private nextBlock = 1;
  /** Called with a block before it is destroyed. */
  onDestroy: (block: Block) => void = () => {};

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
    if (block) this.pooledBytes -= capacity;
    else {
      const limit = this.device.limits.maxBufferSize;
      if (capacity > limit) {
        throw new UserError(
          `this GPU allows buffers of ${limit} bytes through WebGPU; ${category ?? "a kernel"} needs one of ${sizeBytes}`,
        );
      }
      block = {
        id: this.nextBlock++,
        gpu: this.device.createBuffer({ size: capacity, usage }),
        capacity,
        batch: 0,
      };
    }
    return new GpuMemory(this.nextId++, sizeBytes, category, block);
  }

  free(buffer: DeviceBuffer): void {
    const memory = this.of(buffer);
    memory.freed = true;
    if (memory.category) this.ledger.remove(memory.category, memory.sizeBytes);
    const { block } = memory;
    const free = this.pool.get(block.capacity);
    if (free) free.push(block);
    else this.pool.set(block.capacity, [block]);
    this.pooledBytes += block.capacity;
  }

  /** The handle behind a buffer; a BugError when it is not this backend's or was freed. */
  of(buffer: DeviceBuffer): GpuMemory {
    if (!(buffer instanceof GpuMemory)) throw new BugError("a buffer of another backend");
    if (buffer.freed) throw new BugError(`use of freed buffer ${buffer.id}`);
    return buffer;
  }

  /** Destroys pooled blocks when they outgrow half of the peak. Only when no recorded command uses them. */
  trim(): void {
    if (this.pooledBytes <= Math.max(smallPoolBytes, this.ledger.peakBytes / 2)) return;
    for (const blocks of this.pool.values()) for (const block of blocks) this.destroy(block);
    this.pool.clear();
    this.pooledBytes = 0;
  }

  private destroy(block: Block): void {
    this.onDestroy(block);
    block.gpu.destroy();
  }
}

/** Sizes are rounded up, by an eighth at most, so that batches of varying length reuse each other's buffers. */
function sizeClass(sizeBytes: number): number {
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(1, sizeBytes))) - 3));
  return Math.max(256, Math.ceil(sizeBytes / step) * step);
}
