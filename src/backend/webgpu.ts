// The WebGPU backend: one code for Node (npm `webgpu`, Dawn) and browsers. This file opens a device and puts the parts
// together; device.ts chooses tier and limits, memory.ts allocates, commands.ts records and submits, the other files of
// webgpu/ launch the kernels, whose shaders are webgpu/kernels/*.wgsl.

import {
  type Backend,
  type BackendFactory,
  type BackendOptions,
  isBlocks,
  type Matrix,
  type PlainMatrix,
} from "./backend.ts";
import { checkedKernels } from "./operand-check.ts";
import { lookForAdapter } from "./webgpu/adapters.ts";
import { attentionKernels } from "./webgpu/attention.ts";
import { columnKernels } from "./webgpu/columns.ts";
import { Commands } from "./webgpu/commands.ts";
import { type DawnOptions, mayHaveGpu } from "./webgpu/dawn.ts";
import { DeferredRows } from "./webgpu/deferred-rows.ts";
import {
  adapterName,
  isSoftware,
  type MatrixShape,
  matrixShape,
  nextTier,
  type OpenDevice,
  openDevice,
  type Tier,
} from "./webgpu/device.ts";
import { elementKernels } from "./webgpu/elementwise.ts";
import { gatedKernels } from "./webgpu/gated-activation.ts";
import type { Gpu } from "./webgpu/gpu.ts";
import { groupedKernels } from "./webgpu/grouped.ts";
import { linearKernels } from "./webgpu/linear.ts";
import { Memory } from "./webgpu/memory.ts";
import { Pipelines } from "./webgpu/pipelines.ts";
import { vectorRows } from "./webgpu/product-operands.ts";
import { quantizedKernels } from "./webgpu/quantized.ts";
import { recurrentKernels } from "./webgpu/recurrent.ts";
import { routerKernels } from "./webgpu/router.ts";
import { rowKernels } from "./webgpu/rows.ts";
import { TileChoices } from "./webgpu/tile-choices.ts";
import { type TuningStore, tune } from "./webgpu/tuning.ts";
import { openTuningFile } from "./webgpu/tuning-file.node.ts";
import { updateKernels } from "./webgpu/updates.ts";

export interface WebGpuOptions extends BackendOptions {
  /** Instead of the best tier that the adapter offers. */
  readonly tier?: Tier;
  /** For tests: how Dawn is created, and a binding limit below the device's own. */
  readonly dawn?: DawnOptions;
  readonly bindingLimit?: number;
  /** For tests: subgroup matrices of this shape, whatever the adapter says of itself. */
  readonly matrix?: MatrixShape;
  /** For tests: lanes of the subgroups that products are made by, 0 for a GPU's kernels, whatever the adapter. */
  readonly lanes?: number;
  /** For tests: measures tiles into this store, whatever the adapter and however long it takes. */
  readonly tuning?: TuningStore;
}

let whyNot = "";

/** The adapter of this machine, or null; reason() then says why. */
export async function findAdapter(dawn?: DawnOptions): Promise<GPUAdapter | null> {
  const found = await lookForAdapter(dawn);
  if (found.adapter) return found.adapter;
  whyNot = found.reason;
  return null;
}

/** Whether this machine has a GPU for WebGPU; a CPU posing as one does not count, for the CPU backend is faster. */
export async function hasHardwareGpu(): Promise<boolean> {
  if (!(await mayHaveGpu())) return false;
  const adapter = await findAdapter();
  return adapter !== null && !isSoftware(adapter);
}

/** Opens the backend; null when there is no adapter. UserError when the adapter cannot do what is asked. */
export async function openWebGpu(options: WebGpuOptions = {}): Promise<Backend | null> {
  const adapter = await findAdapter(options.dawn);
  if (!adapter) return null;
  const opened = await openDevice(adapter, options.precision ?? "auto", options);
  const parts = partsOn(opened, options.bindingLimit);
  const store = options.tuning ?? (opened.software ? undefined : await openTuningFile("webgpu-tiles.json"));
  const backend = backendOf(opened, parts);
  if (!store) return backend;
  return Object.assign(backend, {
    async prepareProducts(weights: readonly Matrix[]) {
      const patience = options.tuning && Number.POSITIVE_INFINITY;
      const plain = weights.filter((weight): weight is PlainMatrix => !isBlocks(weight));
      parts.tiles = await tune(parts, opened.adapterName, store, plain, patience);
    },
  });
}

