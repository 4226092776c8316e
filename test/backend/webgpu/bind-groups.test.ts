// Blocks and bind groups on a device that only counts: a step is given the memory that the step before was given, so nothing
// is bound anew; and the cache forgets what it must.

import { describe, expect, it } from "vitest";
import { BindGroups } from "../../../src/backend/webgpu/bind-groups.ts";
import { countingDevice, openedCounting } from "../../../src/backend/webgpu/counting-device.ts";
import { type Block, Memory } from "../../../src/backend/webgpu/memory.ts";
import { backendOf, partsOn } from "../../../src/backend/webgpu.ts";
import { assemble } from "../../../src/data/assemble.ts";
import { Session } from "../../../src/session/session.ts";
import { openGolden } from "../../conformance/model-case.ts";
import { loadModelGolden } from "../../golden/load-golden.ts";

function batchOf(lengths: readonly number[]) {
  return assemble(
    lengths.map((length, i) => ({
      ids: Int32Array.from({ length }, (_, t) => (i + 3 * t) % 128),
      targetMask: new Uint8Array(length).fill(1, 1),
      rowId: { file: "rows", line: i + 1, unit: "line" as const },
    })),
  );
}

const noFailure = { check() {} } as unknown as ConstructorParameters<typeof Memory>[1];

describe("a pool of blocks", () => {
  it("gives the blocks of a round to the next, whatever order they were freed in", () => {
    const memory = new Memory(countingDevice().device, noFailure);
    const round = (order: readonly number[]) => {
      const taken = [1000, 1000, 300, 1000, 300].map((size) => memory.allocate(size, "workspace"));
      for (const i of order) memory.free(taken[i]!);
      return taken.map(({ block }) => block.id);
    };
    const first = round([0, 1, 2, 3, 4]);
    expect(round([4, 2, 0, 1, 3])).toEqual(first);
    expect(round([1, 3, 0, 4, 2])).toEqual(first);
  });
});

describe.each(["lora", "full"] as const)("steps of %s", (method) => {
  it.each([
    ["equal lengths", [[40, 40]]],
    [
      "lengths that come again",
      [
        [40, 31],
        [7, 64],
        [12, 12],
      ],
    ],
  ])("bind nothing anew: %s", async (_, rounds) => {
    const { device, counts } = countingDevice();
    const opened = openedCounting(device, "f16");
    const backend = backendOf(opened, partsOn(opened));
    const loaded = await openGolden(backend, loadModelGolden("llama-mha"), method === "full");
    const session = new Session(loaded, {
      ...{ method, rank: 4, alpha: 8, targets: "all-linear", optimizer: "adamw", seed: 3 },
    });
    const run = async () => {
      const before = { ...counts };
      for (const lengths of rounds) await session.trainStep([batchOf(lengths)], { learningRate: 1e-3 });
      return { groups: counts.bindGroups - before.bindGroups, buffers: counts.buffers - before.buffers };
    };
    expect((await run()).groups).toBeGreaterThan(0);
    await run();
    expect(await run()).toEqual({ groups: 0, buffers: 0 });
    session[Symbol.dispose]();
  });
});

describe("the cache", () => {
  const { device, counts } = countingDevice();
  const cache = new BindGroups(device, {} as GPUBuffer);
  const block = (id: number): Block => ({ id, gpu: {} as GPUBuffer, capacity: 4096, batch: 0 });
  const [layout, other] = [{} as GPUBindGroupLayout, {} as GPUBindGroupLayout];
  const find = (on: GPUBindGroupLayout, ranges: readonly (readonly [Block, number, number])[]) => {
    const before = counts.bindGroups;
    const ids = Int32Array.from(ranges, ([b, start, bound]) => cache.rangeOf(b, start, bound));
    const [starts, bounds] = [1, 2].map((i) => Float64Array.from(ranges, (range) => range[i] as number));
    cache.find(
      layoutOf(on),
      ids,
      ids.length,
      ranges.map(([b]) => b),
      starts!,
      bounds!,
    );
    return counts.bindGroups > before ? "made" : "found";
  };
  const layoutOf = (on: GPUBindGroupLayout) => on;
  const [a, b] = [block(1), block(2)];

  it("tells layouts, blocks, places, lengths and their order apart", () => {
    const keys = [
      [layout, [[a, 0, 64]]],
      [other, [[a, 0, 64]]],
      [layout, [[b, 0, 64]]],
      [layout, [[a, 256, 64]]],
      [layout, [[a, 0, 128]]],
      [
        layout,
        [
          [a, 0, 64],
          [b, 0, 64],
        ],
      ],
      [
        layout,
        [
          [b, 0, 64],
          [a, 0, 64],
        ],
      ],
    ] as const;
    for (const [on, ranges] of keys) expect(find(on, ranges)).toBe("made");
    for (const [on, ranges] of keys) expect(find(on, ranges)).toBe("found");
  });

  it("forgets what a destroyed block was in, and nothing else", () => {
    cache.forget(b);
    expect(find(layout, [[a, 0, 64]])).toBe("found");
    expect(
      find(layout, [
        [a, 0, 64],
        [b, 0, 64],
      ]),
    ).toBe("made");
    expect(find(layout, [[b, 0, 64]])).toBe("made");
  });

  it("keeps so many, and those that were used last", () => {
    const blocks = Array.from({ length: 9000 }, (_, i) => block(10 + i));
    for (const one of blocks) {
      find(layout, [[one, 0, 64]]);
      expect(find(layout, [[a, 0, 64]])).toBe("found");
    }
    expect(find(layout, [[blocks.at(-1)!, 0, 64]])).toBe("found");
    expect(find(layout, [[blocks[0]!, 0, 64]])).toBe("made");
  });
});
