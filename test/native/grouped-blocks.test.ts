// A mixture's experts in ggml's blocks, as GGUF files have them: the native engine against the reference, forward and
// backward, on uneven numbers of rows, one expert having none.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { openReference } from "../../src/backend/reference.ts";
import { type BlockTypeName, encodeGguf } from "../../src/quant/ggml/index.ts";
import { type DType, decodeToF32, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount, viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";
import { openCpu } from "../conformance/backends.ts";

const offsets = [0, 5, 5, 45];
const [out, width] = [48, 256];

async function run(backend: Backend, type: BlockTypeName) {
  const random = new Random(3, 1);
  const put = (shape: readonly number[], dtype: DType, bytes: Uint8Array) => {
    const buffer = backend.allocate(bytes.length, "workspace");
    backend.write(buffer, bytes);
    return viewOf(buffer, shape, dtype);
  };
  const uniform = (shape: readonly number[]) =>
    put(
      shape,
      "f32",
      encodeFrom(
        Float32Array.from({ length: elementCount(shape) }, () => random.nextFloat() - 0.5),
        "f32",
      ),
    );
  const rows = { offsets: put([offsets.length], "i32", encodeFrom(offsets, "i32")), few: false };
  const experts = offsets.length - 1;
  const values = Float32Array.from({ length: experts * out * width }, () => random.nextFloat() - 0.5);
  const bytes = encodeGguf(values, type, width);
  const shape = [experts, out, width] as const;
  const weight = { kind: "blockStack" as const, type, shape, blocks: put([bytes.length], "u8", bytes) };
  const count = offsets.at(-1)!;
  const [x, y, dy, dx] = [
    uniform([count, width]),
    uniform([count, out]),
    uniform([count, out]),
    uniform([count, width]),
  ];
  backend.groupedLinear(x, rows, { weight, y });
  backend.groupedLinearBackward(undefined, rows, { weight, dy }, dx);
  const read = async (tensor: typeof y) => decodeToF32(await backend.read(tensor.buffer), "f32");
  return { y: await read(y), dx: await read(dx) };
}

describe("experts in blocks", () => {
  it.each(["q4_k", "q6_k", "q8_0", "mxfp4"] as const)("%s as the reference", async (type) => {
    const wanted = await run(openReference(), type);
    const found = await run(await openCpu(loadNativeAddon().isas[0]!, "fp32"), type);
    for (const name of ["y", "dx"] as const) {
      const largest = wanted[name].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const [i, value] of wanted[name].entries())
        expect(Math.abs(found[name][i]! - value)).toBeLessThanOrEqual(4e-6 * largest);
    }
  });
});
