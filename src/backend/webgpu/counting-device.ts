// A GPUDevice that computes nothing and counts what it is asked for. With the real backend on it (webgpu.ts), a step's
// dispatches, bind groups and host time are known without a GPU: bench/gpu-counts and the tests hold them. Not a backend
// that plans memory: that is ../counting.ts.

import { Failure, type OpenDevice, type Tier } from "./device.ts";

/** What was asked of a counting device so far. */
export interface DeviceCounts {
  dispatches: number;
  bindGroups: number;
  submits: number;
  passes: number;
  writes: number;
  copies: number;
  maps: number;
  pipelines: number;
  buffers: number;
  /** Bytes of the buffers that live. */
  bufferBytes: number;
}

/** Limits as NVIDIA's driver gives them through Dawn. */
export const largeLimits = {
  maxBufferSize: 2 ** 40,
  maxStorageBufferBindingSize: 2 ** 31 - 4,
  maxComputeWorkgroupStorageSize: 49152,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  minStorageBufferOffsetAlignment: 16,
  minUniformBufferOffsetAlignment: 64,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** The subgroup matrices of an NVIDIA card. */
export const largeMatrix = { m: 16, n: 16, k: 16, subgroupSize: 32 };

export interface CountingDevice {
  readonly device: GPUDevice;
  readonly counts: DeviceCounts;
}

/**
 * A device whose reads give zeros. `behind` is a real device that is asked for the same, so that its cost on the host is
 * in the time: its storage is `behindBytes` a buffer at most, whatever was asked for.
 */
export function countingDevice(
  limits: Partial<typeof largeLimits> = {},
  behind?: GPUDevice,
  behindBytes = 2 ** 14,
): CountingDevice {
  const counts: DeviceCounts = {
    ...{ dispatches: 0, bindGroups: 0, submits: 0, passes: 0, writes: 0, copies: 0, maps: 0 },
    ...{ pipelines: 0, buffers: 0, bufferBytes: 0 },
  };
  class Buffer {
    readonly real: GPUBuffer | undefined;
    constructor(
      readonly size: number,
      readonly usage: number,
    ) {
      counts.buffers++;
      counts.bufferBytes += size;
      const isStorage = (usage & 128) !== 0; // GPUBufferUsage.STORAGE
      this.real = behind?.createBuffer({ size: isStorage ? Math.min(size, behindBytes) : size, usage });
    }
    destroy() {
      counts.bufferBytes -= this.size;
      this.real?.destroy();
    }
    async mapAsync(mode: number, _offset: number, size: number) {
      counts.maps++;
      await this.real?.mapAsync(mode, 0, Math.min(size, this.real.size));
    }
    getMappedRange(_offset: number, size: number) {
      return new ArrayBuffer(size);
    }
    unmap() {
      this.real?.unmap();
    }
  }
  const bufferOf = (buffer: GPUBuffer) => (buffer as unknown as Buffer).real!;
  const shortest = (size: number, ...buffers: GPUBuffer[]) =>
    Math.min(size, ...buffers.map((buffer) => buffer.size));
  const passOver = (real: GPUComputePassEncoder | undefined) => ({
    setPipeline: (pipeline: GPUComputePipeline) => real?.setPipeline(pipeline),
    setBindGroup: (index: number, group: GPUBindGroup, offsets: number[]) =>
      real?.setBindGroup(index, group, offsets),
    dispatchWorkgroups(...grid: [number, number, number]) {
      counts.dispatches++;
      real?.dispatchWorkgroups(...grid);
    },
    end: () => real?.end(),
  });
  const encoderOver = (real: GPUCommandEncoder | undefined) => ({
    beginComputePass() {
      counts.passes++;
      return passOver(real?.beginComputePass());
    },
    copyBufferToBuffer(from: GPUBuffer, _at: number, to: GPUBuffer, _toAt: number, size: number) {
      counts.copies++;
      if (!real) return;
      const [source, target] = [bufferOf(from), bufferOf(to)];
      real.copyBufferToBuffer(source, 0, target, 0, shortest(size, source, target));
    },
    finish: () => real?.finish() ?? {},
  });
  let empty: GPUShaderModule | undefined;
  const device = {
    limits: {
      ...largeLimits,
      // Dynamic offsets reach the device behind.
      ...(behind && { minUniformBufferOffsetAlignment: behind.limits.minUniformBufferOffsetAlignment }),
      ...limits,
    },
    lost: new Promise<never>(() => {}),
    addEventListener() {},
    destroy() {},
    createBuffer: ({ size, usage }: GPUBufferDescriptor) => new Buffer(size, usage),
    createBindGroup(descriptor: GPUBindGroupDescriptor) {
      counts.bindGroups++;
      if (!behind) return {};
      const entries = [...descriptor.entries].map(({ binding, resource }) => {
        const { buffer, size } = resource as GPUBufferBinding;
        const real = bufferOf(buffer);
        return { binding, resource: { buffer: real, offset: 0, size: shortest(size!, real) } };
      });
      return behind.createBindGroup({ layout: descriptor.layout, entries });
    },
    createBindGroupLayout: (descriptor: GPUBindGroupLayoutDescriptor) =>
      behind?.createBindGroupLayout(descriptor) ?? {},
    createPipelineLayout: (descriptor: GPUPipelineLayoutDescriptor) =>
      behind?.createPipelineLayout(descriptor) ?? {},
    createShaderModule: () => ({}),
    createComputePipeline({ layout }: GPUComputePipelineDescriptor) {
      counts.pipelines++;
      // Any shader does: the layout is what a launch is held against.
      empty ??= behind?.createShaderModule({ code: "@compute @workgroup_size(1) fn main() {}" });
      return empty ? behind!.createComputePipeline({ layout, compute: { module: empty } }) : {};
    },
    createCommandEncoder: () => encoderOver(behind?.createCommandEncoder()),
    queue: {
      writeBuffer(buffer: GPUBuffer, _offset: number, data: Uint8Array, _start: number, count: number) {
        counts.writes++;
        if (!behind) return;
        const [real, unit] = [bufferOf(buffer), data.BYTES_PER_ELEMENT];
        const length = shortest(count * unit, real) / unit;
        behind.queue.writeBuffer(real, 0, data as Uint8Array<ArrayBuffer>, 0, length);
      },
      submit(buffers: GPUCommandBuffer[]) {
        counts.submits++;
        behind?.queue.submit(buffers);
      },
      async onSubmittedWorkDone() {},
    },
  };
  return { device: device as unknown as GPUDevice, counts };
}

/** What openDevice() would give for a counting device in this tier. */
export function openedCounting(device: GPUDevice, tier: Tier): OpenDevice {
  return {
    ...{ device, tier, adapterName: "counting device", software: true, failure: new Failure(device) },
    precision: tier === "f32" ? "fp32" : "fp16",
    matrix: tier === "matrix" ? largeMatrix : undefined,
  };
}
