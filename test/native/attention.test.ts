// Attention in the CPU's bf16 precision, for every instruction set of this machine: products of bf16 inputs where the
// set has them, f32's own bits everywhere else. Not here: attention in f32 (kernels.test.ts, test/conformance/).

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { openReference } from "../../src/backend/reference.ts";
import { openCpu } from "../conformance/backends.ts";
import { Stage } from "../conformance/stage.ts";

/**
 * Of the largest value. q, k, v, dOut, P and dS are rounded to 8 bits (relative error 2^-9), scores reach 10 here and
 * carry their inputs' errors into exponentials; 4e-3 to 7e-3 were measured, as rounding the inputs alone gives.
 */
const BF16_TOLERANCE = 1.5e-2;
/** Against 1, the cosine between a result and the reference's: independent errors of 2^-8 per value give 1.5e-5. */
const DIRECTION_TOLERANCE = 3e-5;
/** Sets whose bf16 attention has instructions of its own. */
const withBf16 = new Set(["avx512bf16", "amx"]);

interface Shape {
  readonly lengths: readonly (readonly [queries: number, keys: number])[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
}

const shapes: Record<string, Shape> = {
  "one sequence, grouped heads": { lengths: [[129, 129]], heads: 9, kvHeads: 3, width: 64 },
  "packed sequences of odd lengths, some too short for bf16": {
    lengths: [
      [70, 70],
      [1, 1],
      [33, 33],
      [201, 201],
      [12, 12],
    ],
    heads: 6,
    kvHeads: 2,
    width: 64,
  },
  "many heads on one": { lengths: [[95, 95]], heads: 8, kvHeads: 1, width: 32 },
  "ungrouped heads, width 80": {
    lengths: [
      [64, 64],
      [131, 131],
    ],
    heads: 2,
    kvHeads: 2,
    width: 80,
  },
  "an even window, width 96": { lengths: [[301, 301]], heads: 4, kvHeads: 2, width: 96, window: 34 },
  "an odd window, width 128": { lengths: [[257, 257]], heads: 2, kvHeads: 1, width: 128, window: 65 },
  "every query sees itself alone": { lengths: [[130, 130]], heads: 2, kvHeads: 2, width: 16, window: 1 },
  "a soft cap and sinks, windowed": {
    lengths: [
      [129, 129],
      [12, 12],
    ],
    ...{ heads: 4, kvHeads: 2, width: 64, window: 50, softcap: 3, sinks: true },
  },
  "a soft cap over a cache": {
    lengths: [[70, 1301]],
    heads: 4,
    kvHeads: 1,
    width: 64,
    softcap: 2,
    sinks: true,
  },
  "a prompt after a cache, in parts": { lengths: [[70, 1301]], heads: 4, kvHeads: 1, width: 64 },
  "a prompt after a cache, windowed": {
    lengths: [
      [101, 900],
      [1, 77],
    ],
    heads: 4,
    kvHeads: 1,
    width: 32,
    window: 550,
  },
};

/** Nothing here has its products in bf16. */
const alwaysPlain: Record<string, Shape> = {
  "decoding and short prompts": {
    lengths: [
      [1, 700],
      [15, 60],
      [20, 20],
    ],
    heads: 9,
    kvHeads: 3,
    width: 64,
  },
  "a width that is no multiple of 16": { lengths: [[130, 130]], heads: 2, kvHeads: 1, width: 40 },
};

type Outputs = Record<string, Float32Array>;

/** Outputs start as noise, and two tokens past the last segment belong to none: their gradients must become 0. */
async function run(
  backend: Backend,
  { lengths, heads, kvHeads, width, window = 0, softcap = 0, sinks: withSinks }: Shape,
): Promise<Outputs> {
  const s = new Stage(backend);
  const self = lengths.every(([queries, keys]) => queries === keys);
  const spare = self ? 2 : 0;
  const queries = lengths.reduce((sum, [q]) => sum + q, spare);
  const keys = lengths.reduce((sum, [, k]) => sum + k, spare);
  const q = s.random([queries, heads, width], 1, 2);
  const [k, v] = [s.random([keys, kvHeads, width], 2, 2), s.random([keys, kvHeads, width], 3)];
  const [out, lse] = [s.zeros([queries, heads, width]), s.zeros([queries, heads])];
  const segments = s.segments(lengths);
  const scale = 1 / Math.sqrt(width);
  const sinks = withSinks ? s.random([heads], 8, 2) : undefined;
  backend.attention({ q, k, v, segments, scale, window, softcap, sinks, out, lse });
  const outputs: Outputs = { out: await s.read(out), lse: await s.read(lse) };
  if (self) {
    const dOut = s.random(out.shape, 4);
    const [dq, dk, dv] = [s.random(q.shape, 5), s.random(k.shape, 6), s.random(v.shape, 7)];
    const dSinks = sinks && s.random([heads], 9);
    backend.attentionBackward({
      q,
      k,
      v,
      out,
      lse,
      dOut,
      segments,
      scale,
      window,
      softcap,
      sinks,
      dq,
      dk,
      dv,
      dSinks,
    });
    Object.assign(outputs, { dq: await s.read(dq), dk: await s.read(dk), dv: await s.read(dv) });
    if (dSinks) outputs.dSinks = await s.read(dSinks);
    for (const [tensor, size] of [
      [outputs.dq!, heads * width],
      [outputs.dk!, kvHeads * width],
      [outputs.dv!, kvHeads * width],
    ] as const) {
      expect(tensor.slice(-spare * size).every((value) => value === 0)).toBe(true);
    }
  }
  s.free();
  return outputs;
}

function expectNear(found: Outputs, wanted: Outputs): void {
  for (const [name, values] of Object.entries(wanted)) {
    let [worst, largest, dot, foundSquares, wantedSquares] = [0, 0.1, 0, 0, 0];
    for (const [i, value] of values.entries()) {
      const actual = found[name]![i]!;
      const error = Math.abs(actual - value);
      worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(worst, error);
      largest = Math.max(largest, Math.abs(value));
      dot += actual * value;
      foundSquares += actual * actual;
      wantedSquares += value * value;
    }
    expect(worst / largest, `${name}: error of the largest value`).toBeLessThanOrEqual(BF16_TOLERANCE);
    if (wantedSquares < 1e-6) continue;
    const cosine = dot / Math.sqrt(foundSquares * wantedSquares);
    expect(1 - cosine, `${name}: direction`).toBeLessThanOrEqual(DIRECTION_TOLERANCE);
  }
}

const reference = openReference("f64");

describe.each(loadNativeAddon().isas.map((isa) => ({ isa })))("attention in bf16, $isa", ({ isa }) => {
  it.each(Object.keys(shapes))("%s", async (name) => {
    const shape = shapes[name]!;
    const found = await run(await openCpu(isa, "bf16"), shape);
    const plain = await run(await openCpu(isa, "fp32"), shape);
    if (!withBf16.has(isa)) {
      expect(found).toEqual(plain);
      return;
    }
    expect(found.out).not.toEqual(plain.out);
    expectNear(found, await run(reference, shape));
  });

  it.each(Object.keys(alwaysPlain))("f32's bits: %s", async (name) => {
    const plain = await run(await openCpu(isa, "fp32"), alwaysPlain[name]!);
    expect(await run(await openCpu(isa, "bf16"), alwaysPlain[name]!)).toEqual(plain);
  });

  it("gives the same bits on one, two and three threads", async () => {
    for (const name of Object.keys(shapes)) {
      const one = await run(await openCpu(isa, "bf16", 1), shapes[name]!);
      expect(await run(await openCpu(isa, "bf16", 2), shapes[name]!)).toEqual(one);
      expect(await run(await openCpu(isa, "bf16", 3), shapes[name]!)).toEqual(one);
    }
  });
});
