// Reference linear layers with low-rank adapters, forward and backward: plain triple loops.
// y = x W^T + bias + residual + scale * dropout(x) A^T B^T  (Hu et al. 2021, "LoRA").

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import { dropoutKeeps } from "../../util/rng.ts";
import type { Adapter, Dropout, LinearGradPart, LinearPart } from "../backend.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";

/** out[i,j] (+)= sum_k x[i,k] w[j,k], sums in double. */
function matmulTransposed(
  x: Floats,
  w: Floats,
  out: Floats,
  m: number,
  n: number,
  k: number,
  factor = 1,
): void {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) sum += x[i * k + p]! * w[j * k + p]!;
      out[i * n + j]! += factor * sum;
    }
  }
}

/** out[i,j] += sum_k x[i,k] w[k,j]. */
function matmul(x: Floats, w: Floats, out: Float64Array, m: number, n: number, k: number, factor = 1): void {
  for (let i = 0; i < m; i++) {
    for (let p = 0; p < k; p++) {
      const scaled = factor * x[i * k + p]!;
      for (let j = 0; j < n; j++) out[i * n + j]! += scaled * w[p * n + j]!;
    }
  }
}

/** out[i,j] += sum_t x[t,i] y[t,j]. */
function outerAccumulate(
  x: Floats,
  y: Floats,
  out: Floats,
  t: number,
  m: number,
  n: number,
  factor = 1,
): void {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < t; p++) sum += x[p * m + i]! * y[p * n + j]!;
      out[i * n + j]! += factor * sum;
    }
  }
}

function dropped(x: Floats, dropout: Dropout | undefined): Floats {
  if (!dropout || dropout.p === 0) return x;
  const out = x.slice();
  const keepScale = 1 / (1 - dropout.p);
  for (let i = 0; i < out.length; i++) {
    out[i] = dropoutKeeps(dropout.p, dropout.seed, dropout.stream, i) ? out[i]! * keepScale : 0;
  }
  return out;
}

export function linear(memory: ReferenceMemory, x: Tensor, parts: readonly LinearPart[]): void {
  const [tokens, inputs] = x.shape as [number, number];
  const xs = memory.floats(x);
  for (const part of parts) {
    const [outputs, columns] = part.weight.shape as [number, number];
    invariant(columns === inputs, `linear: weight [${part.weight.shape}] on input [${x.shape}]`);
    const sums = new Float64Array(tokens * outputs);
    if (part.residual) sums.set(memory.floats(part.residual));
    if (part.bias) {
      const bias = memory.floats(part.bias);
      for (let i = 0; i < sums.length; i++) sums[i]! += bias[i % outputs]!;
    }
    matmulTransposed(xs, memory.matrix(part.weight), sums, tokens, outputs, inputs);
    if (part.adapter) addAdapter(memory, xs, part.adapter, sums, tokens, outputs, inputs);
    memory.floats(part.y).set(sums);
  }
}

function addAdapter(
  memory: ReferenceMemory,
  xs: Floats,
  adapter: Adapter,
  sums: Float64Array,
  tokens: number,
  outputs: number,
  inputs: number,
): void {
  const rank = adapter.a.shape[0]!;
  const u = memory.floats(adapter.u);
  u.fill(0);
  matmulTransposed(dropped(xs, adapter.dropout), memory.floats(adapter.a), u, tokens, rank, inputs);
  matmulTransposed(u, memory.floats(adapter.b), sums, tokens, outputs, rank, adapter.scale);
}

export function linearBackward(
  memory: ReferenceMemory,
  x: Tensor | undefined,
  parts: readonly LinearGradPart[],
  dx: Tensor | undefined,
  accumulate: boolean,
): void {
  const first = parts[0];
  if (!first) return;
  const tokens = first.dy.shape[0]!;
  const inputs = first.weight.shape[1]!;
  const xs = x && memory.floats(x);
  const sums = dx && new Float64Array(tokens * inputs);
  if (dx && sums && accumulate) sums.set(memory.floats(dx));
  for (const part of parts) {
    const outputs = part.weight.shape[0]!;
    const dys = memory.floats(part.dy);
    if (sums) matmul(dys, memory.matrix(part.weight), sums, tokens, inputs, outputs);
    if (part.dWeight) {
      invariant(xs, "linearBackward: dWeight needs x");
      outerAccumulate(dys, xs, memory.floats(part.dWeight), tokens, outputs, inputs);
    }
    if (part.dBias) {
      const dBias = memory.floats(part.dBias);
      for (let i = 0; i < dys.length; i++) dBias[i % outputs]! += dys[i]!;
    }
    if (part.adapter) adapterBackward(memory, xs, part.adapter, dys, sums, tokens, outputs, inputs);
  }
  if (dx && sums) memory.floats(dx).set(sums);
}

function adapterBackward(
  memory: ReferenceMemory,
  xs: Floats | undefined,
  adapter: NonNullable<LinearGradPart["adapter"]>,
  dys: Floats,
  sums: Float64Array | undefined,
  tokens: number,
  outputs: number,
  inputs: number,
): void {
  const rank = adapter.a.shape[0]!;
  const du = new Float64Array(tokens * rank);
  matmul(dys, memory.floats(adapter.b), du, tokens, rank, outputs, adapter.scale);
  if (adapter.dB) {
    outerAccumulate(
      dys,
      memory.floats(adapter.u),
      memory.floats(adapter.dB),
      tokens,
      outputs,
      rank,
      adapter.scale,
    );
  }
  if (adapter.dA) {
    invariant(xs, "linearBackward: dA needs x");
    outerAccumulate(du, dropped(xs, adapter.dropout), memory.floats(adapter.dA), tokens, rank, inputs);
  }
  if (sums) {
    const through = new Float64Array(tokens * inputs);
    matmul(du, memory.floats(adapter.a), through, tokens, inputs, rank);
    const masked = dropped(through, adapter.dropout);
    for (let i = 0; i < sums.length; i++) sums[i]! += masked[i]!;
  }
}
