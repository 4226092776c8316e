// Leading singular triplets from products on a device: of a matrix whose sides are too long for the exact way, against its
// exact singular values; of one that is short, and of one of lower rank than asked for.

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { leadingTriplets } from "../../src/nn/leading-triplets.ts";
import { spectrumOfMatrix } from "../../src/plan/spectrum.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

/** Of this rank; each direction `decay` times as strong as the one before. */
function decaying(outputs: number, inputs: number, rank: number, decay: number): Float32Array {
  const random = new Random(5);
  const values = new Float32Array(outputs * inputs);
  for (let r = 0; r < rank; r++) {
    const [u, v] = [outputs, inputs].map((n) => Float64Array.from({ length: n }, () => random.nextNormal()));
    for (let o = 0; o < outputs; o++)
      for (let i = 0; i < inputs; i++) values[o * inputs + i]! += decay ** r * u![o]! * v![i]!;
  }
  return values;
}

it.each([
  ["long sides", 210, 150, 60, 6],
  ["longer rows", 140, 190, 60, 6],
  ["a short side", 40, 90, 40, 8],
  ["a lower rank", 50, 60, 3, 5],
])("%s", async (_, outputs, inputs, rank, count) => {
  const values = decaying(outputs, inputs, rank, 0.85);
  const buffer = backend.allocate(4 * values.length, "weights");
  backend.write(buffer, encodeFrom(values, "f32"));
  const before = backend.liveBytes;
  const found = await leadingTriplets(
    backend,
    viewOf(buffer, [outputs, inputs], "f32"),
    count,
    new Random(1),
  );
  expect(backend.liveBytes).toBe(before);
  backend.free(buffer);
  const exact = spectrumOfMatrix(values, outputs, inputs).singularValues;
  const wanted = Math.min(rank, count);
  for (let r = 0; r < wanted; r++) {
    expect(found.values[r]! / exact[r]!).toBeCloseTo(1, 4);
    // W v = sigma u.
    for (let o = 0; o < outputs; o += 17) {
      let image = 0;
      for (let i = 0; i < inputs; i++) image += values[o * inputs + i]! * found.right[r]![i]!;
      expect(Math.abs(image - found.values[r]! * found.left[r]![o]!)).toBeLessThan(1e-4 * exact[0]!);
    }
  }
  for (let r = wanted; r < count; r++) expect(found.values[r]!).toBeLessThan(1e-4 * exact[0]!);
});
