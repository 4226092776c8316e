// 8-bit AdamW against bitsandbytes' CPU build (tools/golden/optim.py, "grid" codes) and against a NumPy transcription
// with exact nearest codes and non-finite gradients (tools/golden/quant_golden.py).

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type Adamw8bitStep, adamw8bitStep, zeroMoments } from "../../src/optim/adamw-8bit-reference.ts";
import { randomBits } from "../../src/util/rng.ts";
import { type ByteArray, bytesOf, type FloatArray, floatsOf, readGolden } from "../golden/load-golden.ts";
import { bell, digest } from "../quant/inputs.ts";

interface BitsandbytesCase extends Omit<Adamw8bitStep, "step"> {
  paramScale: number;
  gradScale: number;
  count: number;
  zeroBlock: boolean;
  seed: number;
  steps: {
    step: number;
    params: FloatArray;
    m: ByteArray;
    v: ByteArray;
    mScales: FloatArray;
    vScales: FloatArray;
  }[];
}
const bitsandbytes = readGolden<{ cases: Record<string, BitsandbytesCase> }>("optim/adamw-8bit.json");

interface TranscriptionStep {
  params: number[];
  mCodes: string;
  vCodes: string;
  mAbsmax: number[];
  vAbsmax: number[];
}
const transcription: TranscriptionStep[] = JSON.parse(
  readFileSync(new URL("../golden/quant-ts/quantizers.json", import.meta.url), "utf8"),
).adamw8bit;

/** bitsandbytes rounds moments to f32 after each operation, so a value on the edge of two codes may fall to either. */
const MOMENT_TOLERANCE = 1e-6;
const MOVED_CODES = 3; // of 700

function uniform(seed: number, stream: number, count: number, scale: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (randomBits(seed, stream, i) / 2 ** 31 - 1) * scale);
}

function moved(actual: Uint8Array, expected: Uint8Array): number {
  return actual.reduce((sum, code, i) => sum + Number(code !== expected[i]), 0);
}

describe("as bitsandbytes on the CPU", () => {
  test.each(Object.entries(bitsandbytes.cases))("%s", (_name, row) => {
    const params = uniform(row.seed, 0, row.count, row.paramScale);
    const moments = zeroMoments(row.count);
    for (let step = 1; step <= 10; step++) {
      const grads = uniform(row.seed, step, row.count, row.gradScale);
      if (row.zeroBlock) grads.fill(0, 256, 512);
      adamw8bitStep(params, grads, moments, { ...row, step }, "grid");
      const expected = row.steps.find((kept) => kept.step === step);
      if (!expected) continue;
      expect(moved(moments.mCodes, bytesOf(expected.m))).toBeLessThanOrEqual(MOVED_CODES);
      expect(moved(moments.vCodes, bytesOf(expected.v))).toBeLessThanOrEqual(MOVED_CODES);
      for (const [actual, scales] of [
        [moments.mAbsmax, floatsOf(expected.mScales)],
        [moments.vAbsmax, floatsOf(expected.vScales)],
      ] as const) {
        for (const [i, value] of scales.entries()) {
          expect(Math.abs(actual[i]! - value)).toBeLessThanOrEqual(MOMENT_TOLERANCE * value);
        }
      }
      const target = floatsOf(expected.params);
      let worst = 0;
      for (const [i, value] of target.entries()) worst = Math.max(worst, Math.abs(params[i]! - value));
      expect(worst).toBeLessThan(0.02 * row.learningRate); // a moved code changes its own element only
    }
  });
});

test("nearest codes, three steps, non-finite gradients in the second", () => {
  const params = bell(600, 21);
  const moments = zeroMoments(600);
  const constants = { learningRate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 1e-2 };
  for (const [at, expected] of transcription.entries()) {
    const grads = bell(600, 31 + at).map((value) => value * Math.fround(0.1));
    if (at === 1) {
      grads[5] = Number.NaN;
      grads[300] = Number.POSITIVE_INFINITY;
    }
    const before = [params[5], params[300]];
    adamw8bitStep(params, grads, moments, { ...constants, step: at + 1 });
    if (at === 1) expect([params[5], params[300]]).toEqual(before);
    expect(digest(moments.mCodes)).toBe(expected.mCodes);
    expect(digest(moments.vCodes)).toBe(expected.vCodes);
    expect([...moments.mAbsmax]).toEqual(expected.mAbsmax);
    expect([...moments.vAbsmax]).toEqual(expected.vAbsmax);
    for (const [i, value] of expected.params.entries()) expect(params[25 * i]).toBeCloseTo(value, 7);
  }
});
