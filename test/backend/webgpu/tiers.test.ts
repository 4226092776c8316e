// Which tier an adapter's word leads to, and what `lowrank devices` says is missing for the next, with adapters made up after
// those of several vendors; and that kernels on subgroup matrices compile where the size of a subgroup must be asked for.

import { afterAll, describe, expect, it } from "vitest";
import { firstAdapter } from "../../../src/backend/webgpu/adapters.ts";
import {
  chooseTier,
  matrixOffer,
  matrixShape,
  nextTier,
  openDevice,
  subgroupLanes,
} from "../../../src/backend/webgpu/device.ts";
import { shaderText } from "../../../src/backend/webgpu/pipelines.ts";
import { descriptionOf, openWebGpu, webgpu } from "../../../src/backend/webgpu.ts";
import { adapterLines } from "../../../src/cli/devices.ts";
import { kernelCases } from "../../conformance/cases/index.ts";
import { Stage } from "../../conformance/stage.ts";

const matrices = "chromium-experimental-subgroup-matrix";
type Config = readonly [string, string, number, number, number];

function adapter(
  description: string,
  features: readonly string[],
  [least, most]: readonly [number, number],
  configs: readonly Config[] = [],
): GPUAdapter {
  const info = {
    ...{ vendor: "", architecture: "", device: "", description, isFallbackAdapter: false },
    ...{ subgroupMinSize: least, subgroupMaxSize: most },
    subgroupMatrixConfigs: configs.map(([componentType, resultComponentType, M, N, K]) => ({
      ...{ componentType, resultComponentType, M, N, K },
    })),
  };
  const limits = {
    ...{ maxBufferSize: 2 ** 32, maxStorageBufferBindingSize: 2 ** 31 - 4 },
    ...{ maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024 },
  };
  return { info, features: new Set(features), limits } as unknown as GPUAdapter;
}

const all = ["shader-f16", "subgroups", matrices, "subgroup-size-control"];
const wide: Config = ["f16", "f32", 16, 16, 16];
const adapters = {
  nvidia: adapter("NVIDIA", all, [32, 32], [["f16", "f16", 16, 16, 16], ["f16", "f32", 16, 8, 8], wide]),
  oldNvidia: adapter("NVIDIA, old driver", ["subgroups"], [32, 32]),
  amd: adapter("AMD", all, [32, 64], [wide]),
  amdWithout: adapter("AMD, other driver", all.slice(0, 3), [32, 64], [wide]),
  apple: adapter(
    "Apple",
    all.slice(0, 3),
    [32, 32],
    [
      ["f32", "f32", 8, 8, 8],
      ["f16", "f16", 8, 8, 8],
    ],
  ),
  d3d12: adapter("NVIDIA over Direct3D 12", ["shader-f16", "subgroups"], [32, 32]),
  wideOnly: adapter("64 lanes at least", all, [64, 128], [wide]),
  silent: adapter("no sizes", all.slice(0, 3), [0, 0], [wide]),
};

