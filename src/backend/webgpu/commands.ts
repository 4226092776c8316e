// Sending work to the GPU: kernels are recorded into one command encoder with their parameters in one uniform buffer, and
// submitted when either is full or somebody reads. Bind groups are found again, for a step binds the same buffers as the last
// (bind-groups.ts).
// Not here: what the kernels are and mean.

import { type DType, dtypeBytes } from "../../tensor/dtype.ts";
import { type Tensor, tensorBytes } from "../../tensor/tensor.ts";
import { BugError, invariant } from "../../util/errors.ts";
import type { DeviceBuffer } from "../backend.ts";
import { BindGroups } from "./bind-groups.ts";
import { noteActivity } from "./dawn.ts";
import type { Failure } from "./device.ts";
import type { Block, GpuMemory, Memory } from "./memory.ts";
import { type Pipeline, type Pipelines, paramsBytes } from "./pipelines.ts";

/** Part of a buffer that a kernel binds. */
export interface Operand {
  readonly buffer: DeviceBuffer;
  readonly byteOffset: number;
  readonly sizeBytes: number;
  /** Bytes that the kernel's offset of it counts in; absent: the elements of the shader's array. */
  readonly unit?: number;
}

/** Launches recorded before they are submitted by themselves, so that the GPU starts while the CPU records. */
const launchesPerSubmit = 512;
/** More than any kernel binds. */
const mostBindings = 16;
const maxReadBuffers = 4;

const bitsView = new DataView(new ArrayBuffer(4));
/** The bits of an f32 parameter. */
export function f32(value: number): number {
  bitsView.setFloat32(0, value);
  return bitsView.getUint32(0);
}

/** Bytes that an element's offset counts in for each dtype: 16-bit and 8-bit data is bound as words, counted as elements. */
function unitOf(dtype: DType): number | undefined {
  return dtypeBytes[dtype] < 4 ? dtypeBytes[dtype] : undefined;
}

/** A whole tensor, or `count` of its elements from `start`. */
export function operand(tensor: Tensor, start = 0, count?: number): Operand {
  const size = dtypeBytes[tensor.dtype];
  const sizeBytes =
    count === undefined ? tensorBytes(tensor.shape, tensor.dtype) - start * size : count * size;
  return {
    buffer: tensor.buffer,
    byteOffset: tensor.byteOffset + start * size,
    sizeBytes,
    unit: unitOf(tensor.dtype),
  };
}

/** Kernels that were put off (deferred-rows.ts): they hear of every block before it is used. */
export interface WaitingKernels {
  readonly isEmpty: boolean;
  touch(block: Block, writes: boolean): void;
}

export class Commands {
  /** Hears of every launch before it is recorded: for counting. */
  onLaunch: ((pipeline: Pipeline, operands: readonly Operand[]) => void) | undefined;
  private encoder: GPUCommandEncoder | undefined;
  private pass: GPUComputePassEncoder | undefined;
  /** What the pass has set. */
  private current: GPUComputePipeline | undefined;
  private launches = 0;
  /** Number of the batch being recorded; blocks remember the last that used them. */
  private batch = 1;
  private readonly stride: number;
  private readonly params: Uint32Array;
  private readonly uniforms: GPUBuffer;
  private readonly bindGroups: BindGroups;
  /** Of the launch being recorded, by operand. */
  private readonly blocks: Block[] = [];
  private readonly ids = new Int32Array(mostBindings);
  private readonly starts = new Float64Array(mostBindings);
  private readonly bounds = new Float64Array(mostBindings);
  private readonly readBuffers: GPUBuffer[] = [];
  private readonly placeholder: GpuMemory;
  private readonly wholeBinding: number;
  /** A device's limits are looked up across a border in Dawn, so they are kept. */
  private readonly storageAlignment: number;
  private readonly uniformAlignment: number;
  private readonly mostGroups: number;
  private readonly dynamicOffset = [0];

