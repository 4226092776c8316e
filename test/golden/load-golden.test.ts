// Holds the two sides of the formula together: tools/golden/philox.py and src/util/rng.ts give the same bits.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { randomBits } from "../../src/util/rng.ts";
import {
  type FloatArray,
  floatsOf,
  formulaTensor,
  goldenModelNames,
  goldenWeights,
  loadModelGolden,
  readGolden,
  writeModelFolder,
} from "./load-golden.ts";

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
    for (const values of goldenWeights(loadModelGolden(name)).values()) {
      const words = new Uint32Array(values.buffer);
      for (const word of words) sum = (sum + word) >>> 0;
    }
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
