// Opening a GPU: which adapter, which of its features and limits are asked for, and the tier that follows. Also the one
// place where a device's failures (lost, out of memory, invalid use) become an error for people. Not here: Dawn itself
// (dawn.ts), memory (memory.ts).

import { UserError } from "../../util/errors.ts";
import type { Precision } from "../backend.ts";

/**
 * f32: everything in f32. f16: frozen matrices stored in f16, tiles of them in workgroup memory as f16, sums in f32.
 * matrix: as f16, and large products on subgroup matrices (tensor cores), f16 inputs, f32 sums.
 */
export type Tier = "f32" | "f16" | "matrix";

export interface OpenDevice {
  readonly device: GPUDevice;
  readonly tier: Tier;
  readonly precision: Precision;
  /** For people. */
  readonly adapterName: string;
  /** Whether the adapter is a program on the CPU (lavapipe, SwiftShader, WARP). */
  readonly software: boolean;
  /** M, N, K of one subgroup matrix product and the subgroup's size; set in tier "matrix". */
  readonly matrix?: MatrixShape;
  /** Lanes of a subgroup, on a program on the CPU whose products are made a subgroup at a time. */
  readonly lanes?: number;
  readonly failure: Failure;
}

export interface MatrixShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly subgroupSize: number;
  /** The device makes subgroups of other sizes too, unless a shader asks for one. */
  readonly controls?: true;
}

/** What Chromium's experimental feature adds to an adapter's info. */
interface ExperimentalInfo {
  readonly subgroupMatrixConfigs?: readonly {
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }[];
}

const matrixFeature = "chromium-experimental-subgroup-matrix";
const sizeFeature = "subgroup-size-control";

/** Larger is better in the first list, smaller in the second. */
const raisedLimits = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;
const loweredLimits = ["minStorageBufferOffsetAlignment", "minUniformBufferOffsetAlignment"] as const;

export function adapterName(adapter: GPUAdapter): string {
  const { description, device, vendor, architecture } = adapter.info;
  return description || device || [vendor, architecture].filter(Boolean).join(" ") || "unnamed adapter";
}

export function isSoftware(adapter: GPUAdapter): boolean {
  const { description, device, vendor, isFallbackAdapter } = adapter.info;
  const names = `${vendor} ${device} ${description}`;
  return isFallbackAdapter === true || /llvmpipe|lavapipe|swiftshader|software|basic render/i.test(names);
}

/** The subgroup matrix shape that the products use: f16 inputs, f32 sums, the largest offered. */
export function matrixShape(adapter: GPUAdapter): MatrixShape | undefined {
  const offer = matrixOffer(adapter);
  return "missing" in offer ? undefined : offer;
}

/**
 * Lanes of a subgroup on a program on the CPU, which makes products a subgroup at a time (gemm-lanes.wgsl); 0 on a real GPU, and
 * where subgroups are missing, vary in size or are not of 4, 8 or 16 lanes.
 */
export function subgroupLanes(adapter: GPUAdapter): number {
  const { subgroupMinSize: least, subgroupMaxSize: most } = adapter.info;
  if (!isSoftware(adapter) || !adapter.features.has("subgroups") || least !== most) return 0;
  return [4, 8, 16].includes(most) ? most : 0;
}

const mostSide = 16;
/** Taken where a device can make subgroups of several sizes: what matrices of AMD's and Intel's are fastest with. */
const preferredSubgroup = 32;

/** Subgroup matrices for the products, or what is missing for them. */
export function matrixOffer(adapter: GPUAdapter): MatrixShape | { readonly missing: string } {
  const { features } = adapter;
  const missing = ["shader-f16", "subgroups", matrixFeature].filter(
    (name) => !features.has(name as GPUFeatureName),
  );
  if (missing.length > 0) return { missing: `${missing.join(", ")} ${whyNot(missing.at(-1)!)}` };
  const { subgroupMinSize: least, subgroupMaxSize: most } = adapter.info;
  if (!least || !most) return { missing: "a size of subgroups, which the adapter does not tell" };
  // Which lanes hold a matrix must be known when the shader is written.
  const controls = least !== most;
  if (controls && !features.has(sizeFeature as GPUFeatureName))
    return { missing: `${sizeFeature}, as subgroups may have ${least} to ${most} lanes here` };
  const subgroupSize = controls ? Math.min(most, Math.max(least, preferredSubgroup)) : most;
  const configs = (adapter.info as GPUAdapterInfo & ExperimentalInfo).subgroupMatrixConfigs ?? [];
  const usable = configs.filter(
    (c) =>
      c.componentType === "f16" && c.resultComponentType === "f32" && Math.max(c.M, c.N, c.K) <= mostSide,
  );
  const [best] = [...usable].sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  if (!best) {
    const offered = configs.map((c) => `${c.componentType} to ${c.resultComponentType} ${c.M}x${c.N}x${c.K}`);
    return {
      missing: `matrices of f16 summed in f32, at most ${mostSide} wide; offered are ${offered.join(", ") || "none"}`,
    };
  }
  return { m: best.M, n: best.N, k: best.K, subgroupSize, ...(controls ? { controls: true as const } : {}) };
}