  constructor(
    private readonly device: GPUDevice,
    private readonly memory: Memory,
    private readonly pipelines: Pipelines,
    private readonly failure: Failure,
    private readonly waiting: WaitingKernels,
    /** Bytes that one binding may cover. */
    readonly bindingLimit = device.limits.maxStorageBufferBindingSize,
  ) {
    this.wholeBinding = Math.floor(bindingLimit / 256) * 256;
    this.storageAlignment = device.limits.minStorageBufferOffsetAlignment;
    this.uniformAlignment = device.limits.minUniformBufferOffsetAlignment;
    this.mostGroups = device.limits.maxComputeWorkgroupsPerDimension;
    this.stride = Math.max(paramsBytes, this.uniformAlignment);
    this.params = new Uint32Array((launchesPerSubmit * this.stride) / 4);
    // GPUBufferUsage: COPY_DST | UNIFORM.
    this.uniforms = device.createBuffer({ size: this.params.byteLength, usage: 8 | 64 });
    this.placeholder = memory.scratch(256);
    memory.onPressure = () => this.flush();
    this.bindGroups = new BindGroups(device, this.uniforms);
    memory.onDestroy = (block) => this.bindGroups.forget(block);
  }

  /** What an absent optional operand binds: read, but its values are never used. */
  get nothing(): Operand {
    return { buffer: this.placeholder, byteOffset: 0, sizeBytes: 256 };
  }

  /**
   * Records a kernel. Its Params begin with the offset of each storage operand, then `params` follow (u32; f32 by their
   * bits). `groups` is a number of workgroups, laid out in two dimensions where one is too short, or a grid.
   */
  launch(
    pipeline: Pipeline,
    operands: readonly Operand[],
    params: readonly number[],
    groups: number | readonly [number, number, number],
  ): void {
    const grid = typeof groups === "number" ? this.gridOf(groups) : groups;
    if (grid[0] === 0 || grid[1] === 0 || grid[2] === 0) return;
    if (!this.waiting.isEmpty) this.touch(pipeline, operands);
    if (this.launches === launchesPerSubmit) this.flush();
    this.onLaunch?.(pipeline, operands);
    invariant(operands.length === pipeline.bindings.length, `${pipeline.label}: ${operands.length} operands`);
    invariant((pipeline.offsetWords + params.length) * 4 <= paramsBytes, `${pipeline.label}: parameters`);
    const copies = this.findBlocks(pipeline, operands) ? this.copiesOf(pipeline, operands) : undefined;
    const bindGroup = this.bind(pipeline, copies ?? operands);
    const at = (this.launches * this.stride) / 4 + pipeline.offsetWords;
    for (let i = 0; i < params.length; i++) this.params[at + i] = params[i]!;
    this.pass ??= this.openEncoder().beginComputePass();
    if (this.current !== pipeline.pipeline) this.pass.setPipeline(pipeline.pipeline);
    this.current = pipeline.pipeline;
    this.dynamicOffset[0] = this.launches * this.stride;
    this.pass.setBindGroup(0, bindGroup, this.dynamicOffset);
    this.pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    this.launches++;
    if (copies) {
      for (const [i, copy] of copies.entries()) if (copy !== operands[i]) this.memory.free(copy.buffer);
    }
  }

  /** Has kernels run that were put off and that this one comes after. */
  private touch({ bindings }: Pipeline, operands: readonly Operand[]): void {
    for (let i = 0; i < operands.length; i++)
      this.waiting.touch(this.memory.of(operands[i]!.buffer).block, bindings[i] === "write");
  }

  private gridOf(groups: number): [number, number, number] {
    const limit = this.mostGroups;
    if (groups <= limit) return [groups, 1, 1];
    const rows = Math.ceil(groups / limit);
    return [Math.ceil(groups / rows), rows, 1];
  }

  /** Notes the operands' blocks; true when one that is read is also written. */
  private findBlocks(pipeline: Pipeline, operands: readonly Operand[]): boolean {
    const { blocks } = this;
    const { bindings } = pipeline;
    const count = operands.length;
    for (let i = 0; i < count; i++) blocks[i] = this.memory.of(operands[i]!.buffer).block;
    for (let i = 0; i < count; i++) {
      if (bindings[i] !== "write") continue;
      for (let j = 0; j < count; j++) if (blocks[j] === blocks[i] && bindings[j] !== "write") return true;
    }
    return false;
  }

