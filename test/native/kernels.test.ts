// The native kernels for every instruction set of this machine, where the conformance suite does not look: long
// decoding and prefill, extreme values, exact bits, aliasing. Not here: the linear layers (linear.test.ts), sizes and tails
// (test/conformance/backend.test.ts), any number of threads (test/conformance/threads.test.ts).

import { describe, expect, it } from "vitest";
import type { ActivationKind, Backend } from "../../src/backend/backend.ts";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { openReference } from "../../src/backend/reference.ts";
import { f16Table, fromBf16Bits, toBf16Bits, toF16Bits } from "../../src/tensor/dtype.ts";
import { type Tensor, viewOf } from "../../src/tensor/tensor.ts";
import { Random, randomBits } from "../../src/util/rng.ts";
import { openCpu } from "../conformance/backends.ts";
import { Stage } from "../conformance/stage.ts";

/** Sums of a few thousand products in f32, relative to the largest value. */
const SUM_TOLERANCE = 5e-6;
/** Outputs that are all but zero are compared as if their largest value were this. */
const LEAST_SCALE = 0.1;
/** Scores near 5000 carry rounding errors of 3e-4, and exponentials pass them on. */
const LARGE_SCORE_TOLERANCE = 1e-3;
/** One f32 function of one number: a few units in the last place. */
const FUNCTION_TOLERANCE = 1e-6;

type Outputs = Record<string, Float32Array>;

async function onStage(backend: Backend, body: (stage: Stage) => Promise<Outputs>): Promise<Outputs> {
  const stage = new Stage(backend);
  const outputs = await body(stage);
  stage.free();
  return outputs;
}

function expectClose(found: Outputs, wanted: Outputs, tolerance: number): void {
  for (const [name, values] of Object.entries(wanted)) {
    const largest = values.reduce((m, v) => Math.max(m, Math.abs(v)), LEAST_SCALE);
    const worst = values.reduce((m, v, i) => {
      const error = Math.abs(v - found[name]![i]!);
      return Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(m, error);
    }, 0);
    expect(worst, `${name}: error against a largest value of ${largest}`).toBeLessThanOrEqual(
      tolerance * largest,
    );
  }
}

