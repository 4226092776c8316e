// Writes the arguments of native kernel calls, one call behind the other: tensors become addresses after their type,
// size and bounds were checked, so that no mistake in JavaScript reads or writes outside a buffer. A call is its kernel's
// id, the count of its arguments and these, in the order of native/call.cc.

import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount, type Tensor } from "../tensor/tensor.ts";
import { BugError } from "../util/errors.ts";
import { type AdamwUpdate, type Adapter, isQuantized, type LinearGradPart, type Matrix } from "./backend.ts";

/** As enum DType in native/kernels.h. */
export const dtypeCodes: Record<DType, number> = { f32: 0, bf16: 1, f16: 2, f64: 3, i32: 4, u8: 5 };

/** Numbers before a call's arguments: the kernel's id and the count. */
const headLength = 2;

export class CallArguments {
  /** Where the call being written begins, and where its next argument goes. */
  private first = 0;
  private count = 0;
  private readonly checked = new WeakMap<Matrix, Float64Array>();
  constructor(
    private readonly values: Float64Array,
    private readonly mostPerCall: number,
    private readonly isLive: (address: number) => boolean,
  ) {}

  /** Begins a call; one that was begun and not finished is forgotten. */
  start(): this {
    this.count = this.first + headLength;
    return this;
  }

  finish(kernel: number): void {
    this.values[this.first] = kernel;
    this.values[this.first + 1] = this.count - this.first - headLength;
    this.first = this.count;
  }

  /** Whether any call fits behind those that are finished. */
  get hasRoom(): boolean {
    return this.first + headLength + this.mostPerCall <= this.values.length;
  }

  /** The length of all finished calls, which make room for others. */
  take(): number {
    const length = this.first;
    this.first = 0;
    return length;
  }

  number(value: number): this {
    if (this.count === this.values.length) throw new BugError("native call: too many arguments");
    this.values[this.count++] = value;
    return this;
  }

  private zeros(n: number): this {
    if (this.count + n > this.values.length) throw new BugError("native call: too many arguments");
    this.values.fill(0, this.count, this.count + n);
    this.count += n;
    return this;
  }

  /** The address of a tensor of this dtype with exactly (or, with "atLeast", no fewer than) `count` elements. */
  tensor(tensor: Tensor, dtype: DType, count: number, atLeast = false): this {
    if (tensor.dtype !== dtype) throw new BugError(`native call: expected ${dtype}, got ${tensor.dtype}`);
    const elements = elementCount(tensor.shape);
    if (atLeast ? elements < count : elements !== count) {
      throw new BugError(`native call: expected ${count} elements, got shape [${tensor.shape}]`);
    }
    return this.address(tensor, elements);
  }

  f32(tensor: Tensor, count: number): this {
    return this.tensor(tensor, "f32", count);
  }

  optional(tensor: Tensor | undefined, count: number): this {
    return tensor ? this.f32(tensor, count) : this.number(0);
  }

  /** Address and dtype code of a tensor of any of these types. */
  typed(tensor: Tensor, allowed: readonly DType[], count: number): this {
    if (!allowed.includes(tensor.dtype)) {
      throw new BugError(`native call: expected ${allowed.join(" or ")}, got ${tensor.dtype}`);
    }
    return this.tensor(tensor, tensor.dtype, count).number(dtypeCodes[tensor.dtype]);
  }

  /** What every AdamW update ends with. */
  adamwConstants(update: Omit<AdamwUpdate, "m" | "v">): this {
    this.number(update.learningRate).number(update.beta1).number(update.beta2);
    this.number(update.epsilon).number(update.weightDecay).number(update.step);
    return this.optional(update.clip?.sumSquares, 1).number(update.clip?.maxNorm ?? 0);
  }

  private address(tensor: Tensor, elements: number): this {
    const { buffer, byteOffset, dtype } = tensor;
    if (!this.isLive(buffer.id)) throw new BugError("native call: the tensor's buffer was freed");
    if (byteOffset < 0 || byteOffset + elements * dtypeBytes[dtype] > buffer.sizeBytes) {
      throw new BugError(`native call: tensor [${tensor.shape}] reaches beyond its buffer`);
    }
    return this.number(buffer.id + byteOffset);
  }

  /** A weight [rows, columns]: kind, shape, data, and what a quantised one needs beside. */
  matrix(matrix: Matrix): this {
    if (!isQuantized(matrix)) return this.checkedMatrix(matrix);
    // Decoding multiplies by the same weights for every token: what was checked once is still so while they live.
    const known = this.checked.get(matrix);
    const { codes, absmax, codebook, nested } = matrix;
    const lives =
      this.isLive(codes.buffer.id) &&
      this.isLive(absmax.buffer.id) &&
      this.isLive(codebook.buffer.id) &&
      (!nested || (this.isLive(nested.codebook.buffer.id) && this.isLive(nested.absmax.buffer.id)));
    if (known && lives && this.count + known.length <= this.values.length) {
      this.values.set(known, this.count);
      this.count += known.length;
      return this;
    }
    const first = this.count;
    this.checkedMatrix(matrix);
    this.checked.set(matrix, this.values.slice(first, this.count));
    return this;
  }

  private checkedMatrix(matrix: Matrix): this {
    const [rows, columns] = matrix.shape as readonly [number, number];
    const size = rows * columns;
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

  adapter(
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