  /** WebGPU forbids reading a buffer that the same kernel writes, so such an operand is copied first. */
  private copiesOf(pipeline: Pipeline, operands: readonly Operand[]): readonly Operand[] {
    const { bindings } = pipeline;
    const written = new Set(this.blocks.filter((_, i) => i < operands.length && bindings[i] === "write"));
    const copies = operands.map((o, i) => {
      if (bindings[i] === "write" || !written.has(this.memory.of(o.buffer).block)) return o;
      invariant(o.byteOffset % 4 === 0, `${pipeline.label}: an aliased operand off a word`);
      const copy = this.memory.scratch(o.sizeBytes);
      this.copy(o.buffer, o.byteOffset, copy, 0, Math.ceil(o.sizeBytes / 4) * 4);
      return { ...o, buffer: copy, byteOffset: 0 };
    });
    this.findBlocks(pipeline, copies);
    return copies;
  }

  /** The bind group of the operands, whose blocks are known; writes their offsets to the launch's parameters. */
  private bind(pipeline: Pipeline, operands: readonly Operand[]): GPUBindGroup {
    const { blocks, ids, starts, bounds } = this;
    const count = operands.length;
    let slot = (this.launches * this.stride) / 4;
    for (let i = 0; i < count; i++) {
      const { byteOffset, sizeBytes, unit = pipeline.units[i]! } = operands[i]!;
      const block = blocks[i]!;
      const uniform = pipeline.bindings[i] === "uniform";
      const start = byteOffset - (byteOffset % (uniform ? this.uniformAlignment : this.storageAlignment));
      const size = Math.ceil((byteOffset + sizeBytes - start) / 16) * 16;
      // Binding all that follows lets batches of different lengths share bind groups; two ranges of one buffer must not
      // overlap, though.
      let alone = !uniform;
      for (let j = 0; j < count && alone; j++) alone = j === i || blocks[j] !== block;
      const bound = Math.max(16, alone ? Math.min(block.capacity - start, this.wholeBinding) : size);
      const offset = (byteOffset - start) / unit;
      invariant(start + size <= block.capacity, `${pipeline.label}: operand ${i} ends outside its buffer`);
      invariant(Number.isInteger(offset), `${pipeline.label}: operand ${i} starts between elements`);
      if (uniform) invariant(offset === 0, `${pipeline.label}: a uniform operand off its alignment`);
      else this.params[slot++] = offset;
      if (!uniform && size > this.bindingLimit) {
        throw new BugError(
          `${pipeline.label}: operand ${i} of ${size} bytes exceeds a binding's ${this.bindingLimit}`,
        );
      }
      block.batch = this.batch;
      ids[i] = this.bindGroups.rangeOf(block, start, bound);
      starts[i] = start;
      bounds[i] = bound;
    }
    return this.bindGroups.find(pipeline.layout, ids, count, blocks, starts, bounds);
  }

  private openEncoder(): GPUCommandEncoder {
    this.encoder ??= this.device.createCommandEncoder();
    return this.encoder;
  }

  private closePass(): void {
    this.pass?.end();
    this.pass = undefined;
    this.current = undefined;
  }

  /** Copies bytes between buffers; offsets and length are multiples of four. */
  copy(from: DeviceBuffer, fromOffset: number, to: DeviceBuffer, toOffset: number, sizeBytes: number): void {
    if (sizeBytes === 0) return;
    const [source, target] = [this.memory.of(from).block, this.memory.of(to).block];
    this.waiting.touch(source, false);
    this.waiting.touch(target, true);
    if (source === target) {
      // WebGPU copies between different buffers only.
      const between = this.memory.scratch(sizeBytes);
      this.copy(from, fromOffset, between, 0, sizeBytes);
      this.copy(between, 0, to, toOffset, sizeBytes);
      this.memory.free(between);
      return;
    }
    this.closePass();
    this.openEncoder().copyBufferToBuffer(source.gpu, fromOffset, target.gpu, toOffset, sizeBytes);
    source.batch = target.batch = this.batch;
  }

