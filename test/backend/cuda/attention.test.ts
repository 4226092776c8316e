// Attention of the CUDA backend on its emulator, beyond what the conformance cases hold: heads that fill a tile in part, the
// same bits again, tensors that tensor cores' tiles cannot read, and heads that are too wide.

import { describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../../src/backend/backend.ts";
import { openCuda } from "../../../src/backend/cuda.ts";
import { openReference } from "../../../src/backend/reference.ts";
import { UserError } from "../../../src/util/errors.ts";
import "../../conformance/backends.ts";
import { Stage } from "../../conformance/stage.ts";

interface Shape {
  readonly lengths: readonly (readonly [number, number])[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  /** Elements that stand before q, k and v in their memory. */
  readonly shift?: number;
}

/** The elements from `shift` on of memory of its own. */
function shifted(s: Stage, shape: readonly number[], seed: number, shift: number): Tensor {
  const whole = s.random([shape.reduce((a, b) => a * b, 1) + shift], seed);
  return { ...whole, shape, byteOffset: whole.byteOffset + shift * (whole.dtype === "f64" ? 8 : 4) };
}

async function outputsOf(backend: Backend, given: Shape): Promise<Record<string, Float32Array>> {
  const { lengths, heads, kvHeads, width, window = 0, softcap = 0, sinks: withSinks, shift = 0 } = given;
  const s = new Stage(backend);
  const [tq, tk] = ([0, 1] as const).map((side) => lengths.reduce((sum, each) => sum + each[side], 0));
  const q = shifted(s, [tq!, heads, width], 1, shift);
  const [k, v] = [shifted(s, [tk!, kvHeads, width], 2, shift), shifted(s, [tk!, kvHeads, width], 3, shift)];
  const [out, lse] = [s.zeros(q.shape), s.zeros([tq!, heads])];
  const sinks = withSinks ? s.random([heads], 4, 2) : undefined;
  const scale = 2 / Math.sqrt(width);
  const shared = { q, k, v, segments: s.segments(lengths), scale, window, softcap, sinks };
  s.backend.attention({ ...shared, out, lse });
  const results: Record<string, Tensor> = { out, lse };
  if (lengths.every(([queries, keys]) => queries === keys)) {
    const [dq, dk, dv] = [s.zeros(q.shape), s.zeros(k.shape), s.zeros(v.shape)];
    const dSinks = sinks && s.random([heads], 5);
    s.backend.attentionBackward({
      ...{ ...shared, out, lse, dOut: s.random(q.shape, 6) },
      ...{ dq, dk, dv, dSinks },
    });
    Object.assign(results, { dq, dk, dv, ...(dSinks ? { dSinks } : {}) });
  }
  const read: Record<string, Float32Array> = {};
  for (const [name, tensor] of Object.entries(results)) read[name] = await s.read(tensor);
  await s.checkGuards();
  s.free();
  return read;
}

async function onCuda<T>(precision: "bf16" | "fp32", body: (backend: Backend) => Promise<T>): Promise<T> {
  const backend = (await openCuda({ precision }))!;
  try {
    return await body(backend);
  } finally {
    backend.close();
  }
}

/** Largest difference over the largest magnitude. */
function distance(actual: Float32Array, wanted: Float32Array): number {
  const most = (list: Iterable<number>) => Math.max(...Array.from(list, Math.abs));
  return most(actual.map((value, i) => value - wanted[i]!)) / most(wanted);
}

const shapes: Shape[] = [
  { lengths: [[21, 21]], heads: 2, kvHeads: 1, width: 96 },
  {
    lengths: [
      [3, 3],
      [70, 70],
    ],
    heads: 2,
    kvHeads: 2,
    width: 100,
    window: 33,
  },
  { lengths: [[40, 40]], heads: 3, kvHeads: 1, width: 192, softcap: 1.5, sinks: true },
  { lengths: [[35, 35]], heads: 2, kvHeads: 1, width: 320, window: 17, sinks: true },
  { lengths: [[30, 75]], heads: 4, kvHeads: 2, width: 36, softcap: 3 },
  {
    lengths: [
      [2, 200],
      [16, 40],
    ],
    heads: 12,
    kvHeads: 1,
    width: 72,
    window: 90,
    sinks: true,
  },
];

describe("attention of the CUDA backend", () => {
  // Inputs, probabilities and their gradients are rounded to bf16, to within 2^-9; f32 sums stay within 2e-5.
  it.each([
    ["bf16", 1.5e-2],
    ["fp32", 2e-5],
  ] as const)(
    "in %s is right where heads and segments fill tiles in part, and the same each time",
    async (precision, tolerance) => {
      const reference = openReference("f64");
      await onCuda(precision, async (backend) => {
        for (const shape of shapes) {
          const [first, again] = [await outputsOf(backend, shape), await outputsOf(backend, shape)];
          expect(again).toEqual(first);
          for (const [name, wanted] of Object.entries(await outputsOf(reference, shape))) {
            expect(distance(first[name]!, wanted), `${name} of ${JSON.stringify(shape)}`).toBeLessThan(
              tolerance,
            );
          }
        }
      });
    },
  );

  it("takes tensors that do not begin at 16 bytes, in f32", async () => {
    const shape = { lengths: [[50, 50]], heads: 2, kvHeads: 1, width: 32, shift: 1 } as const;
    const exact = await onCuda("fp32", (backend) => outputsOf(backend, shape));
    expect(await onCuda("bf16", (backend) => outputsOf(backend, shape))).toEqual(exact);
  });

  it("refuses heads that are too wide in a sentence", async () => {
    await onCuda("bf16", async (backend) => {
      for (const length of [1, 30]) {
        const shape: Shape = { lengths: [[length, length]], heads: 1, kvHeads: 1, width: 516 };
        await expect(outputsOf(backend, shape)).rejects.toThrow(UserError);
        await expect(outputsOf(backend, shape)).rejects.toThrow(/516 wide.*up to 512.*--backend cpu/);
      }
    });
  });
});
