// Holds the two sides of the formula together: tools/golden/philox.py and src/util/rng.ts give the same bits.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { randomBits } from "../../src/util/rng.ts";
import {
  bytesOf,
  type FloatArray,
  floatsOf,
  formulaTensor,
  goldenModelNames,
  goldenWeights,
  loadModelGolden,
  readGolden,
  writeModelFolder,
} from "./load-golden.ts";
import { checksumOf, loadQuantGolden, quantInput } from "./quant-golden.ts";

interface FormulaGolden {
  readonly bits: readonly {
    readonly seed: number;
    readonly stream: number;
    readonly start: number;
    readonly words: readonly number[];
  }[];
  readonly tensors: readonly {
    readonly seed: number;
    readonly stream: number;
    readonly bound: number;
    readonly center: number;
    readonly values: FloatArray;
  }[];
  readonly checksums: Readonly<Record<string, number>>;
}

describe("golden formula", () => {
  const golden = readGolden<FormulaGolden>("formula.json");

  it("gives the bits that NumPy computed", () => {
    for (const { seed, stream, start, words } of golden.bits) {
      expect(words.map((_, i) => randomBits(seed, stream, start + i))).toEqual(words);
    }
  });

  it("gives the float32 values that NumPy computed", () => {
    for (const { seed, stream, bound, center, values } of golden.tensors) {
      expect(formulaTensor(seed, stream, values.shape, bound, center)).toEqual(floatsOf(values));
    }
  });

  it.each(goldenModelNames)("recreates the weights of %s", (name) => {
    let sum = 0;
    for (const values of goldenWeights(loadModelGolden(name)).values())
      sum = (sum + checksumOf(values)) >>> 0;
    expect(sum).toBe(golden.checksums[name]);
  });

  it("writes a model folder whose file length matches its header", () => {
    const folder = mkdtempSync(path.join(tmpdir(), "lowrank-golden-"));
    try {
      writeModelFolder(loadModelGolden("llama-mha"), folder, { spelling: 4, dtype: "bf16" });
      const file = readFileSync(path.join(folder, "model.safetensors"));
      const headerSize = Number(file.readBigUInt64LE(0));
      const header = JSON.parse(file.toString("utf8", 8, 8 + headerSize)) as Record<
        string,
        { data_offsets?: number[] }
      >;
      const end = Math.max(...Object.values(header).map((entry) => entry.data_offsets?.[1] ?? 0));
      expect(file.length).toBe(8 + headerSize + end);
      expect((8 + headerSize) % 8).toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("quant golden", () => {
  const golden = loadQuantGolden();

  // The definition of both families, value = map[code] * scale; so codes, scales and checksums belong together.
  it("decodes to its checksums", () => {
    for (const item of golden.fourBit) {
      const map = floatsOf(golden.maps[item.quantType]);
      const codes = bytesOf(item.codes);
      const scales = floatsOf(item.scales);
      const values = Float32Array.from({ length: item.count }, (_, i) => {
        const pair = codes[i >> 1]!;
        return map[i % 2 === 0 ? pair >> 4 : pair & 15]! * scales[Math.floor(i / item.blockSize)]!;
      });
      expect(checksumOf(values)).toBe(item.dequantizedChecksum);
    }
    for (const item of golden.eightBit) {
      const map = floatsOf(item.signed ? golden.maps.dynamicSigned : golden.maps.dynamicUnsigned);
      const scales = floatsOf(item.scales);
      const values = Float32Array.from(
        bytesOf(item.codes),
        (code, i) => map[code]! * scales[Math.floor(i / item.blockSize)]!,
      );
      expect(checksumOf(values)).toBe(item.dequantizedChecksum);
    }
  });

  it("recreates inputs whose block maxima are the recorded scales", () => {
    for (const item of [...golden.fourBit, ...golden.eightBit]) {
      if ("scaleCodes" in item) continue; // nested scales are themselves rounded
      const values = quantInput(golden.seed, item);
      expect(values.length).toBe(item.count);
      floatsOf(item.scales).forEach((scale, block) => {
        const part = values.subarray(block * item.blockSize, (block + 1) * item.blockSize);
        const largest = part.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        // bitsandbytes keeps the scale of a short last block at 1e-38 or above.
        const floor = part.length < item.blockSize && "quantType" in item ? Math.fround(1e-38) : 0;
        expect(scale).toBe(Math.max(largest, floor));
      });
    }
  });
});
