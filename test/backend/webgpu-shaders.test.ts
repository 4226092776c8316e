// Every shader of every tier compiles: the kernel cases run on Dawn's null backend, which checks shaders, bindings and
// limits (the least that WebGPU allows) and computes nothing; and, for what only larger devices choose (tiles, tuned or not,
// matrices of other shapes), on a device that counts, whose shaders the null backend reads. Needs npm `webgpu`, but no GPU.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { countingDevice, openedCounting } from "../../src/backend/webgpu/counting-device.ts";
import { withoutChecks } from "../../src/backend/webgpu/dawn.ts";
import { type MatrixShape, openDevice, type Tier } from "../../src/backend/webgpu/device.ts";
import { Pipelines } from "../../src/backend/webgpu/pipelines.ts";
import { TileChoices } from "../../src/backend/webgpu/tile-choices.ts";
import { tileCount } from "../../src/backend/webgpu/tiles.ts";
import { backendOf, findAdapter, openWebGpu, partsOn, webgpu } from "../../src/backend/webgpu.ts";
import { kernelCases } from "../conformance/cases/index.ts";
import { Stage } from "../conformance/stage.ts";

const dawn = ["backend=null", "enable-dawn-features=allow_unsafe_apis"];
const matrix = { m: 16, n: 16, k: 16, subgroupSize: 32 };

async function openNull(tier: Tier, lanes = 0): Promise<Backend | null> {
  return openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16", dawn, matrix, lanes });
}

const probe = await openNull("f32");
const skip = probe ? "" : webgpu.reason!();
probe?.close();

for (const tier of ["f32", "f16", "matrix"] satisfies Tier[]) {
  describe.skipIf(skip)(`shaders of tier ${tier}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = (await openNull(tier))!;
    });
    afterAll(() => backend?.close());

    it("compile and fit WebGPU's least limits", async () => {
      for (const kernelCase of kernelCases) {
        const stage = new Stage(backend, false);
        await kernelCase.run(stage);
        stage.free();
      }
      expect(backend.liveBytes).toBe(0);
    });

    it.each([6, 48, 64, 80, 96, 128, 256, 512])(
      "attention of width %i, forward and backward",
      async (width) => {
        const s = new Stage(backend, false);
        const [q, k, v, out, dOut, dq] = Array.from({ length: 6 }, () => s.zeros([90, 2, width]));
        const lse = s.zeros([90, 2]);
        const segments = s.segments([[90, 90]]);
        s.backend.attention({
          q: q!,
          k: k!,
          v: v!,
          segments,
          scale: 1,
          window: 0,
          softcap: 0,
          sinks: undefined,
          out: out!,
          lse,
        });
        const [dk, dv] = [s.zeros([90, 2, width]), s.zeros([90, 2, width])];
        s.backend.attentionBackward({
          q: q!,
          k: k!,
          v: v!,
          out: out!,
          lse,
          dOut: dOut!,
          segments,
          scale: 1,
          window: 0,
          dq: dq!,
          dk,
          dv,
          ...{ dSinks: undefined, softcap: 0, sinks: undefined },
        });
        await s.read(dv);
        s.free();
      },
    );
  });
}

/** Matrices as NVIDIA's, AMD's and Intel's drivers offer them. */
const shapes: readonly MatrixShape[] = [
  { m: 16, n: 16, k: 16, subgroupSize: 32 },
  { m: 16, n: 8, k: 16, subgroupSize: 32 },
  { m: 16, n: 16, k: 16, subgroupSize: 64, controls: true },
  { m: 8, n: 16, k: 16, subgroupSize: 16, controls: true },
];
const large = [
  ...(["f32", "f16"] as const).map((tier) => ({ name: tier, tier, shape: undefined })),
  ...shapes.map((shape) => ({
    name: `matrix ${shape.m}x${shape.n}x${shape.k}, subgroups of ${shape.subgroupSize}`,
    tier: "matrix" as const,
    shape,
  })),
];

describe.skipIf(skip)("products of a subgroup each", () => {
  it.each([4, 8, 16])("compile for subgroups of %i lanes", async (lanes) => {
    const backend = (await openNull("f16", lanes))!;
    for (const { product, run } of kernelCases) {
      if (!product) continue;
      const stage = new Stage(backend, false);
      await run(stage);
      stage.free();
    }
    expect(backend.liveBytes).toBe(0);
    backend.close();
  });
});

describe.skipIf(skip)("shaders of large devices", () => {
  it.each(large)("compile with every tile: $name", async ({ tier, shape }) => {
    const adapter = (await findAdapter(dawn))!;
    const features = [
      "shader-f16",
      "subgroups",
      "subgroup-size-control",
      "chromium-experimental-subgroup-matrix",
    ];
    const reader = await adapter.requestDevice({ requiredFeatures: features as GPUFeatureName[] });
    const { device } = countingDevice();
    const modules = new Map<string, GPUShaderModule>();
    device.createShaderModule = ({ code }) => {
      if (!modules.has(code)) modules.set(code, reader.createShaderModule({ code }));
      return {} as GPUShaderModule;
    };
    const opened = { ...openedCounting(device, tier), matrix: shape };
    const gpu = partsOn(opened);
    const backend = backendOf(opened, gpu);
    // Every tile of each tier; of further shapes of matrices the usual one and the first, which differ in the shape alone.
    const places = shape && shape !== shapes[0] ? 1 : tileCount();
    for (let place = -1; place < places; place++) {
      gpu.tiles = place < 0 ? new TileChoices() : TileChoices.forced(place);
      for (const { product, run } of kernelCases) {
        if (place >= 0 && !product) continue; // tiles are the products
        const stage = new Stage(backend, false);
        await run(stage);
        stage.free();
      }
    }
    expect(modules.size).toBeGreaterThan(60);
    const problems = [];
    for (const [code, module] of modules) {
      const { messages } = await module.getCompilationInfo();
      for (const { type, message, lineNum } of messages)
        if (type === "error") problems.push(`${message} in ${code.split("\n")[lineNum - 1]}`);
    }
    expect(problems).toEqual([]);
    reader.destroy();
  });
});

describe.skipIf(skip)("without Dawn's checks, as at work", () => {
  const options = ["backend=null", `enable-dawn-features=allow_unsafe_apis,${withoutChecks}`];

  it("memory that is not there is one sentence", async () => {
    const backend = (await openWebGpu({ precision: "fp32", dawn: options }))!;
    const fill = () => {
      for (let i = 0; i < 64; i++) backend.allocate(2 ** 26, "activations");
    };
    expect(fill).toThrow(/the GPU is out of memory .*--resume/);
    backend.close();
  });

  it("a shader that is refused is told of and not used", async () => {
    const { device, failure } = await openDevice((await findAdapter(options))!, "fp32");
    const pipelines = new Pipelines(device, failure);
    const wrong = () => pipelines.get("wrong", () => ({ files: ["fill"], aliases: { Wrong: "nonsense" } }));
    expect(wrong).toThrow(/refused a command.*nonsense/s);
    failure.close();
    device.destroy();
  });
});
