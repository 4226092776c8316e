// Quantisers against bitsandbytes' CPU build, byte for byte (goldens: tools/golden/quant_golden.py for every
// tensor in every block size, as digests; tools/golden/quant.py for fewer, as bytes), and their error on
// normal values against the figures that bitsandbytes' own tests state.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { dequantizeBlockwise, quantizeBlockwise } from "../../src/quant/blockwise-8bit.ts";
import { blockSizes } from "../../src/quant/codebook.ts";
import { dequantizeScales, quantizeScales } from "../../src/quant/double-quant.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../../src/quant/dynamic-map.ts";
import { quantizers } from "../../src/quant/index.ts";
import { UserError } from "../../src/util/errors.ts";
import { Random } from "../../src/util/rng.ts";
import { bytesOf, floatsOf } from "../golden/load-golden.ts";
import { checksumOf, loadQuantGolden, quantInput } from "../golden/quant-golden.ts";
import { digest, inputs } from "./inputs.ts";

interface Golden {
  codebooks: Record<"nf4" | "fp4", number[]>;
  maps: Record<"signed" | "unsigned", string>;
  fourBit: {
    quantizer: "nf4" | "fp4";
    tensor: string;
    blockSize: number;
    codes: string;
    absmax: string;
    restored: string;
    nested?: { offset: number; codes: string; absmax: string; scales: string };
  }[];
  eightBit: {
    map: "signed" | "unsigned";
    tensor: string;
    blockSize: number;
    grid: string;
    nearest: string;
    absmax: string;
    restoredGrid: string;
  }[];
}
const golden: Golden = JSON.parse(
  readFileSync(new URL("../golden/quant-ts/quantizers.json", import.meta.url), "utf8"),
);
const maps = { signed: signedDynamicMap, unsigned: unsignedDynamicMap };

describe("byte for byte as bitsandbytes on the CPU", () => {
  test.each(["nf4", "fp4"] as const)("%s codebook", (name) => {
    expect([...quantizers[name].codebook]).toEqual(golden.codebooks[name]);
  });

  test.each(["signed", "unsigned"] as const)("%s dynamic map", (name) => {
    expect(digest(maps[name])).toBe(golden.maps[name]);
  });

  const tensors = {
    nf4: inputs(quantizers.nf4.codebook),
    fp4: inputs(quantizers.fp4.codebook),
    signed: inputs(signedDynamicMap),
    unsigned: inputs(unsignedDynamicMap),
  };

  test.each(golden.fourBit)("$quantizer, $tensor, blocks of $blockSize", (row) => {
    const values = tensors[row.quantizer][row.tensor]!;
    const quantizer = quantizers[row.quantizer];
    const blocks = quantizer.quantize(values, row.blockSize);
    expect(digest(blocks.codes)).toBe(row.codes);
    expect(digest(blocks.absmax)).toBe(row.absmax);
    expect(digest(quantizer.dequantize(blocks, values.length, row.blockSize))).toBe(row.restored);
    if (!row.nested) return;
    const nested = quantizeScales(blocks.absmax, { offset: row.nested.offset });
    expect(digest(nested.codes)).toBe(row.nested.codes);
    expect(digest(nested.absmax)).toBe(row.nested.absmax);
    expect(digest(dequantizeScales(nested))).toBe(row.nested.scales);
    // torch sums the mean in f32, in an order of its own: a few units in the last place.
    const own = quantizeScales(blocks.absmax).offset;
    expect(Math.abs(own - row.nested.offset)).toBeLessThanOrEqual(5e-7 * row.nested.offset);
  });

  test.each(golden.eightBit)("$map map, $tensor, blocks of $blockSize", (row) => {
    const source = tensors[row.map][row.tensor]!;
    const values = row.map === "unsigned" ? source.map(Math.abs) : source;
    const map = maps[row.map];
    const grid = quantizeBlockwise(values, map, row.blockSize, "grid");
    expect(digest(grid.absmax)).toBe(row.absmax);
    expect(digest(grid.codes)).toBe(row.grid);
    expect(digest(dequantizeBlockwise(grid, map, row.blockSize))).toBe(row.restoredGrid);
    expect(digest(quantizeBlockwise(values, map, row.blockSize).codes)).toBe(row.nearest);
  });
});

