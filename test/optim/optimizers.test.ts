// Every registered optimizer on device memory: 8-bit AdamW against its definition on plain arrays and against 32 bits,
// and each of them with its state paged to a file, which must change nothing.

import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { FlatParameters } from "../../src/nn/parameters.ts";
import { adamw8bitStep, zeroMoments } from "../../src/optim/adamw-8bit-reference.ts";
import { hostState } from "../../src/optim/host-paging.ts";
import { optimizerNames, optimizers } from "../../src/optim/index.ts";
import type { OptimizerFactory } from "../../src/optim/optimizer.ts";
import { pagedState, type StateMemory } from "../../src/optim/paging.ts";
import { viewOf } from "../../src/tensor/tensor.ts";
import { UserError } from "../../src/util/errors.ts";
import { exactBackends } from "../conformance/backends.ts";
import { floatsOf } from "../golden/load-golden.ts";
import {
  loadAdamw8bitGolden,
  loadOptimizerGolden,
  optimizerGradients,
  optimizerParams,
} from "../golden/typed-goldens.ts";

/** Those whose trajectories torch, or its users' reference code, has written down. */
const goldenOptimizers = optimizerNames.filter((name) => name !== "adamw8bit");

const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-paging-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Trains parameters of these sizes on gradients that depend on the step alone; returns them and the state's bytes. */
async function run(
  backend: Backend,
  make: OptimizerFactory,
  sizes: readonly number[],
  steps: number,
  memory?: StateMemory,
) {
  const flat = new FlatParameters(
    backend,
    sizes.map((size, i) => ({ name: `p${i}`, shape: [size] })),
    "adapters",
  );
  for (const [i, entry] of flat.entries.entries()) flat.set(entry, gradients(sizes[i]!, 0, 100 + i));
  const optimizer = make(backend, flat, options, memory);
  for (let step = 1; step <= steps; step++) {
    const grads = new FlatParameters(
      backend,
      flat.entries.map(({ name, tensor }) => ({ name, shape: tensor.shape })),
      "adapters",
      false,
    );
    for (const [i, entry] of grads.entries.entries()) grads.set(entry, gradients(sizes[i]!, step, i));
    backend.fill({ y: flat.grad, value: 0 });
    backend.addInPlace({ x: grads.data, y: flat.grad });
    grads.free();
    await optimizer.update(step, 1e-3, undefined);
  }
  const params = await Promise.all(flat.entries.map((entry) => flat.read(entry)));
  const state = await Promise.all(optimizer.state().map(({ tensor, store }) => store.read(tensor.buffer)));
  optimizer.free();
  flat.free();
  return { params, state };
}

/** Uniform in +-0.1; the Weyl sequence of the golden ratio, because millions of them are wanted. */
function gradients(size: number, step: number, i: number): Float32Array {
  const values = new Float32Array(size);
  for (let at = 0, word = (31 * step + i) * 7919; at < size; at++) {
    word = (word + 0x9e3779b9) >>> 0;
    values[at] = word / 2 ** 32 / 5 - 0.1;
  }
  return values;
}

