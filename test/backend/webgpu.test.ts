// What conformance cases do not reach on WebGPU: weights in f16, tensors larger than a binding, views off alignment, uploads
// of odd lengths, aliased operands, failures told clearly, and a process that ends by itself. Runs on any adapter.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { Failure, matrixShape, openDevice, type Tier } from "../../src/backend/webgpu/device.ts";
import { findAdapter, openWebGpu, webgpu } from "../../src/backend/webgpu.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../../src/quant/dynamic-map.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { rows } from "../../src/tensor/tensor.ts";
import { UserError } from "../../src/util/errors.ts";
import { kernelCases } from "../conformance/cases/index.ts";
import { Stage } from "../conformance/stage.ts";

const adapter = await findAdapter();
const skip = adapter ? "" : webgpu.reason!();
if (skip && process.env.LOWRANK_REQUIRE_WEBGPU === "1") throw new Error(skip);
const half = adapter?.features.has("shader-f16") ?? false;
const tiers: Tier[] = ["f32", ...(half ? (["f16"] as const) : [])];
if (half && matrixShape(adapter!)) tiers.push("matrix");

/** Largest difference over the largest magnitude expected. */
function difference(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-6);
  return expected.reduce((worst, x, i) => Math.max(worst, Math.abs(actual[i]! - x)), 0) / scale;
}

// Sums in f32 over a few hundred products of numbers that both sides hold exactly.
const sumTolerance = 2e-5;
/** Inputs rounded to f16 (11 bits), and in attention's gradients the weights between. */
const halfTolerance = 4e-3;

