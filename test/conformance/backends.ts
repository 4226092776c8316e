// The backends that conformance suites run on: the reference, the CPU under every instruction set of this machine in
// both precisions, and WebGPU in each tier that the machine's adapter offers; or, in the project "cuda" of vitest.config.ts, the CUDA
// backend alone, on the emulator or on the card that LOWRANK_CUDA_LIBRARY=system asks for. A backend that this machine cannot open is
// skipped with its reason; with LOWRANK_REQUIRE_WEBGPU=1 a missing GPU fails instead.

import { existsSync } from "node:fs";
import type { Backend, Precision } from "../../src/backend/backend.ts";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { cpu } from "../../src/backend/cpu.ts";
import { cuda } from "../../src/backend/cuda.ts";
import { openReference } from "../../src/backend/reference.ts";
import { matrixShape, subgroupLanes, type Tier } from "../../src/backend/webgpu/device.ts";
import { findAdapter, openWebGpu, webgpu } from "../../src/backend/webgpu.ts";
import { emulatorPath } from "./cuda-emulator.ts";

export interface ConformanceBackend {
  readonly name: string;
  /** Arithmetic that tests may hold to fp32 tolerances. */
  readonly exact: boolean;
  open(): Promise<Backend>;
  /** Why it cannot run here; empty when it can. */
  readonly skip: string;
}

/** The CPU backend under an instruction set of this machine. */
export async function openCpu(isa: string, precision: Precision, threads = 0): Promise<Backend> {
  const before = process.env.LOWRANK_ISA;
  process.env.LOWRANK_ISA = isa;
  try {
    return (await cpu.open({ precision, threads }))!;
  } finally {
    if (before === undefined) delete process.env.LOWRANK_ISA;
    else process.env.LOWRANK_ISA = before;
  }
}

const isBuilt = existsSync(new URL("../../native/build/lowrank.node", import.meta.url));

/** Every instruction set of this machine in both precisions; none where the addon is not built. */
export const cpuSets = (isBuilt ? loadNativeAddon().isas : []).flatMap((isa) =>
  (["fp32", "bf16"] satisfies Precision[]).map((precision) => ({ isa, precision })),
);

function cpuBackends(): ConformanceBackend[] {
  if (!isBuilt) {
    return [
      { name: "cpu", exact: true, open: async () => openReference(), skip: "the native addon is not built" },
    ];
  }
  return cpuSets.map(({ isa, precision }) => ({
    name: `cpu ${isa} ${precision}`,
    exact: precision === "fp32",
    skip: "",
    open: () => openCpu(isa, precision),
  }));
}

async function webgpuBackends(): Promise<ConformanceBackend[]> {
  const adapter = await findAdapter();
  const missing = adapter ? "" : webgpu.reason!();
  if (missing && process.env.LOWRANK_REQUIRE_WEBGPU === "1") throw new Error(missing);
  const backend = (tier: Tier, skip: string): ConformanceBackend => ({
    name: `webgpu ${tier}`,
    exact: tier === "f32",
    skip: missing || skip,
    open: async () => (await openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16" }))!,
  });
  return [
    backend("f32", ""),
    backend("f16", adapter?.features.has("shader-f16") ? "" : "the adapter has no shader-f16"),
    backend("matrix", adapter && matrixShape(adapter) ? "" : "the adapter has no subgroup matrices"),
  ];
}

/** The CUDA backend in both precisions. */
function cudaBackends(): ConformanceBackend[] {
  if (process.env.LOWRANK_CUDA_LIBRARY === "system") process.env.LOWRANK_CUDA_LIBRARY = "";
  else process.env.LOWRANK_CUDA_LIBRARY ??= emulatorPath;
  const skip = isBuilt ? "" : "the native addon is not built";
  return (["fp32", "bf16"] satisfies Precision[]).map((precision) => ({
    name: `cuda ${precision}`,
    exact: precision === "fp32",
    skip,
    async open() {
      const backend = await cuda.open({ precision });
      if (!backend) throw new Error(cuda.reason!());
      return backend;
    },
  }));
}

const otherBackends = async (): Promise<ConformanceBackend[]> => [
  { name: "reference f64", exact: true, open: async () => openReference("f64"), skip: "" },
  { name: "reference f32", exact: true, open: async () => openReference("f32"), skip: "" },
  ...cpuBackends(),
  ...(await webgpuBackends()),
];

export const conformanceBackends: ConformanceBackend[] =
  process.env.LOWRANK_TEST_CUDA === "1" ? cudaBackends() : await otherBackends();

/** WebGPU as on a real card, where the machine's adapter is a program on the CPU and so makes products otherwise. */
export const cardProducts: ConformanceBackend[] =
  process.env.LOWRANK_TEST_CUDA === "1" ? [] : await cardProductBackends();

async function cardProductBackends(): Promise<ConformanceBackend[]> {
  const adapter = await findAdapter();
  if (!adapter || subgroupLanes(adapter) === 0) return [];
  const tiers: Tier[] = adapter.features.has("shader-f16") ? ["f32", "f16"] : ["f32"];
  return tiers.map((tier) => ({
    name: `webgpu ${tier}, a card's products`,
    exact: tier === "f32",
    skip: "",
    open: async () => (await openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16", lanes: 0 }))!,
  }));
}

/** Those held to transformers' own numbers. */
export const exactBackends = conformanceBackends.filter((backend) => backend.exact);
