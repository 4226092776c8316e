// Which products are measured for a model, that they are measured once, and which measured tile another product takes. Dawn's
// null backend stands for a device: it computes nothing, so that any tile may win.

import { describe, expect, it } from "vitest";
import type { PlainMatrix, Tensor } from "../../../src/backend/backend.ts";
import { TileChoices } from "../../../src/backend/webgpu/tile-choices.ts";
import { kindsOf, parseStore } from "../../../src/backend/webgpu/tuning.ts";
import { openWebGpu, webgpu } from "../../../src/backend/webgpu.ts";
import { Stage } from "../../conformance/stage.ts";

const buffer = { sizeBytes: 0 } as Tensor["buffer"];
const dense = (out: number, width: number): PlainMatrix => ({
  ...{ buffer, byteOffset: 0, shape: [out, width], dtype: "f16" },
});
const quantized = (out: number, width: number): PlainMatrix => {
  const tensor = (dtype: Tensor["dtype"]): Tensor => ({ buffer, byteOffset: 0, shape: [16], dtype });
  return {
    ...{ kind: "quantized", shape: [out, width], blockSize: 64 },
    ...{ codes: tensor("u8"), codebook: tensor("f32"), absmax: tensor("f32") },
  };
};
const names = (weights: readonly PlainMatrix[]) => kindsOf(weights).map(({ kind }) => TileChoices.key(kind));

it("measures both directions of the shapes that are most of a model's work, by how they are stored", () => {
  const layers = Array.from({ length: 3 }, () => [quantized(4096, 4096), quantized(11008, 4096)]).flat();
  expect(names([...layers, dense(512, 4096)])).toEqual([
    "4-bit forward 11008x4096",
    "4-bit gradient 4096x11008",
    "4-bit forward 4096x4096",
    "4-bit gradient 4096x4096",
    "f16 forward 512x4096",
    "f16 gradient 4096x512",
  ]);
  // One shape in two forms is two kinds; a few are enough; what would need much memory is left out.
  expect(names([dense(64, 64), quantized(64, 64)])).toHaveLength(4);
  expect(names(Array.from({ length: 9 }, (_, i) => dense(64 * (i + 1), 64)))).toHaveLength(8);
  expect(names([dense(256000, 4096)])).toEqual([]);
});

it("gives a product the tile of the nearest kind that was measured, of its own form and direction", () => {
  const choices = new TileChoices(
    new Map([
      ["4-bit forward 4096x4096", 1],
      ["4-bit forward 11008x4096", 9],
      ["4-bit gradient 4096x4096", 3],
      ["not a kind", 5],
    ]),
  );
  expect(choices.of("4-bit", false, 1024, 4096, 4096)).toBe(1);
  expect(choices.of("4-bit", false, 2048, 14336, 4096)).toBe(9);
  expect(choices.of("4-bit", false, 2048, 1024, 4096)).toBe(1);
  expect(choices.of("4-bit", true, 1024, 11008, 4096)).toBe(3);
  expect(choices.of("f16", false, 1024, 4096, 4096)).toBeUndefined();
  expect(choices.of("4-bit", false, 16, 4096, 4096)).toBeUndefined();
  expect(TileChoices.forced(7).of("f32", true, 8, 8, 8)).toBe(7);
  expect(new TileChoices().of("f32", true, 1024, 8, 8)).toBeUndefined();
});

const dawn = ["backend=null", "enable-dawn-features=allow_unsafe_apis"];
const matrix = { m: 16, n: 16, k: 16, subgroupSize: 32 };
const probe = await openWebGpu({ precision: "fp32", dawn });
probe?.close();
const skip = probe ? "" : webgpu.reason!();

describe.skipIf(skip)(`on a device${skip ? ` (skipped: ${skip})` : ""}`, () => {
  it.each(["fp32", "fp16"] as const)("measures once and remembers, in %s", async (precision) => {
    let text: string | undefined = "no JSON";
    let writes = 0;
    const tuning = {
      read: async () => text,
      write: async (written: string) => {
        text = written;
        writes++;
      },
    };
    const start = async (...shapes: [number, number][]) => {
      const backend = (await openWebGpu({ precision, dawn, matrix, tuning, lanes: 0 }))!;
      const s = new Stage(backend, false);
      await backend.prepareProducts!(shapes.map((shape) => s.zeros(shape)));
      s.free();
      expect(backend.liveBytes).toBe(0);
      backend.close();
    };
    await start([128, 64], [128, 64], [64, 320]);
    await start([128, 64]);
    expect(writes).toBe(1);
    await start([320, 320]);
    expect(writes).toBe(2);
    const [places] = [...parseStore(text).values()];
    expect([...places!.keys()]).toEqual([
      "f32 forward 64x320",
      "f32 gradient 320x64",
      "f32 forward 128x64",
      "f32 gradient 64x128",
      "f32 forward 320x320",
      "f32 gradient 320x320",
    ]);
    // The scalar kernel's tiles come after those of subgroup matrices, which the precision fp32 has none of.
    if (precision === "fp32") for (const place of places!.values()) expect(place).toBeGreaterThanOrEqual(8);
    await start();
    expect(writes).toBe(2);
    expect(parseStore("[3, null]").size).toBe(0);
  });
});