/** What kernels are launched with on an open device. */
export function partsOn(opened: OpenDevice, bindingLimit?: number): Gpu {
  const { device, failure, tier, matrix, lanes } = opened;
  const memory = new Memory(device, failure);
  const pipelines = new Pipelines(device, failure, matrix?.controls && matrix.subgroupSize);
  const deferred = new DeferredRows(memory);
  const commands = new Commands(device, memory, pipelines, failure, deferred, bindingLimit);
  return {
    commands,
    memory,
    deferred,
    pipelines,
    tier,
    matrix,
    lanes,
    limits: device.limits,
    tiles: new TileChoices(),
  };
}

/** The backend over an open device and its parts. */
export function backendOf(opened: OpenDevice, gpu: Gpu): Backend {
  const { device, failure, tier, precision } = opened;
  const { commands, memory } = gpu;
  return {
    ...checkedKernels(
      {
        ...elementKernels(gpu),
        ...gatedKernels(gpu),
        ...rowKernels(gpu),
        ...columnKernels(gpu),
        ...routerKernels(gpu),
        ...attentionKernels(gpu),
        ...quantizedKernels(gpu),
        ...recurrentKernels(gpu),
        ...updateKernels(gpu),
      },
      "f32",
    ),
    ...linearKernels(gpu),
    ...groupedKernels(gpu),
    name: "webgpu",
    description: `${opened.adapterName}, tier ${tier}${opened.software ? ", in software" : ""}`,
    precision,
    floatType: "f32",
    runsAhead: true,
    rowsAlike: { few: vectorRows, many: false, piece: 512 },
    get liveBytes() {
      return memory.ledger.liveBytes;
    },
    get peakBytes() {
      return memory.ledger.peakBytes;
    },
    ledger: () => memory.ledger.report(),
    allocate: (sizeBytes, category) => memory.allocate(sizeBytes, category),
    write: (buffer, data, offset = 0) => commands.write(buffer, data, offset),
    read: (buffer, offset = 0, sizeBytes = buffer.sizeBytes - offset) =>
      commands.download(buffer, offset, sizeBytes),
    free: (buffer) => memory.free(buffer),
    close() {
      failure.close();
      device.destroy();
    },
  };
}

export const webgpu: BackendFactory = {
  name: "webgpu",
  open: (options) => openWebGpu(options),
  reason: () => whyNot,
};

export interface AdapterDescription {
  readonly name: string;
  /** A CPU posing as a GPU. */
  readonly software: boolean;
  readonly tiers: readonly Tier[];
  /** The best of them: what precision fp16 runs in. */
  readonly tier: Tier;
  /** The tier above, and what is missing for it. */
  readonly nextTier?: { readonly tier: Tier; readonly missing: string };
  readonly matrix?: MatrixShape;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

/** What this machine offers WebGPU, for people; undefined when it offers nothing. */
export async function describeAdapter(): Promise<AdapterDescription | undefined> {
  const adapter = await findAdapter();
  return adapter ? descriptionOf(adapter) : undefined;
}

export function descriptionOf(adapter: GPUAdapter): AdapterDescription {
  const limits: Record<string, number> = {};
  for (const key in adapter.limits) {
    const value = adapter.limits[key as keyof GPUSupportedLimits];
    if (typeof value === "number") limits[key] = value;
  }
  const matrix = matrixShape(adapter);
  const half = adapter.features.has("shader-f16");
  const tiers: Tier[] = ["f32"];
  if (half) tiers.push("f16");
  if (matrix) tiers.push("matrix");
  return {
    name: adapterName(adapter),
    software: isSoftware(adapter),
    tiers,
    tier: tiers.at(-1)!,
    nextTier: nextTier(adapter),
    matrix,
    features: [...adapter.features].sort(),
    limits,
  };
}
