// Lays down the operands of products, which are written by hand: tensors become addresses after their type, size and bounds
// were checked, so that no mistake in JavaScript reads or writes outside a buffer. Not here: the calls themselves
// (linear-call.ts, grouped-call.ts).

import type { BlockTypeName } from "../../quant/ggml/index.ts";
import { type DType, dtypeBytes } from "../../tensor/dtype.ts";
import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import type { CallBuffer } from "./call-buffer.ts";

/** The numbers that native/gemm/gemm.h has for weights in blocks (Weight::Kind). */
export const blockKinds: Readonly<Record<BlockTypeName, number>> = {
  ...{ q4_0: 3, q4_1: 4, q5_0: 5, q5_1: 6, q8_0: 7, mxfp4: 8, q4_k: 9, q5_k: 10, q6_k: 11 },
};

export class ProductWriter {
  constructor(
    protected readonly calls: CallBuffer,
    protected readonly isLive: (address: number) => boolean,
  ) {}

  protected number(value: number): this {
    this.calls.number(value);
    return this;
  }

  protected zeros(n: number): this {
    this.calls.zeros(n);
    return this;
  }

  /** The address of a tensor of this dtype with exactly `count` elements. */
  protected tensor(tensor: Tensor, dtype: DType, count: number): this {
    if (tensor.dtype !== dtype) throw new BugError(`native linear: expected ${dtype}, got ${tensor.dtype}`);
    if (elementCount(tensor.shape) !== count) {
      throw new BugError(`native linear: expected ${count} elements, got shape [${tensor.shape}]`);
    }
    const { buffer, byteOffset } = tensor;
    if (!this.isLive(buffer.id)) throw new BugError("native linear: the tensor's buffer was freed");
    if (byteOffset < 0 || byteOffset + count * dtypeBytes[dtype] > buffer.sizeBytes) {
      throw new BugError(`native linear: tensor [${tensor.shape}] reaches beyond its buffer`);
    }
    return this.number(buffer.id + byteOffset);
  }

  protected f32(tensor: Tensor, count: number): this {
    return this.tensor(tensor, "f32", count);
  }

  protected optional(tensor: Tensor | undefined, count: number): this {
    return tensor ? this.f32(tensor, count) : this.number(0);
  }
}