  /** Submits what was recorded. */
  flush(): void {
    if (!this.encoder) return;
    this.closePass();
    if (this.launches > 0) {
      this.device.queue.writeBuffer(this.uniforms, 0, this.params, 0, (this.launches * this.stride) / 4);
    }
    this.device.queue.submit([this.encoder.finish()]);
    noteActivity();
    this.encoder = undefined;
    this.launches = 0;
    this.batch++;
  }

  /** Submits, and waits until the GPU has done it all. */
  async finish(): Promise<void> {
    this.flush();
    await this.device.queue.onSubmittedWorkDone();
    this.failure.check();
  }

  /** Uploads `data` of any length to `offset`, a multiple of four. */
  write(buffer: DeviceBuffer, data: Uint8Array, offset: number): void {
    invariant(offset % 4 === 0, `an upload to byte ${offset}, which starts no word`);
    const { sizeBytes, block } = this.memory.of(buffer);
    invariant(offset + data.byteLength <= sizeBytes, `${data.byteLength} bytes at ${offset} of ${sizeBytes}`);
    const whole = Math.floor(data.byteLength / 4) * 4;
    if (whole > 0) this.upload(buffer, data.subarray(0, whole), offset);
    const rest = data.byteLength - whole;
    if (rest === 0) return;
    const at = offset + whole;
    // The bytes after the upload, when they are the buffer's, must stay as they are.
    if (at + rest < sizeBytes) {
      let value = 0;
      for (let i = 0; i < rest; i++) value |= data[whole + i]! << (8 * i);
      const pipeline = this.pipelines.get("write-bytes", () => ({ files: ["write-bytes"] }));
      this.launch(
        pipeline,
        [{ buffer, byteOffset: at, sizeBytes: 4 }],
        [2 ** (8 * rest) - 1, value >>> 0],
        1,
      );
      return;
    }
    invariant(at + 4 <= block.capacity, "an upload past its block");
    const last = new Uint8Array(4);
    last.set(data.subarray(whole));
    this.upload(buffer, last, at);
  }

  /** Uploads whole words, after everything recorded before that uses the buffer. */
  private upload(buffer: DeviceBuffer, data: Uint8Array, offset: number): void {
    this.failure.check();
    const { block } = this.memory.of(buffer);
    this.waiting.touch(block, true);
    if (block.batch === this.batch) this.flush();
    this.device.queue.writeBuffer(block.gpu, offset, data as Uint8Array<ArrayBuffer>, 0, data.byteLength);
  }

  /** The bytes that the buffer holds after everything recorded so far. */
  async download(buffer: DeviceBuffer, offset: number, sizeBytes: number): Promise<Uint8Array> {
    this.failure.check();
    if (sizeBytes === 0) return new Uint8Array(0);
    const start = Math.floor(offset / 4) * 4;
    const size = Math.ceil((offset + sizeBytes - start) / 4) * 4;
    const staging = this.takeReadBuffer(size);
    const { block } = this.memory.of(buffer);
    this.waiting.touch(block, false);
    this.closePass();
    this.openEncoder().copyBufferToBuffer(block.gpu, start, staging, 0, size);
    block.batch = this.batch;
    this.flush();
    try {
      await staging.mapAsync(1, 0, size); // GPUMapMode.READ
    } catch (error) {
      this.failure.check();
      throw error;
    }
    this.failure.check();
    const bytes = new Uint8Array(
      staging.getMappedRange(0, size).slice(offset - start, offset - start + sizeBytes),
    );
    staging.unmap();
    if (this.readBuffers.length < maxReadBuffers) this.readBuffers.push(staging);
    else staging.destroy();
    return bytes;
  }

  private takeReadBuffer(size: number): GPUBuffer {
    const found = this.readBuffers.findIndex(
      (buffer) => buffer.size >= size && buffer.size <= 64 * size + 65536,
    );
    if (found >= 0) return this.readBuffers.splice(found, 1)[0]!;
    // GPUBufferUsage: MAP_READ | COPY_DST.
    return this.device.createBuffer({ size: Math.max(256, 2 ** Math.ceil(Math.log2(size))), usage: 1 | 8 });
  }
}
