// A GPUDevice that runs WGSL as JavaScript, slowly and to the letter: memory has bounds, f16 and f32 are rounded to, subgroup
// matrices multiply, and invocations run one after another between barriers, forwards and backwards in turn, so that a missing
// barrier shows. For the tiers that no driver at hand offers. Validation is Dawn's (webgpu-shaders.test.ts).

import { Failure, type MatrixShape, type OpenDevice, type Tier } from "../../src/backend/webgpu/device.ts";
import { type CompiledKernel, compileWgsl } from "./compile-wgsl.ts";
import { type Bytes, bytesOver, runtime } from "./wgsl-runtime.ts";

class EmulatedBuffer {
  readonly memory: ArrayBuffer;
  constructor(readonly size: number) {
    this.memory = new ArrayBuffer(Math.ceil(size / 16) * 16);
  }
  destroy() {}
  async mapAsync() {}
  getMappedRange(offset: number, size: number) {
    return this.memory.slice(offset, offset + size);
  }
  unmap() {}
}

interface BoundGroup {
  readonly entries: readonly { readonly binding: number; readonly resource: GPUBufferBinding }[];
}

type Grid = readonly [number, number, number];
type Invocation = Generator<void, void, void>;

/** What compiled code knows of the invocation that runs: whether it is its subgroup's first, and its private variables. */
interface LaneState {
  leads: boolean;
  own: unknown;
}

/** Runs every workgroup of a launch. */
function dispatch(
  kernel: CompiledKernel,
  group: BoundGroup,
  paramsAt: number,
  grid: Grid,
  subgroupSize: number,
): void {
  const variables: Record<string, Bytes> = {};
  for (const { binding, resource } of group.entries) {
    const name = kernel.bound.get(binding);
    if (name === undefined) continue;
    const { memory, size: whole } = resource.buffer as unknown as EmulatedBuffer;
    const offset = (resource.offset ?? 0) + (binding === 0 ? paramsAt : 0);
    variables[name] = bytesOver(memory, offset, resource.size ?? whole - offset, name);
  }
  for (const [name, size] of kernel.shared) {
    variables[name] = bytesOver(new ArrayBuffer(Math.ceil(size / 16) * 16), 0, size, name);
  }
  const state: LaneState = { leads: false, own: undefined };
  const ownVariables = Function(`return () => (${kernel.own});`)() as () => unknown;
  const main = Function("H", "V", "S", kernel.source)(runtime, variables, state) as (
    ...given: unknown[]
  ) => Invocation;
  const [width, height, depth] = kernel.workgroupSize;
  for (let z = 0; z < grid[2]; z++) {
    for (let y = 0; y < grid[1]; y++) {
      for (let x = 0; x < grid[0]; x++) {
        for (const name of kernel.shared.keys()) variables[name]!.u.fill(0);
        const lanes = Array.from({ length: width * height * depth }, (_, lane) => {
          const local = [
            lane % width,
            Math.floor(lane / width) % height,
            Math.floor(lane / (width * height)),
          ];
          const builtins: Record<string, unknown> = {
            workgroup_id: [x, y, z],
            num_workgroups: [...grid],
            local_invocation_id: local,
            local_invocation_index: lane,
            global_invocation_id: [x * width + local[0]!, y * height + local[1]!, z * depth + local[2]!],
            subgroup_id: Math.floor(lane / subgroupSize),
            subgroup_invocation_id: lane % subgroupSize,
          };
          return {
            leads: lane % subgroupSize === 0,
            own: ownVariables(),
            run: main(...kernel.builtins.map((name) => builtins[name])),
          };
        });
        runLanes(lanes, state);
      }
    }
  }
}

/** From barrier to barrier; an error where invocations meet different numbers of them. */
function runLanes(lanes: (LaneState & { readonly run: Invocation })[], state: LaneState): void {
  for (;;) {
    let ended = 0;
    for (const lane of lanes) {
      state.leads = lane.leads;
      state.own = lane.own;
      if (lane.run.next().done) ended++;
    }
    if (ended === lanes.length) return;
    if (ended > 0)
      throw new Error(`${ended} of ${lanes.length} invocations ended where the others wait at a barrier`);
    lanes.reverse();
  }
}

const limits = {
  maxBufferSize: 2 ** 30,
  maxStorageBufferBindingSize: 2 ** 30,
  maxComputeWorkgroupStorageSize: 49152,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** What openDevice() would give, with the device's workgroup memory as asked for. */
export function openEmulated(tier: Tier, matrix: MatrixShape, more: Partial<typeof limits> = {}): OpenDevice {
  const kernels = new Map<string, CompiledKernel>();
  const copies = (from: GPUBuffer, at: number, to: GPUBuffer, toAt: number, size: number) => {
    const [source, target] = [from, to].map((buffer) => (buffer as unknown as EmulatedBuffer).memory);
    new Uint8Array(target!).set(new Uint8Array(source!, at, size), toAt);
  };
  const createCommandEncoder = () => {
    const work: (() => void)[] = [];
    let pipeline: { readonly code: string; readonly label: string };
    let group: BoundGroup;
    let paramsAt = 0;
    return {
      beginComputePass: () => ({
        setPipeline: (next: typeof pipeline) => void (pipeline = next),
        setBindGroup(_: number, next: BoundGroup, offsets: number[] = []) {
          group = next;
          paramsAt = offsets[0] ?? 0;
        },
        dispatchWorkgroups(x: number, y = 1, z = 1) {
          const [own, bound, at] = [pipeline, group, paramsAt];
          work.push(() => {
            try {
              let kernel = kernels.get(own.code);
              if (!kernel) kernels.set(own.code, (kernel = compileWgsl(own.code)));
              dispatch(kernel, bound, at, [x, y, z], matrix.subgroupSize);
            } catch (error) {
              throw new Error(`${own.label}: ${error instanceof Error ? error.message : error}`, {
                cause: error,
              });
            }
          });
        },
        end() {},
      }),
      copyBufferToBuffer: (...given: Parameters<typeof copies>) => work.push(() => copies(...given)),
      finish: () => work,
    };
  };
  const device = {
    limits: { ...limits, ...more },
    lost: new Promise<never>(() => {}),
    addEventListener() {},
    destroy() {},
    createBuffer: ({ size }: GPUBufferDescriptor) => new EmulatedBuffer(size),
    createBindGroup: ({ entries }: GPUBindGroupDescriptor) => ({ entries }),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: ({ code }: GPUShaderModuleDescriptor) => ({ code }),
    createComputePipeline: ({ label, compute }: GPUComputePipelineDescriptor) => ({
      label,
      code: (compute.module as unknown as { readonly code: string }).code,
    }),
    createCommandEncoder,
    queue: {
      writeBuffer(
        buffer: GPUBuffer,
        offset: number,
        data: Uint8Array | Uint32Array,
        start = 0,
        count = data.length - start,
      ) {
        const unit = data.BYTES_PER_ELEMENT;
        const bytes = new Uint8Array(data.buffer, data.byteOffset + start * unit, count * unit);
        new Uint8Array((buffer as unknown as EmulatedBuffer).memory).set(bytes, offset);
      },
      submit: (buffers: readonly (() => void)[][]) => {
        for (const work of buffers) for (const run of work) run();
      },
      async onSubmittedWorkDone() {},
    },
  } as unknown as GPUDevice;
  return {
    ...{ device, tier, adapterName: "emulated device", software: true, failure: new Failure(device) },
    precision: tier === "f32" ? "fp32" : "fp16",
    matrix: tier === "matrix" ? matrix : undefined,
  };
}
