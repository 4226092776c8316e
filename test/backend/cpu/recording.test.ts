// Calls that are made again over the same memory: the same results, nothing once that memory is gone, and nothing left
// behind. Real kernels under them. Which passes are repeated: test/generate/repeated-passes.test.ts.

import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../../src/backend/backend.ts";
import { likeliest } from "../../../src/generate/sampler.ts";
import { encodeFrom, ownedToF32 } from "../../../src/tensor/dtype.ts";
import { viewOf } from "../../../src/tensor/tensor.ts";
import { Random } from "../../../src/util/rng.ts";
import { conformanceBackends } from "../../conformance/backends.ts";

const cpu = conformanceBackends.find(({ name, skip }) => name.startsWith("cpu") && !skip);

describe.skipIf(!cpu)("recorded calls", () => {
  let backend: Backend;
  let x: Tensor;
  let before: number;
  beforeAll(async () => {
    backend = await cpu!.open();
  });
  afterAll(() => backend.close());
  beforeEach(() => {
    before = backend.liveBytes;
    x = f32([1, 2, 3]);
  });

  function f32(values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
    const buffer = backend.allocate(4 * values.length, "workspace");
    backend.write(buffer, encodeFrom(Float32Array.from(values), "f32"));
    return viewOf(buffer, shape, "f32");
  }
  const read = async (tensor: Tensor) => [
    ...ownedToF32(await backend.read(tensor.buffer), tensor.dtype).slice(0, tensor.shape[0]),
  ];
  /** y = 2 (x + x), through memory that is freed on the way. */
  function fourfold(): Tensor {
    const [one, y] = [0, 1].map(() => viewOf(backend.allocate(12, "activations"), [3], "f32")) as [
      Tensor,
      Tensor,
    ];
    backend.cast({ x, y: one });
    backend.addInPlace({ x, y: one });
    backend.cast({ x: one, y });
    backend.free(one.buffer);
    backend.scaleInPlace({ y, factor: 2 });
    return y;
  }

  it("read what lies in memory when they are made", async () => {
    let y: Tensor | undefined;
    const calls = backend.record!(() => {
      y = fourfold();
    })!;
    expect(await read(y!)).toEqual([4, 8, 12]);
    backend.write(x.buffer, encodeFrom([5, 6, 7], "f32"));
    // What others allocate meanwhile is not the recording's memory.
    const others = Array.from({ length: 20 }, () => f32([9, 9, 9]));
    expect(calls.replay()).toBe(true);
    expect(await read(y!)).toEqual([20, 24, 28]);
    for (const other of others) expect(await read(other)).toEqual([9, 9, 9]);
    calls.free();
    for (const tensor of [...others, y!, x]) backend.free(tensor.buffer);
    expect(backend.liveBytes).toBe(before);
  });

  it("are not made once memory that they use was freed, even where the same address lives again", () => {
    let y: Tensor | undefined;
    const calls = backend.record!(() => {
      y = fourfold();
    })!;
    backend.free(x.buffer);
    const again = f32([1, 2, 3]);
    expect(calls.replay()).toBe(false);
    calls.free();
    for (const tensor of [again, y!]) backend.free(tensor.buffer);
    expect(backend.liveBytes).toBe(before);
  });

  it.each([
    ["writes", () => backend.write(x.buffer, encodeFrom([1], "f32"))],
    ["frees what was there before", () => backend.free(x.buffer)],
  ])("are not kept of what %s", async (_, act) => {
    let y: Tensor | undefined;
    const calls = backend.record!(() => {
      y = fourfold();
      act();
    });
    expect(calls).toBeUndefined();
    expect((await read(y!))[1]).toBe(8);
    backend.free(y!.buffer);
    if (backend.liveBytes > before) backend.free(x.buffer);
    expect(backend.liveBytes).toBe(before);
  });

  it("leave nothing where their making fails", () => {
    const failing = () =>
      backend.record!(() => {
        const y = fourfold();
        backend.free(y.buffer);
        throw new Error("on purpose");
      });
    expect(failing).toThrow("on purpose");
    backend.free(x.buffer);
    expect(backend.liveBytes).toBe(before);
  });

  it("the largest of each row is found as in JavaScript: the first of equals, whatever is no number", async () => {
    const random = new Random(3, 4);
    const rows: number[][] = [];
    for (const columns of [1, 2, 15, 16, 17, 49, 1000]) {
      for (let n = 0; n < 20; n++) {
        // Few values, so that many are equal.
        const row = Array.from({ length: columns }, () => random.nextInt(n < 10 ? 5 : 1000) - 2);
        const put = (value: number) => {
          row[random.nextInt(columns)] = value;
        };
        if (n % 4 === 1) put(Number.NaN);
        if (n % 4 === 2) row[0] = Number.NaN;
        if (n % 4 === 3) row.fill(Number.NEGATIVE_INFINITY);
        if (n % 5 === 4) put(Number.POSITIVE_INFINITY);
        if (n % 7 === 6) row.fill(-0);
        if (n % 7 === 6) put(0);
        rows.push(row);
        const tensor = f32(row, [1, columns]);
        expect([...(await backend.largestOfRows!(tensor))]).toEqual([likeliest(Float32Array.from(row))]);
        backend.free(tensor.buffer);
      }
      const together = rows.filter((row) => row.length === columns);
      const tensor = f32(together.flat(), [together.length, columns]);
      expect([...(await backend.largestOfRows!(tensor))]).toEqual(
        together.map((row) => likeliest(Float32Array.from(row))),
      );
      backend.free(tensor.buffer);
    }
    backend.free(x.buffer);
  });
});
