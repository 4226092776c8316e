// Linear layers with low-rank adapters, forward and backward, as matrix products. What layers share is done once: their input
// is packed and multiplied by all their A's in one launch, B joins the main product as further elements along K, and all
// gradients of factors are one launch (adapter-gradients.ts). A frozen weight costs its product with dy and nothing else.
// Few rows, dropout and tensors larger than a binding take plain products one after another (plain-linear.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import {
  type Adapter,
  type Kernels,
  type PlainLinearGradPart,
  type PlainLinearPart,
  plainParts,
} from "../backend.ts";
import { adapterGradients } from "./adapter-gradients.ts";
import { type Operand, operand } from "./commands.ts";
import { type Gpu, withScratch } from "./gpu.ts";
import { packedRowsIn } from "./packed-rows.ts";
import { addPlainAdapter, plainAdapterBackward, plainU } from "./plain-linear.ts";
import { vectorRows } from "./product-operands.ts";
import { isWhole, multiply, type Product, readsPacked } from "./products.ts";
import {
  mostProjections,
  type Projection,
  packedLayout,
  projectRows,
  rowsInMemory,
  together,
} from "./project-rows.ts";
import { addColumnSums } from "./rows.ts";

function hasDropout({ dropout }: Adapter): boolean {
  return dropout !== undefined && dropout.p > 0;
}

/** A layer's main product, without its adapter. */
function productOf(x: Tensor, { weight, bias, residual, y }: PlainLinearPart): Product {
  const [tokens, inputs] = x.shape as [number, number];
  const [outputs, columns] = weight.shape as [number, number];
  invariant(columns === inputs, `linear: weight [${weight.shape}] on input [${x.shape}]`);
  const inPlace = residual?.buffer === y.buffer && residual.byteOffset === y.byteOffset;
  return {
    ...{ m: tokens, n: outputs, k: inputs, a: x, b: weight, c: y, bias },
    residual: inPlace ? undefined : residual,
    accumulate: inPlace,
  };
}

/** A product with an adapter's step; undefined where it cannot take one. */
function withStep(gpu: Gpu, product: Product, adapter: Product["adapter"]): Product | undefined {
  if (product.bias && product.residual) return undefined;
  const joined = { ...product, adapter };
  return isWhole(gpu, joined) ? joined : undefined;
}

function linear(gpu: Gpu, x: Tensor, parts: readonly PlainLinearPart[]): void {
  const [tokens, inputs] = x.shape as [number, number];
  const products = parts.map((part) => productOf(x, part));
  if (tokens <= vectorRows || !products.every((product) => isWhole(gpu, product))) {
    for (const [i, { adapter, y }] of parts.entries()) {
      multiply(gpu, products[i]!);
      if (!adapter) continue;
      plainU(gpu, x, adapter);
      addPlainAdapter(gpu, adapter, y);
    }
    return;
  }
  const adapters = parts.flatMap(({ adapter }) => (adapter ? [adapter] : []));
  // Lanes gain nothing from a kernel that makes several narrow products at once.
  const alone = (adapter: Adapter) => gpu.lanes !== undefined || hasDropout(adapter);
  for (const adapter of adapters) if (alone(adapter)) plainU(gpu, x, adapter);
  const packs = products.some((product) => readsPacked(gpu, product));
  withScratch(gpu, packs ? packedLayout(tokens, inputs).sizeBytes : 16, (memory) => {
    const sizeBytes = packedLayout(tokens, inputs).sizeBytes;
    const packed = packs ? { buffer: memory, byteOffset: 0, sizeBytes } : undefined;
    project(
      gpu,
      x,
      adapters.filter((adapter) => !alone(adapter)),
      packed,
    );
    for (const [i, { adapter, y }] of parts.entries()) {
      const rows = packed && packedRowsIn(packed, tokens, inputs);
      const product = readsPacked(gpu, products[i]!) ? { ...products[i]!, packed: rows } : products[i]!;
      const rank = adapter?.a.shape[0] ?? 0;
      const step = adapter && {
        ...{ u: operand(adapter.u), ldu: rank, rank, factor: adapter.b, scale: adapter.scale },
      };
      const joined = withStep(gpu, product, step);
      multiply(gpu, joined ?? product);
      if (adapter && !joined) addPlainAdapter(gpu, adapter, y);
    }
  });
}

