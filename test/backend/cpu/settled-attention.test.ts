// Attention whose weights lie almost wholly on one key: what is left of its gradients is a difference of nearly equal
// numbers, and an optimizer that divides by their size turns rounding noise into whole steps. Where a weight is 1 to the
// bit the gradient of its query and key is 0 to the bit, as from transformers' softmax; near 1 it is held to float64.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../../src/backend/backend.ts";
import { openReference } from "../../../src/backend/reference.ts";
import { decodeToF32, encodeFrom } from "../../../src/tensor/dtype.ts";
import { elementCount, type Tensor, viewOf } from "../../../src/tensor/tensor.ts";
import { Random } from "../../../src/util/rng.ts";
import { cpuSets, openCpu } from "../../conformance/backends.ts";

const [heads, kvHeads, width] = [2, 1, 12];
/** Of dP's own size: dS is a difference of numbers that are rounded in their last bits. */
const tolerance = 2e-6;

/** dq, dk and dv of one sequence whose queries meet their own keys with `strength`. */
async function gradients(backend: Backend, tokens: number, strength: number, softcap = 0, sinks = false) {
  const random = new Random(11, 4);
  const draw = (count: number, size: number) =>
    Float32Array.from({ length: count }, () => size * random.nextNormal());
  const put = (shape: readonly number[], values: ArrayLike<number>): Tensor => {
    const type = backend.floatType;
    const bytes = encodeFrom(values, type);
    const buffer = backend.allocate(bytes.byteLength, "workspace");
    backend.write(buffer, bytes);
    return viewOf(buffer, shape, type);
  };
  // Each token's key is a direction of its own, and its queries are that direction many times as long.
  const keys = draw(tokens * kvHeads * width, 1);
  for (let token = 0; token < tokens; token++) {
    const key = keys.subarray(token * width, (token + 1) * width);
    const length = Math.hypot(...key);
    for (let d = 0; d < width; d++) key[d]! *= Math.sqrt(width) / length;
  }
  const queries = new Float32Array(tokens * heads * width);
  for (let i = 0; i < queries.length; i++) {
    const token = Math.floor(i / (heads * width));
    queries[i] = strength * keys[token * width + (i % width)]!;
  }
  const table = backend.allocate(16, "workspace");
  backend.write(table, encodeFrom([0, tokens, 0, tokens], "i32"));
  const shape = [tokens, heads, width];
  const keyShape = [tokens, kvHeads, width];
  const empty = (of: readonly number[]) => put(of, new Float32Array(elementCount(of)));
  const operands = {
    q: put(shape, queries),
    k: put(keyShape, keys),
    v: put(keyShape, draw(tokens * kvHeads * width, 1)),
    segments: { table: viewOf(table, [1, 4], "i32"), count: 1, maxQueries: tokens, maxKeys: tokens },
    ...{ scale: 1, window: 0, softcap, sinks: sinks ? put([heads], [1, 2]) : undefined },
  };
  const dOut = put(shape, draw(tokens * heads * width, 1));
  const [out, lse] = [empty(shape), empty([tokens, heads])];
  backend.attention({ ...operands, out, lse });
  const [dq, dk, dv] = [empty(shape), empty(keyShape), empty(keyShape)];
  backend.attentionBackward({ ...operands, out, lse, dOut, dq, dk, dv, dSinks: undefined });
  const read = async (tensor: Tensor) => decodeToF32(await backend.read(tensor.buffer), backend.floatType);
  return { dq: await read(dq), dk: await read(dk), dv: await read(dv) };
}

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

describe.each(cpuSets.filter(({ precision }) => precision === "fp32"))(
  "settled attention on $isa",
  ({ isa }) => {
    it.each([1, 9, 64, 65, 90])(
      "%i tokens, each all on its own key: no gradient of q and k",
      async (tokens) => {
        const backend = await openCpu(isa, "fp32", 1);
        const { dq, dk, dv } = await gradients(backend, tokens, 4000);
        expect(largest(dq)).toBe(0);
        expect(largest(dk)).toBe(0);
        expect(largest(dv)).toBeGreaterThan(0.5);
        backend.close();
      },
    );

    it.each([
      { strength: 1, softcap: 0, sinks: false },
      { strength: 3, softcap: 0, sinks: false },
      { strength: 3, softcap: 20, sinks: false },
      { strength: 1, softcap: 0, sinks: true },
    ])("strength $strength, soft cap $softcap, sinks $sinks: what is left is right", async (each) => {
      const backend = await openCpu(isa, "fp32", 1);
      const exact = openReference("f64");
      const { strength, softcap, sinks } = each;
      const found = await gradients(backend, 40, strength, softcap, sinks);
      const wanted = await gradients(exact, 40, strength, softcap, sinks);
      for (const name of ["dq", "dk", "dv"] as const) {
        // Scores of `strength` pass on what they are multiplied by.
        const size = Math.max(1, largest(wanted[name])) * (name === "dk" ? strength : 1);
        const off = largest(found[name].map((value, i) => value - wanted[name][i]!));
        expect(off / size, name).toBeLessThan(tolerance);
      }
      backend.close();
      exact.close();
    });
  },
);
