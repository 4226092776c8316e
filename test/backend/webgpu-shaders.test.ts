// Every shader of every tier compiles: the kernel cases run on Dawn's null backend, which checks shaders, bindings and
// limits (the least that WebGPU allows) and computes nothing. Needs npm `webgpu`, but no GPU.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import type { Tier } from "../../src/backend/webgpu/device.ts";
import { openWebGpu, webgpu } from "../../src/backend/webgpu.ts";
import { kernelCases } from "../conformance/cases/index.ts";
import { Stage } from "../conformance/stage.ts";

const dawn = ["backend=null", "enable-dawn-features=allow_unsafe_apis"];
const matrix = { m: 16, n: 16, k: 16, subgroupSize: 32 };

async function openNull(tier: Tier): Promise<Backend | null> {
  return openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16", dawn, matrix });
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