describe("an adapter's tier", () => {
  it.each([
    ["nvidia", "matrix", undefined],
    ["oldNvidia", "f32", ["f16", /shader-f16/]],
    ["amd", "matrix", undefined],
    ["amdWithout", "f16", ["matrix", /subgroup-size-control.* 32 to 64 lanes/]],
    ["apple", "f16", ["matrix", /f16 summed in f32.*offered are f32 to f32 8x8x8, f16 to f16 8x8x8/]],
    ["d3d12", "f16", ["matrix", /chromium-experimental-subgroup-matrix.*Vulkan/]],
    ["wideOnly", "matrix", undefined],
    ["silent", "f16", ["matrix", /size of subgroups/]],
  ] as const)("of %s is %s", (name, tier, next) => {
    const one = adapters[name];
    expect(chooseTier(one, "auto", matrixShape(one))).toBe(tier);
    const found = nextTier(one);
    expect(found?.tier).toBe(next?.[0]);
    if (next) expect(found!.missing).toMatch(next[1]);
    const description = descriptionOf(one);
    expect(description).toMatchObject({ tier, ...(found ? { nextTier: found } : {}) });
    const lines = adapterLines(description).join("\n");
    expect(lines).toContain(`tier ${tier}`);
    if (found) expect(lines).toContain(`not ${found.tier}: it lacks ${found.missing}`);
    else expect(lines).not.toContain("it lacks");
  });

  it("takes the largest matrices, in subgroups of 32 where there is a choice", () => {
    expect(matrixOffer(adapters.nvidia)).toEqual({ m: 16, n: 16, k: 16, subgroupSize: 32 });
    expect(matrixOffer(adapters.amd)).toEqual({ m: 16, n: 16, k: 16, subgroupSize: 32, controls: true });
    expect(matrixOffer(adapters.wideOnly)).toMatchObject({ subgroupSize: 64, controls: true });
  });

  it("makes products a subgroup at a time on programs alone, where all subgroups have a size that kernels know", () => {
    const lanes = (description: string, sizes: [number, number], features = ["subgroups"]) =>
      subgroupLanes(adapter(description, features, sizes));
    expect(lanes("llvmpipe (LLVM 15.0.6, 256 bits)", [8, 8])).toBe(8);
    expect(lanes("SwiftShader Device", [4, 4])).toBe(4);
    expect(lanes("llvmpipe", [8, 16])).toBe(0);
    expect(lanes("llvmpipe", [8, 8], [])).toBe(0);
    expect(lanes("llvmpipe", [32, 32])).toBe(0);
    expect(lanes("AMD", [8, 8])).toBe(0);
  });

  it("asks a device for what its tier needs", async () => {
    const asked = async (one: GPUAdapter) => {
      let features: readonly string[] = [];
      const device = { addEventListener() {}, lost: new Promise(() => {}) };
      const requestDevice = async (descriptor: GPUDeviceDescriptor) => {
        features = [...descriptor.requiredFeatures!];
        return device;
      };
      await openDevice({ ...one, requestDevice } as unknown as GPUAdapter, "auto");
      return features;
    };
    expect(await asked(adapters.amd)).toEqual(all);
    expect(await asked(adapters.nvidia)).toEqual(all.slice(0, 3));
    expect(await asked(adapters.apple)).toEqual(["shader-f16"]);
  });
});

describe("which of several WebGPUs", () => {
  const ways = (found: Record<string, GPUAdapter | null>) => ({
    names: Object.keys(found),
    open: async (name: string) => found[name] ?? null,
  });
  const first = async (found: Record<string, GPUAdapter | null>) => {
    const { names, open } = ways(found);
    return (await firstAdapter(names, open))?.info.description;
  };

  it("takes the first that offers tensor cores, else the last that offers anything", async () => {
    const { nvidia, d3d12, oldNvidia } = adapters;
    expect(await first({ vulkan: nvidia, d3d12 })).toBe(nvidia.info.description);
    expect(await first({ vulkan: oldNvidia, d3d12 })).toBe(d3d12.info.description);
    expect(await first({ vulkan: null, d3d12 })).toBe(d3d12.info.description);
    expect(await first({ vulkan: oldNvidia, d3d12: null })).toBe(oldNvidia.info.description);
    expect(await first({ vulkan: null, d3d12: null })).toBeUndefined();
  });
});

const dawn = ["backend=null", "enable-dawn-features=allow_unsafe_apis"];
const matrix = { m: 16, n: 16, k: 16, subgroupSize: 32, controls: true as const };
const backend = await openWebGpu({ precision: "fp16", dawn, matrix });
const skip = backend ? "" : webgpu.reason!();
afterAll(() => backend?.close());

it("is written into kernels on matrices, and into no others", () => {
  const extensions = ["f16", "subgroups", "chromium_experimental_subgroup_matrix"];
  const asked = shaderText({ files: ["gemm-matrix"], extensions }, 64);
  expect(asked).toContain("enable subgroup_size_control;");
  expect(asked).toMatch(/@compute @subgroup_size\(64\) @workgroup_size/);
  expect(shaderText({ files: ["gemm-matrix"], extensions })).not.toContain("subgroup_size");
  expect(shaderText({ files: ["fill"] }, 64)).not.toContain("subgroup_size");
});

describe.skipIf(skip)(`subgroups of a size that is asked for${skip ? ` (skipped: ${skip})` : ""}`, () => {
  it("compile in every kernel on matrices", async () => {
    const chosen = kernelCases.filter(({ product, attention }) => product || attention);
    for (const { run } of chosen) {
      const stage = new Stage(backend!, false);
      await run(stage);
      stage.free();
    }
    expect(backend!.liveBytes).toBe(0);
  });
});
