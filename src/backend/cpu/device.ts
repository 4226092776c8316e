// Memory of the CPU backend, and the kernels over it: calls wait in a queue (queue.ts) and run on the calling thread and the
// engine's pool, so a program that must stay responsive opens this backend in a worker (train/worker.ts). Not here: how a
// call is written (write-call.ts, linear-call.ts), the choice of an instruction set (../cpu.ts).

import { type Tensor, tensorBytes } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import type { Backend, DeviceBuffer, Kernels, Precision, RecordedCalls } from "../backend.ts";
import { forEachKernel, type KernelName } from "../contract.ts";
import { Ledger, type LedgerReport, type MemoryCategory } from "../ledger.ts";
import type { NativeAddon } from "./addon.node.ts";
import { CallBuffer } from "./call-buffer.ts";
import { GroupedCalls } from "./grouped-call.ts";
import { LinearCalls } from "./linear-call.ts";
import { CpuPaging, outOfMemory } from "./paging.ts";
import { CpuQueue } from "./queue.ts";
import { Recording } from "./recording.ts";
import { nativeSignatures } from "./signature.ts";
import { CallWriter } from "./write-call.ts";

class CpuDevice implements Omit<Backend, keyof Kernels> {
  readonly name = "cpu";
  readonly floatType = "f32";
  readonly holdsBlocks = true;
  readonly cacheTypes = ["f32", "bf16", "f16", "u8"] as const;
  readonly widensBf16 = true;
  /** few: kMostVectorRows in native/gemm/engines.h. */
  readonly rowsAlike = { few: 64, many: true, piece: 64 };
  readonly paging: CpuPaging;
  readonly calls: CallBuffer;
  readonly queue: CpuQueue;
  private readonly memory = new Ledger();
  private readonly live = new Map<number, { sizeBytes: number; category: MemoryCategory }>();
  /** Buffers freed so far; an object, as backends that wrap this one inherit from it. */
  private readonly freed = { count: 0 };

  constructor(
    private readonly addon: NativeAddon,
    readonly description: string,
    readonly precision: Precision,
  ) {
    this.calls = new CallBuffer(addon.args, addon.mostArguments, () => this.queue.run());
    this.queue = new CpuQueue(addon, this.calls, () => this.memory.liveBytes);
    this.paging = new CpuPaging(addon, this.memory, () => this.queue.run());
  }

  get liveBytes(): number {
    return this.memory.liveBytes;
  }
  get peakBytes(): number {
    return this.memory.peakBytes;
  }
  ledger(): LedgerReport {
    return this.memory.report();
  }

  /** Whether a call may use the memory. */
  isLive(address: number): boolean {
    const { recording } = this.queue;
    if (recording) {
      const entry = this.live.get(address);
      if (entry) recording.use(address, entry);
      else recording.spoil();
    }
    return this.live.has(address) || this.paging.owns(address);
  }

  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer {
    const id = this.queue.allocate(sizeBytes);
    if (id === 0) {
      throw new UserError(
        outOfMemory(sizeBytes, category, this.memory.liveBytes, this.paging.availableBytes()),
      );
    }
    this.live.set(id, { sizeBytes, category });
    this.memory.add(category, sizeBytes);
    return { id, sizeBytes };
  }

  free(buffer: DeviceBuffer): void {
    if (this.paging.free(buffer)) return;
    const entry = this.live.get(buffer.id);
    if (!entry) throw new BugError("cpu backend: a buffer was freed twice");
    this.live.delete(buffer.id);
    this.freed.count++;
    this.memory.remove(entry.category, entry.sizeBytes);
    this.queue.free(buffer.id, entry.sizeBytes);
  }

  record(body: () => void): RecordedCalls | undefined {
    const { queue, memory } = this;
    queue.run();
    const recording = new Recording({
      entryOf: (address) => this.live.get(address),
      freedBlocks: () => this.freed.count,
      repeat: (calls) => queue.repeat(calls),
      keep: (sizeBytes) => memory.add("workspace", sizeBytes),
      giveBack: (address, sizeBytes, counted) => {
        if (counted) memory.remove("workspace", sizeBytes);
        this.addon.free(address, sizeBytes);
      },
    });
    queue.recording = recording;
    try {
      body();
      queue.run();
    } catch (error) {
      recording.spoil();
      queue.drop();
      throw error;
    } finally {
      queue.recording = undefined;
      recording.finish();
    }
    return recording.repeatable ? recording : undefined;
  }

