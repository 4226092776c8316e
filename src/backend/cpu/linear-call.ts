// Writes the calls of linear and linearBackward, the two kernels that carry lists. The order is that of
// native/products.cc. Not here: the tensors in them (product-writer.ts), experts' products (grouped-call.ts), every other
// kernel (write-call.ts).

import { blockRowBytes } from "../../quant/ggml/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import {
  type Adapter,
  isBlocks,
  isQuantized,
  type LinearGradPart,
  type LinearPart,
  type Matrix,
} from "../backend.ts";
import type { CallBuffer } from "./call-buffer.ts";
import { blockKinds, ProductWriter } from "./product-writer.ts";

export class LinearCalls extends ProductWriter {
  private readonly checked = new WeakMap<Matrix, Float64Array>();
  constructor(
    calls: CallBuffer,
    private readonly ids: { readonly linear: number; readonly linearBackward: number },
    private readonly precisionCode: number,
    isLive: (address: number) => boolean,
  ) {
    super(calls, isLive);
  }

  linear(x: Tensor, parts: readonly LinearPart[]): void {
    const [t, width] = x.shape as [number, number];
    this.calls.start();
    this.number(this.precisionCode).f32(x, t * width);
    this.number(t).number(width).number(parts.length);
    for (const part of parts) {
      const [rows, columns] = part.weight.shape as [number, number];
      if (columns !== width) throw new BugError(`linear: weight [${rows}, ${columns}] on input [${x.shape}]`);
      this.matrix(part.weight).adapter(part.adapter, t, rows, columns);
      this.optional(part.bias, rows)
        .optional(part.residual, t * rows)
        .f32(part.y, t * rows);
    }
    this.calls.finish(this.ids.linear);
  }

  /** False when there is nothing to do. */
  linearBackward(
    x: Tensor | undefined,
    parts: readonly LinearGradPart[],
    dx: Tensor | undefined,
    accumulate: boolean,
  ): boolean {
    const first = parts[0];
    if (!first) return false;
    const t = first.dy.shape[0]!;
    const width = first.weight.shape[1]!;
    this.calls.start();
    this.number(this.precisionCode).optional(x, t * width);
    this.number(t).number(width).number(parts.length);
    this.optional(dx, t * width).number(accumulate ? 1 : 0);
    for (const part of parts) {
      const [rows, columns] = part.weight.shape as [number, number];
      if (columns !== width)
        throw new BugError(`linearBackward: weights [${first.weight.shape}] and [${rows}, ${columns}]`);
      if (!x && (part.dWeight || part.adapter?.dA))
        throw new BugError("linearBackward: dA and dWeight need x");
      this.matrix(part.weight).adapter(part.adapter, t, rows, columns);
      this.f32(part.dy, t * rows);
      this.optional(part.dWeight, rows * columns).optional(part.dBias, rows);
    }
    this.calls.finish(this.ids.linearBackward);
    return true;
  }

  /** A weight [rows, columns]: kind, shape, data, and what a quantised one needs beside. */
  private matrix(matrix: Matrix): this {
    if (!isQuantized(matrix)) return this.checkedMatrix(matrix);
    // Decoding multiplies by the same weights for every token: what was checked once is still so while they live.
    const known = this.checked.get(matrix);
    const { codes, absmax, codebook, nested } = matrix;
    const lives =
      this.isLive(codes.buffer.id) &&
      this.isLive(absmax.buffer.id) &&
      this.isLive(codebook.buffer.id) &&
      (!nested || (this.isLive(nested.codebook.buffer.id) && this.isLive(nested.absmax.buffer.id)));
    if (known && lives) {
      this.calls.copy(known);
      return this;
    }
    const first = this.calls.position;
    this.checkedMatrix(matrix);
    this.checked.set(matrix, this.calls.written(first));
    return this;
  }

  private checkedMatrix(matrix: Matrix): this {
    const [rows, columns] = matrix.shape as readonly [number, number];
    const size = rows * columns;
    if (isBlocks(matrix)) {
      this.number(blockKinds[matrix.type]).number(rows).number(columns);
      return this.tensor(matrix.blocks, "u8", rows * blockRowBytes(matrix.type, columns)).zeros(7);
    }
    if (!isQuantized(matrix)) {
      if (matrix.dtype !== "f32" && matrix.dtype !== "bf16") {
        throw new BugError(`native linear: weights are f32, bf16 or quantised, not ${matrix.dtype}`);
      }
      this.number(matrix.dtype === "f32" ? 0 : 1)
        .number(rows)
        .number(columns);
      this.tensor(matrix, matrix.dtype, size);
      return this.zeros(7);
    }
    const { blockSize, nested } = matrix;
    const blocks = Math.ceil(size / blockSize);
    this.number(2).number(rows).number(columns);
    this.tensor(matrix.codes, "u8", Math.ceil(size / 2));
    this.f32(matrix.codebook, 16).number(blockSize);
    this.tensor(matrix.absmax, nested ? "u8" : "f32", blocks);
    if (!nested) return this.number(0).number(0).number(1).number(0);
    this.f32(nested.codebook, 256).f32(nested.absmax, Math.ceil(blocks / nested.blockSize));
    return this.number(nested.blockSize).number(nested.offset);
  }

  private adapter(
    adapter: (Adapter & LinearGradPart["adapter"]) | undefined,
    t: number,
    rows: number,
    columns: number,
  ): this {
    if (!adapter) return this.zeros(11);
    const rank = adapter.a.shape[0]!;
    this.number(rank)
      .f32(adapter.a, rank * columns)
      .f32(adapter.b, rows * rank)
      .number(adapter.scale);
    this.f32(adapter.u, t * rank);
    this.optional(adapter.dA, rank * columns).optional(adapter.dB, rows * rank);
    const { p, seed, stream } = adapter.dropout ?? { p: 0, seed: 0, stream: 0 };
    return this.number(Math.floor(p * 2 ** 32))
      .number(1 / (1 - p))
      .number(seed)
      .number(stream);
  }
}