describe.skipIf(skip)(`WebGPU${skip ? ` (skipped: ${skip})` : ""}`, () => {
  let backend: Backend;
  beforeAll(async () => {
    backend = (await openWebGpu({ precision: "fp32" }))!;
  });
  afterAll(() => backend?.close());

  /** The same computation on this device and on the reference. */
  async function compare(run: (s: Stage) => Promise<Float32Array>, on = backend, tolerance = sumTolerance) {
    const [stage, reference] = [new Stage(on), new Stage(openReference("f64"))];
    expect(difference(await run(stage), await run(reference))).toBeLessThan(tolerance);
    stage.free();
  }

  it.each(tiers)("multiplies by f16 weights in tier %s", async (tier) => {
    const device = (await openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16" }))!;
    for (const [tokens, inputs, outputs] of [
      [1, 64, 40],
      [3, 65, 33],
      [70, 96, 130],
    ] as const) {
      await compare(
        async (s) => {
          const x = s.random([tokens, inputs], 1);
          const weight = s.random([outputs, inputs], 2, 1, "f16");
          const [y, dy, dx] = [
            s.zeros([tokens, outputs]),
            s.random([tokens, outputs], 3),
            s.zeros([tokens, inputs]),
          ];
          s.backend.linear(x, [{ weight, y }]);
          s.backend.linearBackward(undefined, [{ weight, dy }], dx, false);
          return Float32Array.from([...(await s.read(y)), ...(await s.read(dx))]);
        },
        device,
        tier === "matrix" ? halfTolerance : sumTolerance,
      );
    }
    device.close();
  });

  it("makes random numbers in f16, as `bench` on a config.json does", async () => {
    await compare(async (s) => {
      const y = s.zeros([1003], "f16");
      s.backend.fillUniform({ y, bound: 0.3, seed: 2 ** 40 + 12345, stream: 7 });
      return s.read(y);
    });
  });

  // f16 holds 6e-5 to 65504 with all its digits. Gradients and activations leave that range; products must not notice.
  it.each(tiers)("keeps gradients of 1e-9 and activations of 1e6 in tier %s", async (tier) => {
    const device = (await openWebGpu({ tier, precision: tier === "f32" ? "fp32" : "fp16" }))!;
    for (const [activation, gradient] of [
      [1, 1e-9],
      [1e6, 1e3],
    ] as const) {
      await compare(
        async (s) => {
          const x = s.random([80, 96], 1, activation);
          const weight = s.random([128, 96], 2, 0.1);
          const dy = s.random([80, 128], 3, gradient);
          const [y, dx, dWeight] = [s.zeros([80, 128]), s.zeros([80, 96]), s.zeros([128, 96])];
          s.backend.linear(x, [{ weight, y }]);
          s.backend.linearBackward(x, [{ weight, dy, dWeight }], dx, false);
          const parts = [];
          for (const [tensor, size] of [
            [y, activation],
            [dx, gradient],
            [dWeight, activation * gradient],
          ] as const)
            parts.push(...(await s.read(tensor)).map((value) => value / size));
          return Float32Array.from(parts);
        },
        device,
        halfTolerance,
      );
    }
    await compare(
      async (s) => {
        const shape = [80, 2, 32];
        const [q, k, v, dOut] = [1, 2, 3, 4].map((seed) => s.random(shape, seed, seed === 4 ? 1e-9 : 1));
        const [out, dq, dk, dv] = Array.from({ length: 4 }, () => s.zeros(shape));
        const lse = s.zeros([80, 2]);
        const segments = s.segments([[80, 80]]);
        s.backend.attention({
          q: q!,
          k: k!,
          v: v!,
          segments,
          scale: 0.2,
          window: 0,
          softcap: 0,
          sinks: undefined,
          out: out!,
          lse,
        });
        s.backend.attentionBackward({
          q: q!,
          k: k!,
          v: v!,
          out: out!,
          lse,
          dOut: dOut!,
          segments,
          scale: 0.2,
          window: 0,
          dq: dq!,
          dk: dk!,
          dv: dv!,
          ...{ dSinks: undefined, softcap: 0, sinks: undefined },
        });
        const parts = [...(await s.read(dq!)), ...(await s.read(dk!)), ...(await s.read(dv!))];
        return Float32Array.from(parts, (value) => value / 1e-9);
      },
      device,
      halfTolerance,
    );
    device.close();
  });

  // Binding limits, and the cases whose tensors are larger; 16 rows, or one of logits, must still fit. Each case compiles
  // pipelines of its own, which costs a software adapter seconds: one case a kind of kernel is enough.
  it.each([
    [
      "element by element",
      8192,
      /^(fill|addInPlace|scaleInPlace|gatedActivation|gatedActivationBackward) n=4099(?!.*gelu)/,
    ],
    ["quantising", 8192, /^quantize4bit count=9999, blockSize 64, nf4 f32/],
    [
      "by rows",
      8192,
      /^(rmsNorm n=33|rmsNormBackward n=33.*acc|(gather|scatter)Rows m=33|embedding\w* t=33|rope t=19 heads=4 .* half=32 .* 1)/,
    ],
    ["by rows of logits", 8192, /^crossEntropy n=9 v=1000/],
    ["frozen weights", 8192, /^linear frozen bf16 \[48,96\]/],
    ["trained weights", 8192, /^linear trained \[48,96\]/],
    ["adapters", 8192, /^linear with adapters of rank 8, dropout 0.25.*\[48,96\]/],
    ["4-bit weights", 20_736, /^linear quantised \[70,320\].* blocks of 64, nested/], // 20,800 bytes of codes
    ["slices along the inputs", 130_000, /^linear frozen f32 \[65,516\]/],
  ] as const)("walks tensors larger than a binding in windows: %s", async (_, bindingLimit, pattern) => {
    const small = (await openWebGpu({ precision: "fp32", bindingLimit }))!;
    const cases = kernelCases.filter(({ name }) => pattern.test(name));
    expect(cases.length).toBeGreaterThan(0);
    for (const { name, run } of cases) {
      const [stage, expected] = [new Stage(small), new Stage(openReference("f64"))];
      const actual = await run(stage);
      for (const [key, values] of Object.entries(await run(expected)))
        expect(difference(actual[key]!, values), `${name} ${key}`).toBeLessThan(sumTolerance);
      stage.free();
    }
    small.close();
  });

  it("sums and casts what is larger than a binding", async () => {
    const small = (await openWebGpu({ precision: "fp32", bindingLimit: 40_000 }))!;
    await compare(async (s) => {
      const [x, sum, half] = [s.random([20_001], 1), s.zeros([1]), s.zeros([20_001], "bf16")];
      s.backend.sumSquares({ x, out: sum });
      s.backend.cast({ x, y: half });
      return Float32Array.from([...(await s.read(sum)), ...(await s.read(half))]);
    }, small);
    small.close();
  });

  it("updates 8-bit moments larger than a binding as in one piece", async () => {
    const small = (await openWebGpu({ precision: "fp32", bindingLimit: 8192 }))!;
    const update = async (on: Backend) => {
      const s = new Stage(on);
      const [params, grads] = [s.random([5000], 1), s.random([5000], 2, 0.1)];
      const codes = [s.bytes([5000], new Uint8Array(5000).fill(127)), s.zeros([5000], "u8")] as const;
      const scales = [s.zeros([20]), s.zeros([20])] as const;
      const maps = [s.values([256], signedDynamicMap), s.values([256], unsignedDynamicMap)] as const;
      for (let step = 1; step <= 3; step++) {
        on.adamw8bit({
          ...{ params, grads, mCodes: codes[0], vCodes: codes[1], mAbsmax: scales[0], vAbsmax: scales[1] },
          ...{ mMap: maps[0], vMap: maps[1], step, learningRate: 1e-2, beta1: 0.9, beta2: 0.99 },
          ...{ epsilon: 1e-8, weightDecay: 0.1, factor: undefined },
        });
      }
      const results = await Promise.all([params, ...codes, ...scales].map((tensor) => s.read(tensor)));
      s.free();
      return results;
    };
    expect(await update(small)).toEqual(await update(backend));
    small.close();
  });

  it("refuses attention over more than a binding in a sentence", async () => {
    const small = (await openWebGpu({ precision: "fp32", bindingLimit: 4096 }))!;
    const s = new Stage(small);
    const q = s.zeros([64, 2, 32]);
    const attend = () =>
      small.attention({
        ...{ q, k: q, v: q, segments: s.segments([[64, 64]]), scale: 1, window: 0 },
        ...{ softcap: 0, sinks: undefined },
        ...{ out: s.zeros([64, 2, 32]), lse: s.zeros([64, 2]) },
      });
    expect(attend).toThrow(UserError);
    expect(attend).toThrow(/over 64 tokens .* binds 4096 at a time .*fewer tokens a batch/);
    small.close();
  });

  it("takes views that start anywhere", async () => {
    await compare(async (s) => {
      const x = s.random([9, 7], 1);
      const weight = s.random([11, 7], 2);
      const y = s.zeros([9, 11]);
      // Five rows of seven, from the second element on.
      const part: Tensor = {
        ...y,
        shape: [5, 7],
        byteOffset: y.byteOffset + 4 * (s.backend.floatType === "f64" ? 2 : 1),
      };
      s.backend.linear(rows(x, 2, 7), [{ weight: rows(weight, 3, 10), y: part }]);
      s.backend.addInPlace({ x: rows(x, 1, 4), y: rows(x, 5, 8) });
      s.backend.scaleInPlace({ y: rows(x, 3, 4), factor: 2 });
      return Float32Array.from([...(await s.read(y)), ...(await s.read(x))]);
    });
  });

  it("lets outputs be inputs", async () => {
    await compare(async (s) => {
      const [gate, up] = [s.random([300, 1], 1), s.random([300, 1], 2)];
      s.backend.gatedActivation({ activation: "silu", gate, up, y: gate });
      const [x, y] = [s.random([20, 16], 3), s.random([20, 24], 4)];
      s.backend.linear(x, [{ weight: s.random([24, 16], 5), y, residual: y }]);
      const [w, rstd] = [s.random([16], 6), s.zeros([20])];
      s.backend.rmsNorm({ x, w, shift: 0, epsilon: 1e-5, y: x, rstd });
      return Float32Array.from([...(await s.read(gate)), ...(await s.read(y)), ...(await s.read(x))]);
    });
  });

  it("uploads and reads any number of bytes", async () => {
    const buffer = backend.allocate(16, "workspace");
    backend.write(
      buffer,
      Uint8Array.from({ length: 16 }, (_, i) => i),
    );
    backend.write(buffer, Uint8Array.of(100, 101, 102), 4);
    backend.write(buffer, Uint8Array.of(200), 12);
    expect([...(await backend.read(buffer))]).toEqual([
      0, 1, 2, 3, 100, 101, 102, 7, 8, 9, 10, 11, 200, 13, 14, 15,
    ]);
    expect([...(await backend.read(buffer, 5, 6))]).toEqual([101, 102, 7, 8, 9, 10]);
    const odd = backend.allocate(5, "workspace");
    backend.write(odd, Uint8Array.of(9, 8, 7, 6, 5));
    expect([...(await backend.read(odd))]).toEqual([9, 8, 7, 6, 5]);
    backend.free(buffer);
    backend.free(odd);
  });

  it("reads what was written before, whatever is enqueued after", async () => {
    const stage = new Stage(backend);
    const x = stage.values([4], [1, 2, 3, 4]);
    const first = backend.read(x.buffer, 0, 16);
    backend.scaleInPlace({ y: x, factor: 10 });
    backend.write(x.buffer, encodeFrom([7, 7], "f32"), 8);
    expect([...new Float32Array((await first).buffer)]).toEqual([1, 2, 3, 4]);
    expect([...(await stage.read(x))]).toEqual([10, 20, 7, 7]);
    stage.free();
  });

  it("reuses freed memory and counts what is asked for", () => {
    const before = backend.liveBytes;
    const a = backend.allocate(1000, "activations");
    expect(backend.liveBytes).toBe(before + 1000);
    backend.free(a);
    expect(backend.liveBytes).toBe(before);
    expect(() => backend.free(a)).toThrow("freed");
  });

  it("says clearly that memory is short, bf16 impossible, a device lost", async () => {
    for (const [category, advice] of [
      ["weights", /allows buffers of \d+ bytes .* for weights .*--method lora or qlora/],
      ["activations", /for activations .*smaller --batch-size or --sequence-length/],
    ] as const) {
      expect(() => backend.allocate(2 ** 45, category)).toThrow(UserError);
      expect(() => backend.allocate(2 ** 45, category)).toThrow(advice);
    }
    await expect(openWebGpu({ precision: "bf16" })).rejects.toThrow(/no bf16.*fp16/);
    // A device of its own: an adapter gives one.
    const { device, failure } = await openDevice((await findAdapter())!, "fp32");
    failure.check();
    device.destroy();
    await device.lost;
    expect(() => failure.check()).toThrow(/device was lost.*--resume/);
  });

  it("turns a wrong command into one error", async () => {
    const { device, failure } = await openDevice((await findAdapter())!, "fp32");
    device.createShaderModule({ code: "nonsense" });
    await device.queue.onSubmittedWorkDone();
    expect(() => failure.check()).toThrow(/refused a command/);
    failure.close();
    device.destroy();
    const memory = new Failure(await (await findAdapter())!.requestDevice());
    memory.report({ message: "no bytes left", constructor: { name: "GPUOutOfMemoryError" } });
    expect(() => memory.check()).toThrow(/out of memory.*--resume/);
  });

  const built = new URL("../../dist/backend/webgpu.js", import.meta.url);
  it.skipIf(!existsSync(built))("ends by itself, closed or not, and survives garbage collection", () => {
    for (const ending of ["backend.close();", ""]) {
      const script = `
        const { openWebGpu } = await import(${JSON.stringify(fileURLToPath(built))});
        let backend = await openWebGpu({ precision: "fp32" });
        const buffer = backend.allocate(4096, "workspace");
        for (let i = 0; i < 5; i++) {
          backend.fill({ y: { buffer, byteOffset: 0, shape: [1024], dtype: "f32" }, value: i });
          globalThis.gc();
          await backend.read(buffer);
        }
        ${ending}
        backend = undefined;
        globalThis.gc();
        await new Promise((resolve) => setTimeout(resolve, 50));
        globalThis.gc();
        process.stdout.write("done");`;
      const { status, stdout, signal } = spawnSync(
        process.execPath,
        ["--expose-gc", "--input-type=module", "-e", script],
        { encoding: "utf8", timeout: 60_000 },
      );
      expect({ status, signal, stdout }).toEqual({ status: 0, signal: null, stdout: "done" });
    }
  });
});
