// Reference attention, forward and backward: one query at a time over its segment's visible keys.
// The backward pass recomputes probabilities from the saved log-sum-exp, as FlashAttention (Dao 2022).

import { type DType, encodeFrom } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Operands } from "../contract.ts";
import { eightBitRow, rowFromEightBits } from "./eight-bit-rows.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";

/** Calls visit(query row, first visible key row, end key row) for every query of every segment. */
function forEachQuery(
  table: Int32Array,
  count: number,
  window: number,
  visit: (query: number, keyStart: number, keyEnd: number, segment: number) => void,
): void {
  for (let s = 0; s < count; s++) {
    const [qStart, qLength, kStart, kLength] = table.subarray(4 * s, 4 * s + 4) as unknown as [
      number,
      number,
      number,
      number,
    ];
    for (let i = 0; i < qLength; i++) {
      const position = kLength - qLength + i;
      const first = window > 0 ? Math.max(0, position - window + 1) : 0;
      visit(qStart + i, kStart + first, kStart + position + 1, s);
    }
  }
}

export function attention(memory: ReferenceMemory, operands: Operands<"attention">): void {
  const { k, v } = operands;
  attend(memory, operands, k.shape[1]!, memory.floats(k), memory.floats(v), (place) => place);
}

/** The same over keys and values that are in blocks. */
export function cachedAttention(memory: ReferenceMemory, operands: Operands<"cachedAttention">): void {
  const { q, k, v, kvHeads, blocks, blockTokens, segments } = operands;
  const width = kvHeads * q.shape[2]!;
  invariant(k.dtype === v.dtype, "cached keys and values of two types");
  const [keys, values] = [k, v].map((tensor) => cachedRows(memory, tensor, width)) as [Floats, Floats];
  const lists = memory.ints(blocks);
  const table = memory.ints(segments.table);
  attend(memory, operands, kvHeads, keys, values, (place, segment) => {
    const start = table[4 * segment + 2]!;
    const key = place - start;
    return lists[start + Math.floor(key / blockTokens)]! * blockTokens + (key % blockTokens);
  });
}

/** All rows of a cache as numbers, [rows, width]. */
function cachedRows(memory: ReferenceMemory, tensor: Tensor, width: number): Floats {
  if (tensor.dtype !== "u8") return memory.values(tensor);
  const bytes = memory.raw(tensor);
  const rowBytes = width + width / 16;
  const numbers = new Float32Array((bytes.length / rowBytes) * width);
  for (let row = 0; row * width < numbers.length; row++)
    numbers.set(rowFromEightBits(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), width), row * width);
  return numbers;
}

export function storeRows(memory: ReferenceMemory, { x, index, y }: Operands<"storeRows">): void {
  const rows = memory.ints(index);
  const values = memory.floats(x);
  const width = values.length / Math.max(1, rows.length);
  const bytes = memory.raw(y);
  const rowBytes = bytes.length / y.shape[0]!;
  for (const [i, row] of rows.entries()) {
    const own = values.subarray(i * width, (i + 1) * width);
    bytes.set(y.dtype === "u8" ? eightBitRow(own) : encodeFrom(own, y.dtype as DType), row * rowBytes);
  }
}

/** `rowOf` says where the key at `place`, counted from kStart on, lies in ks and vs. */
function attend(
  memory: ReferenceMemory,
  operands: Omit<Operands<"attention">, "k" | "v">,
  kvHeads: number,
  ks: Floats,
  vs: Floats,
  rowOf: (place: number, segment: number) => number,
): void {
  const { q, segments, scale, window, softcap, sinks, out, lse } = operands;
  const [, heads, width] = q.shape as [number, number, number];
  const [qs, outs, lses] = [q, out, lse].map((t) => memory.floats(t)) as [never, never, never];
  const scores: number[] = [];
  forEachQuery(memory.ints(segments.table), segments.count, window, (query, keyStart, keyEnd, segment) => {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor((h * kvHeads) / heads);
      const sink = sinks ? memory.floats(sinks)[h]! : Number.NEGATIVE_INFINITY;
      let max = sink;
      for (let key = keyStart; key < keyEnd; key++) {
        const score = capped(
          scale *
            dot(qs, (query * heads + h) * width, ks, (rowOf(key, segment) * kvHeads + g) * width, width),
          softcap,
        );
        scores[key - keyStart] = score;
        max = Math.max(max, score);
      }
      let total = Math.exp(sink - max);
      const acc = new Float64Array(width);
      for (let key = keyStart; key < keyEnd; key++) {
        const weight = Math.exp(scores[key - keyStart]! - max);
        total += weight;
        const row = (rowOf(key, segment) * kvHeads + g) * width;
        for (let d = 0; d < width; d++) acc[d]! += weight * vs[row + d]!;
      }
      const outRow = (query * heads + h) * width;
      for (let d = 0; d < width; d++) (outs as Float64Array)[outRow + d] = acc[d]! / total;
      (lses as Float64Array)[query * heads + h] = max + Math.log(total);
    }
  });
}

export function attentionBackward(memory: ReferenceMemory, operands: Operands<"attentionBackward">): void {
  const { q, k, v, out, lse, dOut, segments, scale, window, softcap, sinks, dq, dk, dv, dSinks } = operands;
  const [, heads, width] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const [qs, ks, vs, outs, lses, dOuts] = [q, k, v, out, lse, dOut].map((t) =>
    memory.floats(t),
  ) as Float64Array[];
  invariant(qs && ks && vs && outs && lses && dOuts, "attentionBackward: inputs");
  const dqs = new Float64Array(qs.length);
  const dks = new Float64Array(ks.length);
  const dvs = new Float64Array(vs.length);
  const dSinkSums = new Float64Array(heads);
  forEachQuery(memory.ints(segments.table), segments.count, window, (query, keyStart, keyEnd) => {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor((h * kvHeads) / heads);
      const qRow = (query * heads + h) * width;
      const delta = dot(dOuts, qRow, outs, qRow, width);
      if (sinks && dSinks) {
        const weight = Math.exp(memory.floats(sinks)[h]! - lses[query * heads + h]!);
        dSinkSums[h]! -= weight * delta;
      }
      for (let key = keyStart; key < keyEnd; key++) {
        const kRow = (key * kvHeads + g) * width;
        const score = capped(scale * dot(qs, qRow, ks, kRow, width), softcap);
        const probability = Math.exp(score - lses[query * heads + h]!);
        const slope = softcap > 0 ? 1 - (score / softcap) ** 2 : 1;
        const dScore = scale * slope * probability * (dot(dOuts, qRow, vs, kRow, width) - delta);
        for (let d = 0; d < width; d++) {
          dvs[kRow + d]! += probability * dOuts[qRow + d]!;
          dqs[qRow + d]! += dScore * ks[kRow + d]!;
          dks[kRow + d]! += dScore * qs[qRow + d]!;
        }
      }
    }
  });
  memory.floats(dq).set(dqs);
  memory.floats(dk).set(dks);
  memory.floats(dv).set(dvs);
  if (dSinks) for (let h = 0; h < heads; h++) memory.floats(dSinks)[h]! += dSinkSums[h]!;
}

function capped(score: number, softcap: number): number {
  return softcap > 0 ? softcap * Math.tanh(score / softcap) : score;
}

function dot(a: ArrayLike<number>, aStart: number, b: ArrayLike<number>, bStart: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[aStart + i]! * b[bStart + i]!;
  return sum;
}
