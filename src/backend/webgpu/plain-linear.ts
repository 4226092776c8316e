// Adapters of linear layers as plain products one after another: for few rows, dropout, and tensors larger than a binding.
// linear.ts comes here where it cannot join them to the main product.

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Adapter, PlainLinearGradPart } from "../backend.ts";
import { type Gpu, withScratch } from "./gpu.ts";
import { multiply } from "./products.ts";

function maskOf(adapter: Adapter, on: 1 | 2 | 3) {
  return adapter.dropout && adapter.dropout.p > 0 ? { on, dropout: adapter.dropout } : undefined;
}

/** u = dropout(x) A^T. */
export function plainU(gpu: Gpu, x: Tensor, adapter: Adapter): void {
  const [m, k] = x.shape as [number, number];
  const n = adapter.a.shape[0]!;
  multiply(gpu, { m, n, k, a: x, b: adapter.a, c: adapter.u, mask: maskOf(adapter, 1) });
}

/** y += scale u B^T. */
export function addPlainAdapter(gpu: Gpu, { u, b, scale }: Adapter, y: Tensor): void {
  const [n, k] = b.shape as [number, number];
  multiply(gpu, { m: u.shape[0]!, n, k, a: u, b, c: y, accumulate: true, scale });
}

/** du = scale dy B; dB += scale dy^T u; dA += du^T dropout(x); dx += dropout'(du A). */
export function plainAdapterBackward(
  gpu: Gpu,
  x: Tensor | undefined,
  dy: Tensor,
  adapter: NonNullable<PlainLinearGradPart["adapter"]>,
  dx: Tensor | undefined,
): void {
  const [tokens, outputs] = dy.shape as [number, number];
  const [rank, inputs] = adapter.a.shape as [number, number];
  const { scale, dA, dB } = adapter;
  const over = { aTransposed: true, bTransposed: true, accumulate: true };
  if (dB) multiply(gpu, { m: outputs, n: rank, k: tokens, a: dy, b: adapter.u, c: dB, ...over, scale });
  if (!dA && !dx) return;
  withScratch(gpu, 4 * tokens * rank, (memory) => {
    const du: Tensor = { buffer: memory, byteOffset: 0, shape: [tokens, rank], dtype: "f32" };
    multiply(gpu, { m: tokens, n: rank, k: outputs, a: dy, b: adapter.b, bTransposed: true, c: du, scale });
    if (dA) {
      invariant(x, "linearBackward: dA needs x");
      const mask = maskOf(adapter, 2);
      multiply(gpu, { m: rank, n: inputs, k: tokens, a: du, b: x, c: dA, ...over, mask });
    }
    if (dx) {
      const onto = { b: adapter.a, bTransposed: true, c: dx, accumulate: true };
      multiply(gpu, { m: tokens, n: inputs, k: rank, a: du, ...onto, mask: maskOf(adapter, 3) });
    }
  });
}
