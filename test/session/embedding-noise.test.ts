// NEFTune's noise: its size and distribution, that it is added to the embeddings as if their rows were other ones, in
// training alone, and the same again for the same micro-batch. On every backend: conformance/embedding-noise.test.ts.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { assemble } from "../../src/data/assemble.ts";
import type { Sample } from "../../src/data/render.ts";
import { embeddingNoise } from "../../src/session/embedding-noise.ts";
import { Session } from "../../src/session/session.ts";
import { openGolden, readFloats } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";

const sampleOf = (ids: readonly number[]): Sample => ({
  ids: Int32Array.from(ids),
  targetMask: new Uint8Array(ids.length).fill(1, 1),
  rowId: { file: "rows", line: 1, unit: "line" },
});
const sequence = (length: number, start: number) => Array.from({ length }, (_, t) => (start + 3 * t) % 128);
const samples = [sampleOf(sequence(9, 5)), sampleOf(sequence(14, 2))];

async function openSession(backend: Backend, name: string, neftuneAlpha: number | undefined) {
  const loaded = await openGolden(backend, loadModelGolden(name));
  const recipe = { method: "lora", rank: 4, alpha: 8, targets: "all-linear", optimizer: "adamw" } as const;
  return new Session(loaded, { ...recipe, seed: 3, neftuneAlpha });
}

describe("the noise", () => {
  const width = 64;
  const batch = assemble([sampleOf(sequence(100, 1)), sampleOf(sequence(25, 1))]);
  const noise = embeddingNoise(batch, width, { alpha: 5, seed: 1, pass: 0 });

  it("is uniform up to alpha / sqrt(L d), of each token's own sequence", () => {
    for (const [start, length] of [
      [0, 100],
      [100, 25],
    ] as const) {
      const size = 5 / Math.sqrt(length * width);
      const own = noise.subarray(start * width, (start + length) * width);
      const mean = own.reduce((sum, value) => sum + value, 0) / own.length;
      const variance = own.reduce((sum, value) => sum + value * value, 0) / own.length;
      expect(Math.max(...own)).toBeLessThanOrEqual(size);
      expect(Math.min(...own)).toBeGreaterThanOrEqual(-size);
      expect(Math.max(...own)).toBeGreaterThan(0.99 * size);
      expect(Math.abs(mean)).toBeLessThan(0.06 * size);
      expect(variance / (size * size)).toBeCloseTo(1 / 3, 1);
    }
  });

  it("is another for another micro-batch or seed, and the same again", () => {
    expect(embeddingNoise(batch, width, { alpha: 5, seed: 1, pass: 0 })).toEqual(noise);
    expect(embeddingNoise(batch, width, { alpha: 5, seed: 1, pass: 1 })).not.toEqual(noise);
    expect(embeddingNoise(batch, width, { alpha: 5, seed: 2, pass: 0 })).not.toEqual(noise);
    // A seed of more than 32 bits is not its low half.
    expect(embeddingNoise(batch, width, { alpha: 5, seed: 1 + 2 ** 32, pass: 0 })).not.toEqual(noise);
  });
});

it("acts as if the embeddings' rows were other ones", async () => {
  const golden = loadModelGolden("llama-mha");
  const session = await openSession(openReference("f64"), golden.name, 5);
  const batch = assemble(samples.slice(0, 1));
  const noised = await session.forwardBackward([batch]);
  const { decoder } = session.loaded;
  const table = decoder.embeddingTable.tensor;
  const { width } = decoder.config;
  const noise = embeddingNoise(batch, width, { alpha: 5, seed: 3, pass: 0 });
  const rows = await readFloats(session.backend, table);
  // Every id of the sequence stands in it once.
  for (const [t, id] of batch.ids.entries())
    for (let c = 0; c < width; c++) rows[id * width + c]! += noise[t * width + c]!;
  session.backend.write(table.buffer, new Uint8Array(Float64Array.from(rows).buffer), table.byteOffset);
  const moved = await session.evaluate(samples.slice(0, 1), 64);
  expect(noised.loss).toBeCloseTo(moved.loss, 6);
});

it("acts in training alone", async () => {
  const [noisy, plain] = [
    await openSession(openReference("f32"), "llama-mha", 5),
    await openSession(openReference("f32"), "llama-mha", undefined),
  ];
  expect(await noisy.evaluate(samples, 64)).toEqual(await plain.evaluate(samples, 64));
  const [own, other] = [
    await noisy.forwardBackward([assemble(samples)]),
    await plain.forwardBackward([assemble(samples)]),
  ];
  expect(Math.abs(own.loss - other.loss)).toBeGreaterThan(1e-5);
});
