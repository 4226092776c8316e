// Writes the calls of groupedLinear and groupedLinearBackward, whose weights are stacks of all experts'. The order is that
// of native/products.cc. Not here: the tensors in them (product-writer.ts), layers of one weight (linear-call.ts).

import { blockRowBytes } from "../../quant/ggml/index.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import {
  type GroupedGradPart,
  type GroupedPart,
  type GroupedRows,
  isBlockStack,
  isQuantizedStack,
  type MatrixStack,
  type StackAdapter,
} from "../backend.ts";
import type { CallBuffer } from "./call-buffer.ts";
import { blockKinds, ProductWriter } from "./product-writer.ts";

export class GroupedCalls extends ProductWriter {
  constructor(
    calls: CallBuffer,
    private readonly ids: { readonly forward: number; readonly backward: number },
    private readonly precisionCode: number,
    isLive: (address: number) => boolean,
  ) {
    super(calls, isLive);
  }

  forward(x: Tensor, rows: GroupedRows, part: GroupedPart): void {
    const [experts, out, width] = part.weight.shape as readonly [number, number, number];
    const count = part.y.shape[0]!;
    this.calls.start();
    this.number(this.precisionCode).input(x, width, count, rows).rows(rows, count, experts);
    this.stack(part.weight).adapter(part.adapter, count, experts, out, width);
    this.optional(part.bias, experts * out).f32(part.y, count * out);
    this.calls.finish(this.ids.forward);
  }

  backward(x: Tensor | undefined, rows: GroupedRows, part: GroupedGradPart, dx: Tensor | undefined): void {
    const [experts, out, width] = part.weight.shape as readonly [number, number, number];
    const count = part.dy.shape[0]!;
    if (!x && (part.dWeight || part.adapter?.dA))
      throw new BugError("groupedLinearBackward: dA and dWeight need x");
    this.calls.start();
    this.number(this.precisionCode).input(x, width, count, rows).rows(rows, count, experts);
    this.stack(part.weight).adapter(part.adapter, count, experts, out, width);
    this.f32(part.dy, count * out);
    this.optional(part.dWeight, experts * out * width).optional(part.dBias, experts * out);
    this.optional(dx, count * width);
    this.calls.finish(this.ids.backward);
  }

  private input(x: Tensor | undefined, width: number, count: number, { index }: GroupedRows): this {
    if (!x) return this.number(0);
    const [found, columns] = x.shape as [number, number];
    if (columns !== width || (!index && found !== count))
      throw new BugError(`grouped product: input [${x.shape}] for ${count} rows of ${width}`);
    return this.f32(x, found * width);
  }

  private rows({ offsets, index, few }: GroupedRows, count: number, experts: number): this {
    this.number(count).tensor(offsets, "i32", experts + 1);
    if (index) this.tensor(index, "i32", count);
    else this.number(0);
    return this.number(few ? 1 : 0);
  }

  private stack(stack: MatrixStack): this {
    const [experts, out, width] = stack.shape as readonly [number, number, number];
    const size = out * width;
    this.number(experts);
    if (isBlockStack(stack)) {
      this.number(blockKinds[stack.type]).number(out).number(width);
      const bytes = experts * out * blockRowBytes(stack.type, width);
      return this.tensor(stack.blocks, "u8", bytes).zeros(8);
    }
    if (!isQuantizedStack(stack)) {
      if (stack.dtype !== "f32" && stack.dtype !== "bf16")
        throw new BugError(`grouped product: weights are f32, bf16 or quantised, not ${stack.dtype}`);
      this.number(stack.dtype === "f32" ? 0 : 1)
        .number(out)
        .number(width);
      return this.tensor(stack, stack.dtype, experts * size).zeros(8);
    }
    const { blockSize, nested } = stack;
    const blocks = Math.ceil(size / blockSize);
    this.number(2).number(out).number(width);
    this.tensor(stack.codes, "u8", experts * Math.ceil(size / 2));
    this.f32(stack.codebook, 16).number(blockSize);
    this.tensor(stack.absmax, nested ? "u8" : "f32", experts * blocks);
    if (!nested) return this.number(0).number(0).number(1).number(0).number(0);
    this.f32(nested.codebook, 256).f32(nested.absmax, experts * Math.ceil(blocks / nested.blockSize));
    return this.number(nested.blockSize).number(0).f32(nested.offsets, experts);
  }

  private adapter(
    adapter: (StackAdapter & GroupedGradPart["adapter"]) | undefined,
    count: number,
    experts: number,
    out: number,
    width: number,
  ): this {
    if (!adapter) return this.zeros(11);
    const rank = adapter.b.shape[2]!;
    this.number(rank)
      .f32(adapter.a, experts * rank * width)
      .f32(adapter.b, experts * out * rank)
      .number(adapter.scale);
    this.f32(adapter.u, count * rank);
    this.optional(adapter.dA, experts * rank * width).optional(adapter.dB, experts * out * rank);
    return this.number(0).number(1).number(0).number(0);
  }
}