describe("the stored codes of tools/golden/quant.py", () => {
  const stored = loadQuantGolden();

  test.each(stored.fourBit)("$quantType, $kind, $count values in blocks of $blockSize", (row) => {
    const values = quantInput(stored.seed, row);
    const quantizer = quantizers[row.quantType];
    const blocks = quantizer.quantize(values, row.blockSize);
    expect(blocks.codes).toEqual(bytesOf(row.codes));
    let scales = blocks.absmax;
    if (row.scaleCodes) {
      const nested = quantizeScales(blocks.absmax, { offset: row.nestedOffset });
      expect(nested.codes).toEqual(bytesOf(row.scaleCodes));
      expect(nested.absmax).toEqual(floatsOf(row.nestedScales!));
      scales = dequantizeScales(nested);
    }
    expect(scales).toEqual(floatsOf(row.scales));
    const restored = quantizer.dequantize(
      { codes: blocks.codes, absmax: scales },
      values.length,
      row.blockSize,
    );
    expect(checksumOf(restored)).toBe(row.dequantizedChecksum);
  });

  test.each(stored.eightBit)("8 bits, signed $signed, $kind, $count values", (row) => {
    const map = row.signed ? signedDynamicMap : unsignedDynamicMap;
    const blocks = quantizeBlockwise(quantInput(stored.seed, row), map, row.blockSize, "grid");
    expect(blocks.codes).toEqual(bytesOf(row.codes));
    expect(blocks.absmax).toEqual(floatsOf(row.scales));
    expect(checksumOf(dequantizeBlockwise(blocks, map, row.blockSize))).toBe(row.dequantizedChecksum);
  });
});

describe("properties", () => {
  test("NF4 errors on N(0, 1), blocks of 64, are those of bitsandbytes' tests", () => {
    const random = new Random(1);
    const values = Float32Array.from({ length: 1 << 20 }, () => random.nextNormal());
    const restored = quantizers.nf4.dequantize(quantizers.nf4.quantize(values, 64), values.length, 64);
    let absolute = 0;
    let relative = 0;
    for (let i = 0; i < values.length; i++) {
      const error = Math.abs(values[i]! - restored[i]!);
      absolute += error;
      relative += error / (Math.abs(values[i]!) + 1e-8);
    }
    // Mean and standard deviation over 1,048,576 values; four deviations.
    expect(Math.abs(absolute / values.length - 0.072798)).toBeLessThan(4 * 0.000074);
    expect(Math.abs(relative / values.length - 0.203339)).toBeLessThan(4 * 0.00034);
  });

  test.each(Object.values(quantizers))("$name: what was restored quantises to itself", (quantizer) => {
    for (const [name, values] of Object.entries(inputs(quantizer.codebook))) {
      if (name === "denormal" || name === "tiny") continue; // products of subnormals round too coarsely
      const blocks = quantizer.quantize(values, 64);
      const restored = quantizer.dequantize(blocks, values.length, 64);
      const again = quantizer.dequantize(quantizer.quantize(restored, 64), values.length, 64);
      if (restored.some((value) => Math.abs(value) > 0)) expect(again).toEqual(restored);
    }
  });

  test.each(Object.values(quantizers))("$name: every code is the nearest of its codebook", (quantizer) => {
    const values = inputs(quantizer.codebook).bell!;
    for (const blockSize of blockSizes) {
      const blocks = quantizer.quantize(values, blockSize);
      const restored = quantizer.dequantize(blocks, values.length, blockSize);
      for (let i = 0; i < values.length; i++) {
        const scale = blocks.absmax[Math.floor(i / blockSize)]!;
        let best = Number.POSITIVE_INFINITY;
        for (const entry of quantizer.codebook) best = Math.min(best, Math.abs(values[i]! - entry * scale));
        if (Math.abs(values[i]! - restored[i]!) > best + 1e-6 * scale) {
          throw new Error(`element ${i} in blocks of ${blockSize}`);
        }
      }
    }
  });

  test("empty tensors", () => {
    const blocks = quantizers.nf4.quantize(new Float32Array(0), 64);
    expect(blocks.codes).toHaveLength(0);
    expect(quantizers.nf4.dequantize(blocks, 0, 64)).toHaveLength(0);
    expect(dequantizeScales(quantizeScales(new Float32Array(0)))).toHaveLength(0);
  });

  test("refusals", () => {
    const values = Float32Array.of(1, 2, Number.NaN, 3);
    expect(() => quantizers.nf4.quantize(values, 64)).toThrow("element 2 is NaN");
    expect(() => quantizers.nf4.quantize(Float32Array.of(1, Number.POSITIVE_INFINITY), 64)).toThrow(
      UserError,
    );
    expect(() => quantizeBlockwise(values, signedDynamicMap, 256)).toThrow(UserError);
    expect(() => quantizers.nf4.quantize(new Float32Array(4), 48)).toThrow("expected one of 32, 64");
    const blocks = quantizers.nf4.quantize(new Float32Array(100), 64);
    expect(() => quantizers.nf4.dequantize(blocks, 101, 64)).toThrow(
      "expected 51 bytes of codes and 2 scales",
    );
  });
});