/** u = x A^T of every adapter, and x packed where there is room for it. */
function project(gpu: Gpu, x: Tensor, adapters: readonly Adapter[], packed: Operand | undefined): void {
  const projections = adapters.map(
    ({ a, u }): Projection => ({ factor: a, by: "a", scale: 1, u: operand(u), ldu: a.shape[0]! }),
  );
  const [first, ...others] = launchesOf(gpu, projections);
  if (packed || first) makeRows(gpu, x, packed, first ?? []);
  for (const some of others) makeRows(gpu, x, undefined, some);
}

/** As many projections a launch as fit. */
function launchesOf(gpu: Gpu, projections: readonly Projection[]): Projection[][] {
  const launches: Projection[][] = [];
  for (const one of projections) {
    const last = launches.at(-1);
    if (last && last.length < mostProjections && together(gpu, [...last, one])) last.push(one);
    else launches.push([one]);
  }
  return launches;
}

/** Packs rows where there is room for them and multiplies them by factors; makes them first where that was put off. */
function makeRows(
  gpu: Gpu,
  x: Tensor,
  packed: Operand | undefined,
  projections: readonly Projection[],
): void {
  const [rows, columns] = x.shape as [number, number];
  const job = { rows, columns, packed, projections };
  const maker = packed && gpu.deferred.makerOf(x);
  if (maker?.source.outputs === 1)
    gpu.deferred.use(maker, () => projectRows(gpu, { ...job, source: maker.source }));
  else projectRows(gpu, { ...job, source: rowsInMemory(operand(x), columns, columns) });
}

/** The product dx (+)= dy W. */
function inputGradient(
  dy: Tensor,
  { weight }: PlainLinearGradPart,
  dx: Tensor,
  accumulate: boolean,
): Product {
  const [outputs, inputs] = weight.shape as [number, number];
  return { m: dy.shape[0]!, n: inputs, k: outputs, a: dy, b: weight, bTransposed: true, c: dx, accumulate };
}

function linearBackward(
  gpu: Gpu,
  x: Tensor | undefined,
  parts: readonly PlainLinearGradPart[],
  dx: Tensor | undefined,
  accumulate: boolean,
): void {
  const tokens = parts[0]?.dy.shape[0] ?? 0;
  if (tokens === 0) return;
  let adds = accumulate;
  for (let first = 0; first < parts.length; first += mostProjections) {
    backwardOf(gpu, x, parts.slice(first, first + mostProjections), dx, adds);
    adds = true;
  }
  for (const { weight, dy, dWeight, dBias } of parts) {
    if (dWeight) {
      invariant(x, "linearBackward: dWeight needs x");
      const [outputs, inputs] = weight.shape as [number, number];
      multiply(gpu, {
        ...{ m: outputs, n: inputs, k: tokens, a: dy, b: x, c: dWeight },
        ...{ aTransposed: true, bTransposed: true, accumulate: true },
      });
    }
    if (dBias) addColumnSums(gpu, dy, dBias);
  }
}

/**
 * For at most mostProjections layers: du = scale dy B; dx (+)= dy W + dropout'(du A); dB += scale dy^T u; dA += du^T dropout(x).
 */