for (const { name, open, skip } of exactBackends) {
  describe.skipIf(skip)(`optimizers on ${name}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    it.each(goldenOptimizers)("%s: ten steps are torch's, clipped and not", async (optimizerName) => {
      const { cases, steps } = loadOptimizerGolden(optimizerName);
      for (const [caseName, row] of Object.entries(cases)) {
        const flat = new FlatParameters(backend, [{ name: "p", shape: [row.count] }], "adapters");
        flat.set(flat.entries[0]!, optimizerParams(row));
        const optimizer = optimizers[optimizerName](backend, flat, row);
        const [sumSquares, factor] = [8, 8].map((sizeBytes) =>
          viewOf(backend.allocate(sizeBytes, "workspace"), [1], backend.floatType),
        ) as [Tensor, Tensor];
        const wanted = floatsOf(row.params);
        const scale = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
        for (let step = 1; step <= steps; step++) {
          const gradient = new FlatParameters(
            backend,
            [{ name: "p", shape: [row.count] }],
            "adapters",
            false,
          );
          gradient.set(gradient.entries[0]!, optimizerGradients(row, step));
          backend.fill({ y: flat.grad, value: 0 });
          backend.addInPlace({ x: gradient.data, y: flat.grad });
          backend.sumSquares({ x: flat.grad, out: sumSquares });
          if (row.maxGradNorm !== null) {
            backend.fill({ y: factor, value: 1 });
            backend.clipFactor({ sumSquares, losses: sumSquares, maxNorm: row.maxGradNorm, factor });
          }
          await optimizer.update(step, row.learningRate, row.maxGradNorm === null ? undefined : factor);
          gradient.free();
          const found = await flat.read(flat.entries[0]!);
          const expected = wanted.subarray((step - 1) * row.count, step * row.count);
          // float32's own rounding over ten steps; torch's is in the golden.
          const tolerance = Math.max(2e-6, 4 * row.float32Deviation) * scale;
          expect(largest(found, expected), `${caseName}, step ${step}`).toBeLessThan(tolerance);
        }
        optimizer.free();
        flat.free();
        backend.free(sumSquares.buffer);
        backend.free(factor.buffer);
      }
    });

    it("adamw8bit: each large tensor follows the definition, each small one plain AdamW", async () => {
      const before = backend.liveBytes;
      const sizes = [4096, 100, 10_000, 4095];
      const { params } = await run(backend, optimizers.adamw8bit, sizes, 5);
      const plain = await run(backend, optimizers.adamw, sizes, 5);
      for (const [i, size] of sizes.entries()) {
        if (size < 4096) {
          expect(params[i]).toEqual(plain.params[i]);
          continue;
        }
        const expected = gradients(size, 0, 100 + i);
        const moments = zeroMoments(size);
        for (let step = 1; step <= 5; step++) {
          adamw8bitStep(expected, gradients(size, step, i), moments, {
            ...options,
            learningRate: 1e-3,
            step,
          });
        }
        // A moment that another rounding puts on the other side of a midpoint moves its own element by up to a
        // fraction of one step.
        expect(largest(params[i]!, expected)).toBeLessThan(1e-4);
        const moved = expected.reduce(
          (sum, value, at) => sum + Number(Math.abs(value - params[i]![at]!) > 1e-6),
          0,
        );
        expect(moved / size).toBeLessThan(1e-3);
      }
      expect(backend.liveBytes).toBe(before);
    });

    it("adamw8bit: ten steps stay within the noise of its 8 bits around bitsandbytes' own", async () => {
      for (const row of Object.values(loadAdamw8bitGolden().cases)) {
        // The golden's 700 elements, eight times over, to be large enough for 8 bits in a flat buffer.
        const count = 2048 * 4;
        const repeat = (values: Float32Array) =>
          Float32Array.from({ length: count }, (_, i) => values[i % 700]!);
        const flat = new FlatParameters(backend, [{ name: "p", shape: [count] }], "adapters");
        const gradient = new FlatParameters(backend, [{ name: "p", shape: [count] }], "adapters", false);
        flat.set(flat.entries[0]!, repeat(optimizerParams(row)));
        const optimizer = optimizers.adamw8bit(backend, flat, row);
        const start = optimizerParams(row);
        for (let step = 1; step <= 10; step++) {
          gradient.set(gradient.entries[0]!, repeat(optimizerGradients(row, step)));
          backend.fill({ y: flat.grad, value: 0 });
          backend.addInPlace({ x: gradient.data, y: flat.grad });
          await optimizer.update(step, row.learningRate, undefined);
        }
        const [actual, exact] = [await flat.read(flat.entries[0]!), trajectoryIn32Bits(row, start)];
        let squares = 0;
        for (let i = 0; i < 700; i++) squares += ((actual[i]! - exact[i]!) / row.learningRate) ** 2;
        expect(Math.sqrt(squares / 700)).toBeLessThan(0.25); // steps of the learning rate, after ten of them
        optimizer.free();
        gradient.free();
        flat.free();
      }
    });
  });
}

/** The same ten steps with moments that are never rounded. */
function trajectoryIn32Bits(
  row: Parameters<typeof optimizerGradients>[0],
  start: Float32Array,
): Float64Array {
  const { beta1, beta2, epsilon, learningRate, weightDecay } = row;
  const params = Float64Array.from(start);
  const [m, v] = [new Float64Array(params.length), new Float64Array(params.length)];
  for (let step = 1; step <= 10; step++) {
    const grads = optimizerGradients(row, step);
    for (let i = 0; i < params.length; i++) {
      m[i] = beta1 * m[i]! + (1 - beta1) * grads[i]!;
      v[i] = beta2 * v[i]! + (1 - beta2) * grads[i]! ** 2;
      const root = Math.sqrt(v[i]! / (1 - beta2 ** step)) + epsilon;
      params[i] =
        params[i]! * (1 - learningRate * weightDecay) - (learningRate * m[i]!) / (1 - beta1 ** step) / root;
    }
  }
  return params;
}

function largest(actual: Float32Array, expected: Float32Array): number {
  return actual.reduce((worst, value, i) => Math.max(worst, Math.abs(value - expected[i]!)), 0);
}

describe("paged state", () => {
  const cpu = exactBackends.find(({ name, skip }) => name.startsWith("cpu") && !skip);

  describe.each(Object.entries(optimizers))("%s", (_, make) => {
    it.skipIf(!cpu).each([0, 1_000_000, 8_000_000])(
      "budget of %i bytes changes nothing",
      async (budgetBytes) => {
        const backend = await cpu!.open();
        // More than one piece of 4 Mi elements, and a tail.
        const sizes = [4_300_001, 300, 70_000];
        const memory = pagedState(backend, backend.paging!, { folder, budgetBytes });
        const paged = await run(backend, make, sizes, 2, memory);
        const resident = await run(backend, make, sizes, 2);
        expect(memory.pagedBytes > 0).toBe(budgetBytes < 8_600_000 || make === optimizers.adamw);
        expect(paged.params.map(hash)).toEqual(resident.params.map(hash));
        expect(paged.state.map(hash)).toEqual(resident.state.map(hash));
        expect(backend.liveBytes).toBe(0);
        expect(readdirSync(folder)).toEqual([]);
        backend.close();
      },
    );
  });

  it.skipIf(!cpu)("counts in the ledger only what stays in memory", async () => {
    const backend = await cpu!.open();
    const memory = pagedState(backend, backend.paging!, { folder, budgetBytes: 1000 });
    const buffers = [memory.allocate(600), memory.allocate(10_000_000), memory.allocate(100)];
    expect(backend.ledger().live.optimizer).toBe(1000);
    expect(memory.pagedBytes).toBe(10_000_100 - 400);
    for (const buffer of buffers) backend.free(buffer);
    expect(backend.liveBytes).toBe(0);
    backend.close();
  });

  it.skipIf(!cpu)("a disk without room, or no folder, is a clear error and leaves nothing", async () => {
    const backend = await cpu!.open();
    const { bavail, bsize } = statfsSync(folder);
    const memory = pagedState(backend, backend.paging!, { folder, budgetBytes: 0 });
    const attempt = () => memory.allocate(bavail * bsize * 2);
    expect(attempt).toThrow(UserError);
    expect(attempt).toThrow(/cannot be set aside in .*(no room|larger than the file system)/);
    const nowhere = pagedState(backend, backend.paging!, { folder: join(folder, "none"), budgetBytes: 0 });
    expect(() => nowhere.allocate(4096)).toThrow(/there is no such folder/);
    expect(readdirSync(folder)).toEqual([]);
    backend.close();
  });
});

describe("state in the host's memory", () => {
  const shown = exactBackends.filter(({ name }) => /^(cpu|webgpu|reference f32)/.test(name));
  describe.each(shown)("of $name", ({ open, skip }) => {
    let backend: Backend;
    beforeAll(async () => {
      if (!skip) backend = await open();
    });
    afterAll(() => backend?.close());

    describe.each(Object.entries(optimizers))("%s", (_, make) => {
      // Nothing kept, a part of the first tensor kept, the first and a part of the second, everything.
      it.skipIf(skip).each([0, 300_000, 1_000_000, 8_000_000])(
        "budget of %i bytes changes nothing",
        async (budgetBytes) => {
          // Several pieces and a tail, and a tensor that 8-bit AdamW keeps in f32.
          const sizes = [200_001, 300, 40_000];
          const before = backend.liveBytes;
          const memory = hostState(backend, { budgetBytes, pieceElements: 65_536 });
          const paged = await run(backend, make, sizes, 2, memory);
          const resident = await run(backend, make, sizes, 2);
          expect(paged.params.map(hash)).toEqual(resident.params.map(hash));
          expect(paged.state.map(hash)).toEqual(resident.state.map(hash));
          expect(memory.pagedBytes).toBe(0);
          expect(backend.liveBytes).toBe(before);
        },
      );
    });
  });

  it("counts on the device what stays there, and reads and writes across the edge", async () => {
    const backend = openReference("f32");
    const memory = hostState(backend, { budgetBytes: 100_000 });
    const buffers = [memory.allocate(150_000), memory.allocate(1000)];
    expect(backend.ledger().live.optimizer).toBe(65_536 + 1000);
    expect(memory.pagedBytes).toBe(150_000 - 65_536);
    memory.write(buffers[0]!, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 65_532);
    expect([...(await memory.read(buffers[0]!, 65_528, 16))]).toEqual([
      ...[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
    ]);
    for (const buffer of buffers) memory.free(buffer);
    expect(memory.pagedBytes + backend.liveBytes).toBe(0);
    backend.close();
  });

  it("has at most two pieces of each tensor on the device", async () => {
    const backend = openReference("f32");
    const memory = hostState(backend, { budgetBytes: 0, pieceElements: 16_384 });
    await run(backend, optimizers.adamw, [100_000], 1, memory);
    expect(backend.ledger().atPeak.optimizer).toBeLessThanOrEqual(2 * 2 * 65_536);
    backend.close();
  });

  it("more than the machine has left is refused before it is taken", () => {
    const memory = hostState(openReference("f32"), { budgetBytes: 0, availableBytes: 1e6 });
    memory.allocate(600_000);
    expect(() => memory.allocate(600_000)).toThrow(UserError);
    expect(() => memory.allocate(600_000)).toThrow(/--paged: 0.00 GB.* left; use --optimizer adamw8bit/);
  });
});

function hash(values: Float32Array | Uint8Array): string {
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return createHash("sha256").update(bytes).digest("hex");
}
