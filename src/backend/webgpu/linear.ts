// Linear layers with low-rank adapters, forward and backward, as matrix products. A frozen weight costs its product with
// dy and nothing else.

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Adapter, Kernels, LinearGradPart, LinearPart } from "../backend.ts";
import type { Gpu } from "./gpu.ts";
import { withScratch } from "./gpu.ts";
import { multiply } from "./products.ts";
import { addColumnSums } from "./rows.ts";

function maskOf(adapter: Adapter, on: 1 | 2 | 3) {
  return adapter.dropout && adapter.dropout.p > 0 ? { on, dropout: adapter.dropout } : undefined;
}

function linearPart(gpu: Gpu, x: Tensor, part: LinearPart): void {
  const [tokens, inputs] = x.shape as [number, number];
  const outputs = part.weight.shape[0]!;
  invariant(part.weight.shape[1] === inputs, `linear: weight [${part.weight.shape}] on input [${x.shape}]`);
  const { y, residual, adapter } = part;
  const inPlace = residual?.buffer === y.buffer && residual.byteOffset === y.byteOffset;
  multiply(gpu, {
    m: tokens,
    n: outputs,
    k: inputs,
    a: x,
    b: part.weight,
    c: y,
    bias: part.bias,
    residual: inPlace ? undefined : residual,
    accumulate: inPlace,
  });
  if (!adapter) return;
  const rank = adapter.a.shape[0]!;
  const mask = maskOf(adapter, 1);
  multiply(gpu, { m: tokens, n: rank, k: inputs, a: x, b: adapter.a, c: adapter.u, mask });
  const { scale } = adapter;
  multiply(gpu, {
    m: tokens,
    n: outputs,
    k: rank,
    a: adapter.u,
    b: adapter.b,
    c: y,
    accumulate: true,
    scale,
  });
}

function linearBackward(
  gpu: Gpu,
  x: Tensor | undefined,
  parts: readonly LinearGradPart[],
  dx: Tensor | undefined,
  accumulate: boolean,
): void {
  let adds = accumulate;
  for (const part of parts) {
    const { weight, dy, adapter, dWeight, dBias } = part;
    const [outputs, inputs] = weight.shape as [number, number];
    const tokens = dy.shape[0]!;
    if (tokens === 0) continue;
    if (dx) {
      multiply(gpu, {
        m: tokens,
        n: inputs,
        k: outputs,
        a: dy,
        b: weight,
        bTransposed: true,
        c: dx,
        accumulate: adds,
      });
      adds = true;
    }
    if (dWeight) {
      invariant(x, "linearBackward: dWeight needs x");
      multiply(gpu, {
        m: outputs,
        n: inputs,
        k: tokens,
        a: dy,
        aTransposed: true,
        b: x,
        bTransposed: true,
        c: dWeight,
        accumulate: true,
      });
    }
    if (dBias) addColumnSums(gpu, dy, dBias);
    if (adapter) adapterBackward(gpu, x, dy, adapter, dx);
  }
}

/** du = scale dy B; dB += scale dy^T u; dA += du^T dropout(x); dx += dropout'(du A). */
function adapterBackward(
  gpu: Gpu,
  x: Tensor | undefined,
  dy: Tensor,
  adapter: NonNullable<LinearGradPart["adapter"]>,
  dx: Tensor | undefined,
): void {
  const [tokens, outputs] = dy.shape as [number, number];
  const [rank, inputs] = adapter.a.shape as [number, number];
  const { scale, dA, dB } = adapter;
  if (dB) {
    const [a, b] = [dy, adapter.u];
    multiply(gpu, {
      m: outputs,
      n: rank,
      k: tokens,
      a,
      aTransposed: true,
      b,
      bTransposed: true,
      c: dB,
      accumulate: true,
      scale,
    });
  }
  if (!dA && !dx) return;
  withScratch(gpu, 4 * tokens * rank, (memory) => {
    const du: Tensor = { buffer: memory, byteOffset: 0, shape: [tokens, rank], dtype: "f32" };
    multiply(gpu, { m: tokens, n: rank, k: outputs, a: dy, b: adapter.b, bTransposed: true, c: du, scale });
    if (dA) {
      invariant(x, "linearBackward: dA needs x");
      multiply(gpu, {
        m: rank,
        n: inputs,
        k: tokens,
        a: du,
        aTransposed: true,
        b: x,
        bTransposed: true,
        c: dA,
        accumulate: true,
        mask: maskOf(adapter, 2),
      });
    }
    if (dx) {
      multiply(gpu, {
        m: tokens,
        n: inputs,
        k: rank,
        a: du,
        b: adapter.a,
        bTransposed: true,
        c: dx,
        accumulate: true,
        mask: maskOf(adapter, 3),
      });
    }
  });
}

export function linearKernels(gpu: Gpu): Pick<Kernels, "linear" | "linearBackward"> {
  return {
    linear(x, parts) {
      if (x.shape[0] === 0) return;
      for (const part of parts) linearPart(gpu, x, part);
    },
    linearBackward: (x, parts, dx, accumulate) => linearBackward(gpu, x, parts, dx, accumulate),
  };
}