function backwardOf(
  gpu: Gpu,
  x: Tensor | undefined,
  parts: readonly PlainLinearGradPart[],
  dx: Tensor | undefined,
  accumulate: boolean,
): void {
  const tokens = parts[0]!.dy.shape[0]!;
  const inputs = parts[0]!.weight.shape[1]!;
  const joins = ({ adapter }: PlainLinearGradPart) => adapter !== undefined && !hasDropout(adapter);
  const products = parts.map((part, i) => dx && inputGradient(part.dy, part, dx, accumulate || i > 0));
  const whole = products.every((product) => !product || isWhole(gpu, product));
  const ranks = parts.map((part) => (whole && joins(part) ? part.adapter!.a.shape[0]! : 0));
  const ldu = ranks.reduce((sum, rank) => sum + rank, 0);
  const packs = whole && products.some((product) => product && readsPacked(gpu, product));
  const layouts = parts.map(({ dy }) => packedLayout(tokens, dy.shape[1]!));
  const packedBytes = packs ? layouts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) : 0;
  withScratch(gpu, packedBytes, (packedMemory) => {
    withScratch(gpu, 4 * tokens * ldu, (duMemory) => {
      let packedAt = 0;
      let column = 0;
      let made = 0;
      const duAt = (from: number) => ({
        ...{ buffer: duMemory, byteOffset: 4 * from, sizeBytes: 4 * (tokens * ldu - from) },
      });
      const projectionsOf = (i: number, from: number): Projection[] => {
        const { adapter } = parts[i]!;
        if (ranks[i] === 0) return [];
        return [{ factor: adapter!.b, by: "b", scale: adapter!.scale, u: duAt(from), ldu }];
      };
      for (const [i, part] of parts.entries()) {
        const { dy, adapter } = part;
        const { sizeBytes } = layouts[i]!;
        const rank = ranks[i]!;
        const outputs = dy.shape[1]!;
        const packed = packs ? { buffer: packedMemory, byteOffset: packedAt, sizeBytes } : undefined;
        const du = duAt(column);
        if (i < made) {
          // With the part before.
        } else if (packed && makesBoth(gpu, parts, ranks, i)) {
          const both = { ...packed, sizeBytes: sizeBytes + layouts[i + 1]!.sizeBytes };
          const projections = [...projectionsOf(i, column), ...projectionsOf(i + 1, column + rank)];
          const job = { rows: tokens, columns: outputs, packed: both, projections };
          const maker = gpu.deferred.makerOf(dy)!;
          gpu.deferred.use(maker, () => projectRows(gpu, { ...job, source: maker.source }));
          made = i + 2;
        } else if (gpu.lanes && rank > 0) {
          laneProjection(gpu, dy, adapter!, du, ldu);
        } else if (packed || rank > 0) {
          makeRows(gpu, dy, packed, projectionsOf(i, column));
        }
        const product = products[i];
        if (product) {
          const rows =
            packed && readsPacked(gpu, product) ? packedRowsIn(packed, tokens, outputs) : undefined;
          const step = rank > 0 ? { u: du, ldu, rank, factor: adapter!.a, scale: 1 } : undefined;
          multiply(gpu, { ...product, packed: rows, adapter: step });
        }
        if (adapter && rank === 0) plainAdapterBackward(gpu, x, dy, adapter, dx);
        packedAt += sizeBytes;
        column += rank;
      }
      if (ldu === 0) return;
      const du = { buffer: duMemory, byteOffset: 0, sizeBytes: 4 * tokens * ldu };
      const packed = packs ? { buffer: packedMemory, byteOffset: 0, sizeBytes: packedBytes } : undefined;
      adapterGradients(gpu, {
        x,
        inputs,
        tokens,
        du,
        ldu,
        parts: parts.map((part, i) => ({ ...part, rank: ranks[i]! })),
        packed,
      });
    });
  });
}

/** Columns of du: scale dy B. */
function laneProjection(gpu: Gpu, dy: Tensor, adapter: Adapter, du: Operand, ldc: number): void {
  const [m, k] = dy.shape as [number, number];
  const n = adapter.b.shape[1]!;
  const c: Tensor = { buffer: du.buffer, byteOffset: du.byteOffset, shape: [m, n], dtype: "f32" };
  multiply(gpu, { m, n, k, a: dy, b: adapter.b, bTransposed: true, c, ldc, scale: adapter.scale });
}

/** Whether one kernel that was put off makes the gradients of parts i and i + 1, in this order, for launches of both. */
function makesBoth(
  gpu: Gpu,
  parts: readonly PlainLinearGradPart[],
  ranks: readonly number[],
  i: number,
): boolean {
  const [one, other] = [parts[i]!, parts[i + 1]];
  const maker = gpu.deferred.makerOf(one.dy);
  if (!other || maker?.source.outputs !== 2 || gpu.deferred.makerOf(other.dy) !== maker) return false;
  const isFirst = gpu.deferred.isKind(maker, 0, one.dy);
  const factors = [one, other].flatMap(({ adapter }, at) =>
    ranks[i + at]! > 0 ? [{ factor: adapter!.b }] : [],
  );
  return isFirst && factors.length !== 1 && together(gpu, factors);
}

export function linearKernels(gpu: Gpu): Pick<Kernels, "linear" | "linearBackward"> {
  return {
    linear(x, parts) {
      if (x.shape[0] !== 0) linear(gpu, x, plainParts(parts));
    },
    linearBackward: (x, parts, dx, accumulate) => linearBackward(gpu, x, plainParts(parts), dx, accumulate),
  };
}