/** Where a feature usually comes from, for people who can do something about it. */
function whyNot(feature: string): string {
  if (feature === "shader-f16")
    return "(16-bit floats in shaders): the driver or WebGPU's build withholds it";
  if (feature === matrixFeature)
    return "(tensor cores): it comes with VK_KHR_cooperative_matrix of a recent Vulkan driver, in a browser with its flag for unsafe WebGPU";
  return "";
}

/** What keeps an adapter from the tier above its best; undefined in the best. */
export function nextTier(adapter: GPUAdapter): { readonly tier: Tier; readonly missing: string } | undefined {
  if (!adapter.features.has("shader-f16"))
    return { tier: "f16", missing: `shader-f16 ${whyNot("shader-f16")}` };
  const offer = matrixOffer(adapter);
  return "missing" in offer ? { tier: "matrix", missing: offer.missing } : undefined;
}

/** The fastest tier an adapter offers, or the one asked for; a UserError where it cannot be had. */
export function chooseTier(
  adapter: GPUAdapter,
  precision: Precision | "auto",
  matrix: MatrixShape | undefined,
  wanted?: Tier,
): Tier {
  const half = adapter.features.has("shader-f16");
  if (precision === "bf16") {
    throw new UserError("WebGPU has no bf16 arithmetic; use precision fp16 (or auto), or the CPU for bf16");
  }
  if (precision === "fp32") return "f32";
  if (precision === "fp16" && !half) {
    throw new UserError(
      `${adapterName(adapter)} offers no 16-bit floats (shader-f16) through WebGPU; use precision fp32 or auto`,
    );
  }
  if (wanted === "f32" || !half) return "f32";
  return matrix && wanted !== "f16" ? "matrix" : "f16";
}

export async function openDevice(
  adapter: GPUAdapter,
  precision: Precision | "auto",
  {
    tier: wanted,
    matrix = matrixShape(adapter),
    lanes: wantedLanes = subgroupLanes(adapter),
  }: { readonly tier?: Tier; readonly matrix?: MatrixShape; readonly lanes?: number } = {},
): Promise<OpenDevice> {
  const tier = chooseTier(adapter, precision, matrix, wanted);
  const requiredFeatures: GPUFeatureName[] = [];
  if (tier !== "f32") requiredFeatures.push("shader-f16");
  const lanes = tier === "matrix" ? 0 : wantedLanes;
  if (tier === "matrix" || lanes > 0) requiredFeatures.push("subgroups");
  if (tier === "matrix") requiredFeatures.push(matrixFeature as GPUFeatureName);
  if (tier === "matrix" && matrix?.controls) requiredFeatures.push(sizeFeature as GPUFeatureName);
  if (adapter.features.has("timestamp-query")) requiredFeatures.push("timestamp-query");
  const requiredLimits: Record<string, number> = {};
  for (const name of [...raisedLimits, ...loweredLimits]) requiredLimits[name] = adapter.limits[name];
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  return {
    device,
    tier,
    precision: tier === "f32" ? "fp32" : "fp16",
    adapterName: adapterName(adapter),
    software: isSoftware(adapter),
    matrix: tier === "matrix" ? matrix : undefined,
    lanes: lanes > 0 ? lanes : undefined,
    failure: new Failure(device),
  };
}

/** Watches a device; once something has gone wrong every further call says so. */
export class Failure {
  private error: UserError | undefined;
  private closed = false;

  constructor(device: GPUDevice) {
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.report((event as GPUUncapturedErrorEvent).error);
    });
    device.lost.then((info) => {
      if (this.closed) return;
      this.set(`the GPU device was lost (${firstLine(info.message) || info.reason})`);
    });
  }

  /** From here on the device may go without anyone being told. */
  close(): void {
    this.closed = true;
  }

  report(error: { readonly message: string; readonly constructor: { readonly name: string } }): void {
    if (error.constructor.name === "GPUOutOfMemoryError") {
      this.set(
        `the GPU is out of memory (${firstLine(error.message)}); shorter or fewer sequences a batch need less`,
      );
    } else {
      this.set(`the GPU refused a command, which is a mistake in lowrank (${error.message.slice(0, 2000)})`);
    }
  }

  private set(what: string): void {
    this.error ??= new UserError(`${what}. A training run continues from its last checkpoint with --resume`);
  }

  /** Throws what has gone wrong, if anything has. */
  check(): void {
    if (this.error) throw this.error;
  }
}

function firstLine(text: string): string {
  return text.split("\n")[0]!.slice(0, 300);
}