interface AttentionSpec {
  readonly lengths: readonly (readonly [number, number])[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  readonly window?: number;
  /** Scores grow with its square. */
  readonly bound?: number;
}

const attentionSpecs: Record<string, AttentionSpec> = {
  "decoding over long and short caches": {
    lengths: [
      [1, 1500],
      [1, 77],
      [1, 1],
      [1, 1024],
    ],
    heads: 9,
    kvHeads: 3,
    width: 64,
  },
  "prefill after a cache, windowed": {
    lengths: [
      [5, 1300],
      [40, 600],
    ],
    heads: 4,
    kvHeads: 1,
    width: 32,
    window: 550,
  },
  "a group wider than a tile": { lengths: [[3, 9]], heads: 71, kvHeads: 1, width: 10 },
  "rows a power of two apart": { lengths: [[70, 70]], heads: 8, kvHeads: 4, width: 64 },
  "every query sees itself alone": { lengths: [[130, 130]], heads: 2, kvHeads: 2, width: 18, window: 1 },
  "scores in the thousands": { lengths: [[65, 65]], heads: 2, kvHeads: 1, width: 48, bound: 60 },
};

function runAttention(spec: AttentionSpec): (stage: Stage) => Promise<Outputs> {
  return async (s) => {
    const { heads, kvHeads, width, window = 0, bound = 2 } = spec;
    const queries = spec.lengths.reduce((sum, [q]) => sum + q, 0);
    const keys = spec.lengths.reduce((sum, [, k]) => sum + k, 0);
    const q = s.random([queries, heads, width], 1, bound);
    const [k, v] = [s.random([keys, kvHeads, width], 2, bound), s.random([keys, kvHeads, width], 3)];
    const [out, lse] = [s.zeros([queries, heads, width]), s.zeros([queries, heads])];
    const segments = s.segments(spec.lengths);
    const scale = 1 / Math.sqrt(width);
    s.backend.attention({ q, k, v, segments, scale, window, softcap: 0, sinks: undefined, out, lse });
    const outputs: Outputs = { out: await s.read(out), lse: await s.read(lse) };
    if (spec.lengths.some(([a, b]) => a !== b)) return outputs;
    const dOut = s.random(out.shape, 4);
    const [dq, dk, dv] = [s.random(q.shape, 5), s.random(k.shape, 6), s.random(v.shape, 7)];
    s.backend.attentionBackward({
      q,
      k,
      v,
      out,
      lse,
      dOut,
      segments,
      scale,
      window,
      softcap: 0,
      sinks: undefined,
      dq,
      dk,
      dv,
      dSinks: undefined,
    });
    return { ...outputs, dq: await s.read(dq), dk: await s.read(dk), dv: await s.read(dv) };
  };
}

const activations: Record<ActivationKind, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  // erfc by its continued fraction from the tail inwards (x < -2), else 1 + erf by its series.
  gelu: (x) => x * normalCumulative(x),
  geluTanh: (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  identity: (x) => x,
};

function normalCumulative(x: number): number {
  if (x > 2) return 1 - normalCumulative(-x);
  const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  if (x < -2) {
    let fraction = -x;
    for (let n = 200; n > 0; n--) fraction = -x + n / fraction;
    return density / fraction;
  }
  let term = x;
  let sum = x;
  for (let n = 1; n < 60; n++) sum += term *= (x * x) / (2 * n + 1);
  return 0.5 + density * sum;
}

/** Raw bytes of a buffer as 16-bit words. */
async function words(backend: Backend, tensor: Tensor, count: number): Promise<Uint16Array> {
  return new Uint16Array((await backend.read(tensor.buffer, 0, 2 * count)).slice().buffer);
}

const reference = openReference("f64");

describe.each(loadNativeAddon().isas.map((isa) => ({ isa })))("native kernels, $isa", ({ isa }) => {
  it.each(Object.keys(attentionSpecs))("attention: %s", async (name) => {
    const run = runAttention(attentionSpecs[name]!);
    const tolerance = attentionSpecs[name]!.bound ? LARGE_SCORE_TOLERANCE : SUM_TOLERANCE;
    expectClose(await onStage(await openCpu(isa, "fp32"), run), await onStage(reference, run), tolerance);
  });

  it("fills with the bits of randomBits, in f32 and bf16", async () => {
    const backend = await openCpu(isa, "fp32");
    const [bound, seed, stream] = [0.25, 2 ** 52 + 77, 3];
    const wanted = Float32Array.from({ length: 5003 }, (_, i) =>
      Math.fround((randomBits(seed, stream, i) / 2 ** 31 - 1) * bound),
    );
    await onStage(backend, async (s) => {
      const [full, half] = [s.zeros([5003]), s.zeros([5003], "bf16")];
      backend.fillUniform({ y: full, bound, seed, stream });
      backend.fillUniform({ y: half, bound, seed, stream });
      expect(await s.read(full)).toEqual(wanted);
      expect(await s.read(half)).toEqual(wanted.map((value) => fromBf16Bits(toBf16Bits(value))));
      return {};
    });
  });

  it("casts every f16 and bf16 number, and rounds arbitrary f32 bits as dtype.ts does", async () => {
    const backend = await openCpu(isa, "fp32");
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const random = new Random(11);
    const bits = Uint32Array.from({ length: 40_000 }, (_, i) =>
      i % 2 ? random.nextUint32() : 0x32000000 + random.nextInt(0x16000000),
    );
    const floats = new Float32Array(bits.buffer);
    await onStage(backend, async (s) => {
      for (const [dtype, decode, encode] of [
        ["f16", (h: number) => f16Table()[h]!, toF16Bits],
        ["bf16", fromBf16Bits, toBf16Bits],
      ] as const) {
        const [half, wide, f64] = [s.zeros([65536], dtype), s.zeros([65536]), s.zeros([65536], "f64")];
        backend.write(half.buffer, new Uint8Array(all.buffer));
        backend.cast({ x: half, y: wide });
        expect(await s.read(wide)).toEqual(Float32Array.from(all, decode));
        backend.cast({ x: half, y: f64 });
        expect(await s.read(f64)).toEqual(Float32Array.from(all, decode));
        const from = s.zeros([40_000]);
        backend.write(from.buffer, new Uint8Array(bits.buffer));
        const to = viewOf(half.buffer, [40_000], dtype);
        backend.cast({ x: from, y: to });
        expect(await words(backend, to, 40_000)).toEqual(Uint16Array.from(floats, encode));
      }
      return {};
    });
  });

  it.each(["silu", "gelu", "geluTanh"] as const)(
    "%s holds its relative accuracy into the tails, in place",
    async (kind) => {
      const backend = await openCpu(isa, "fp32");
      const count = 2003;
      // Beyond -8.5 GELU is below 1e-16, and the tanh form's exponent alone loses digits.
      const gate = Float32Array.from({ length: count }, (_, i) => -8.5 + (18 * i) / count);
      gate.set([0, 1e4, 100, 30, 1e-20]);
      const found = await onStage(backend, async (s) => {
        const x = s.values([count], gate);
        backend.gatedActivation({
          activation: kind,
          gate: x,
          up: s.values([count], new Float32Array(count).fill(1)),
          y: x,
        });
        return { y: await s.read(x) };
      });
      // The exponents reach 36 and 60, whose own rounding (without fused arithmetic) is as many times the result's.
      const tolerance = FUNCTION_TOLERANCE * { silu: 1, gelu: 3, geluTanh: 10 }[kind];
      for (const [i, x] of gate.entries()) {
        const wanted = activations[kind](x);
        expect(Math.abs(found.y![i]! - wanted), `${kind}(${x})`).toBeLessThanOrEqual(
          tolerance * Math.abs(wanted),
        );
      }
    },
  );

  it("keeps loss and gradient finite for logits of any size", async () => {
    const backend = await openCpu(isa, "fp32");
    const size = 5003;
    const rows = [
      new Float32Array(size).fill(-3e38).fill(3e38, 7, 8),
      new Float32Array(size).fill(Number.NEGATIVE_INFINITY).fill(-2, 4990, 4992),
      new Float32Array(size).fill(1e4),
    ];
    const targets = [7, 4991, 0];
    const found = await onStage(backend, async (s) => {
      const logits = s.values([3, size], Float32Array.from(rows.flatMap((row) => [...row])));
      const loss = s.zeros([3]);
      backend.crossEntropy({ logits, targets: s.ints([3], targets), loss, dLogits: logits, gradScale: 2 });
      return { loss: await s.read(loss), gradient: await s.read(logits) };
    });
    expect(found.loss![0]).toBe(0);
    expect(found.loss![1]).toBeCloseTo(Math.log(2), 6);
    expect(found.loss![2]).toBeCloseTo(Math.log(size), 5);
    expect(found.gradient!.every(Number.isFinite)).toBe(true);
    expect(found.gradient![7]).toBe(0);
    expect([...found.gradient!.subarray(size + 4989, size + 4993)]).toEqual([0, 1, -1, 0]);
    expect(found.gradient![2 * size + 1]).toBeCloseTo(2 / size, 9);
  });

  it("sums in double and counts what is not finite", async () => {
    const backend = await openCpu(isa, "fp32");
    const count = 70_001;
    // In f32 the large terms would swallow the small ones.
    const values = Float32Array.from({ length: count }, (_, i) => (i % 2 ? 1 : i % 4 ? 1e8 : -1e8));
    values[count - 1] = 0.5;
    await onStage(backend, async (s) => {
      const [x, out] = [s.values([count], values), s.zeros([1])];
      backend.sum({ x, out });
      expect((await s.read(out))[0]).toBe(Math.fround(values.reduce((sum, value) => sum + value, 0)));
      const bad = values.slice();
      for (const [i, value] of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].entries()) {
        bad[i * 33_000] = value;
      }
      for (const dtype of ["f32", "bf16", "f16"] as const) {
        // 1e8 is infinite in f16.
        backend.countNonFinite({
          x: s.values([count], dtype === "f16" ? bad.map((v) => v / 1e4) : bad, dtype),
          out,
        });
        expect((await s.read(out))[0]).toBe(3);
      }
      return {};
    });
  });

  it("does nothing on empty inputs", async () => {
    const backend = await openCpu(isa, "fp32");
    await onStage(backend, async (s) => {
      const nothing = s.zeros([0, 2, 8]);
      const segments = { table: s.ints([0, 4], []), count: 0, maxQueries: 0, maxKeys: 0 };
      const lse = s.zeros([0, 2]);
      backend.attention({
        q: nothing,
        k: nothing,
        v: nothing,
        segments,
        scale: 1,
        window: 0,
        softcap: 0,
        sinks: undefined,
        out: nothing,
        lse,
      });
      backend.attentionBackward({
        ...{
          q: nothing,
          k: nothing,
          v: nothing,
          segments,
          scale: 1,
          window: 0,
          softcap: 0,
          sinks: undefined,
          out: nothing,
          lse,
        },
        ...{ dOut: nothing, dq: nothing, dk: nothing, dv: nothing, dSinks: undefined },
      });
      const out = s.values([1], [9]);
      backend.sum({ x: s.zeros([0]), out });
      expect((await s.read(out))[0]).toBe(0);
      return {};
    });
  });
});