  async largestOfRows({ buffer, byteOffset, shape, dtype }: Tensor): Promise<Int32Array> {
    const [n, columns] = shape as [number, number];
    if (dtype !== "f32" || shape.length !== 2 || columns < 1)
      throw new BugError(`cpu backend: largest elements of rows of [${shape}] ${dtype}`);
    this.queue.run();
    const into = new Int32Array(n);
    this.addon.largest(this.within(buffer, byteOffset, tensorBytes(shape, dtype)), columns, into);
    return into;
  }

  private within(buffer: DeviceBuffer, offset: number, sizeBytes: number): number {
    this.queue.recording?.spoil();
    if (!this.isLive(buffer.id)) throw new BugError("cpu backend: the buffer was freed");
    if (offset < 0 || sizeBytes < 0 || offset + sizeBytes > buffer.sizeBytes) {
      throw new BugError(
        `cpu backend: bytes ${offset}..${offset + sizeBytes} of a buffer of ${buffer.sizeBytes}`,
      );
    }
    return buffer.id + offset;
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    this.queue.run();
    this.addon.write(this.within(buffer, offset, data.byteLength), data);
    this.paging.evict({ buffer, byteOffset: offset, shape: [data.byteLength], dtype: "u8" });
  }

  async read(buffer: DeviceBuffer, offset = 0, sizeBytes = buffer.sizeBytes - offset): Promise<Uint8Array> {
    this.queue.run();
    const into = new Uint8Array(sizeBytes);
    this.addon.read(this.within(buffer, offset, sizeBytes), into);
    this.paging.evict({ buffer, byteOffset: offset, shape: [sizeBytes], dtype: "u8" });
    return into;
  }

  addressOf({ buffer, byteOffset, shape, dtype }: Tensor): number {
    this.queue.run();
    return this.within(buffer, byteOffset, tensorBytes(shape, dtype));
  }

  settle(): void {
    this.queue.run();
  }

  async peakGflops(): Promise<number> {
    return this.addon.peakGflops(this.precision === "fp32" ? 0 : 1);
  }

  close(): void {
    this.queue.drop();
    for (const [address, { sizeBytes, category }] of this.live) {
      this.addon.free(address, sizeBytes);
      this.memory.remove(category, sizeBytes);
    }
    this.live.clear();
    this.paging.close();
    this.addon.trim();
  }
}

/** The device with a method for every kernel. BugError when the addon's kernels are not those of the contract. */
export function openCpuDevice(addon: NativeAddon, description: string, precision: Precision): Backend {
  const device = new CpuDevice(addon, description, precision);
  const isLive = (address: number) => device.isLive(address);
  const code = precision === "bf16" ? 1 : 0;
  const signatures = nativeSignatures(addon);
  const idOf = (name: keyof Kernels) => signatures.get(name)!.id;
  const ids = { linear: idOf("linear"), linearBackward: idOf("linearBackward") };
  const products = new LinearCalls(device.calls, ids, code, isLive);
  const experts = { forward: idOf("groupedLinear"), backward: idOf("groupedLinearBackward") };
  const grouped = new GroupedCalls(device.calls, experts, code, isLive);
  const { queue } = device;
  const kernels = forEachKernel((name) => {
    const { id, list } = signatures.get(name)!;
    const writer = new CallWriter(name, id, list, code, isLive, device.calls);
    return (operands: object) => {
      writer.write(operands);
      queue.add();
    };
  });
  return Object.assign(device, kernels, {
    linear: (...call) => {
      products.linear(...call);
      queue.add();
    },
    linearBackward: (...call) => {
      if (products.linearBackward(...call)) queue.add();
    },
    groupedLinear: (...call) => {
      grouped.forward(...call);
      queue.add();
    },
    groupedLinearBackward: (...call) => {
      grouped.backward(...call);
      queue.add();
    },
  } satisfies Omit<Kernels, KernelName>);
}
