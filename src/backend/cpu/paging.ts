// Paged memory of the CPU backend: mappings of nameless files, and the advice to the system that goes with them; and
// what the user is told when ordinary memory runs out. Not here: the system calls (native/paging.cc), who pages what
// (optim/paging.ts).

import { type DeviceBuffer, type Tensor, tensorBytes } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import type { Paging } from "../backend.ts";
import type { Ledger, MemoryCategory } from "../ledger.ts";
import type { NativeAddon } from "./addon.node.ts";

interface Mapping {
  readonly sizeBytes: number;
  readonly category: MemoryCategory;
  readonly keptBytes: number;
}

/** What the errors of making a file mean; numbers are Linux's, which other systems share for these. */
const problems: Readonly<Record<number, string>> = {
  1: "no permission to write there",
  2: "there is no such folder",
  13: "no permission to write there",
  27: "the file would be larger than the file system or the process's limit allows",
  28: "the disk has no room for it",
  30: "the file system is read-only",
  69: "the disk quota is used up",
  122: "the disk quota is used up",
};

export class CpuPaging implements Paging {
  private readonly mappings = new Map<number, Mapping>();
  private made = 0;

  constructor(
    private readonly addon: NativeAddon,
    private readonly ledger: Ledger,
    /** Runs the calls that wait and may use paged memory. */
    private readonly settle: () => void,
  ) {}

  owns(address: number): boolean {
    return this.mappings.has(address);
  }

  availableBytes(): number {
    return this.addon.available();
  }

  allocate(sizeBytes: number, category: MemoryCategory, folder: string, keptBytes: number): DeviceBuffer {
    const kept = Math.min(keptBytes, sizeBytes);
    // The file has no name from the moment it is made: nothing is left behind, however the process ends.
    const path = `${folder}/.pages-${process.pid}-${this.made++}-${Math.random().toString(36).slice(2)}`;
    const id = this.addon.mapPaged(path, sizeBytes);
    if (id < 0) {
      const problem = problems[-id] ?? `system error ${-id}`;
      throw new UserError(
        `--paged: ${gigabytes(sizeBytes)} for ${category} cannot be set aside in ${folder}: ${problem}. Free some space, or put --out on another disk`,
      );
    }
    this.mappings.set(id, { sizeBytes, category, keptBytes: kept });
    this.ledger.add(category, kept);
    return { id, sizeBytes };
  }

  /** False for a buffer that is not paged. */
  free(buffer: DeviceBuffer): boolean {
    const mapping = this.mappings.get(buffer.id);
    if (!mapping) return false;
    this.settle();
    this.mappings.delete(buffer.id);
    this.ledger.remove(mapping.category, mapping.keptBytes);
    this.addon.unmapPaged(buffer.id);
    return true;
  }

  prefetch(tensor: Tensor): void {
    const range = this.range(tensor, 0);
    if (range) this.addon.prefetchPaged(range.address, range.sizeBytes);
  }

  writeBack(tensor: Tensor): void {
    const range = this.evictable(tensor);
    if (!range) return;
    this.settle();
    this.addon.writePaged(range.address, range.sizeBytes);
  }

  evict(tensor: Tensor): void {
    const range = this.evictable(tensor);
    if (!range) return;
    this.settle();
    this.addon.evictPaged(range.address, range.sizeBytes);
  }

  private evictable(tensor: Tensor): { address: number; sizeBytes: number } | undefined {
    const mapping = this.mappings.get(tensor.buffer.id);
    return mapping && this.range(tensor, mapping.keptBytes);
  }

  /** The part of a paged tensor that lies beyond the first `from` bytes of its buffer. */
  private range(tensor: Tensor, from: number): { address: number; sizeBytes: number } | undefined {
    const { buffer, byteOffset, shape, dtype } = tensor;
    if (!this.mappings.has(buffer.id)) return undefined;
    const end = byteOffset + tensorBytes(shape, dtype);
    if (end > buffer.sizeBytes) throw new BugError("cpu paging: a tensor reaches beyond its buffer");
    const begin = Math.max(byteOffset, from);
    return begin < end ? { address: buffer.id + begin, sizeBytes: end - begin } : undefined;
  }

  close(): void {
    for (const [id, { sizeBytes }] of this.mappings) this.free({ id, sizeBytes });
  }
}

/** What was asked for, what there is, and what to do about it. */
export function outOfMemory(
  sizeBytes: number,
  category: MemoryCategory,
  liveBytes: number,
  availableBytes: number,
): string {
  const advice =
    category === "optimizer"
      ? "let the optimizer's state leave memory with --paged, shrink it with --optimizer adamw8bit, or train fewer weights with --method lora or qlora"
      : "use shorter sequences, smaller batches, --gradient-checkpointing on, or 4-bit weights with --method qlora";
  return `out of memory: ${gigabytes(sizeBytes)} for ${category} were asked for, beside ${gigabytes(liveBytes)} in use, and ${gigabytes(availableBytes)} are available; ${advice}`;
}

/** 1.53e9 -> "1.53 GB". */
function gigabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
