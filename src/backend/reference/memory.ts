// Memory of the reference backend: JavaScript arrays behind opaque handles, and the views its kernels use.

import { decodeGguf } from "../../quant/ggml/index.ts";
import { type DType, decodeToF32, encodeFrom } from "../../tensor/dtype.ts";
import { type DeviceBuffer, elementCount, type Tensor, tensorBytes } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import { isBlocks, isQuantized, type Matrix, type QuantizedMatrix } from "../backend.ts";
import { Ledger, type MemoryCategory } from "../ledger.ts";

export type Floats = Float32Array | Float64Array;

export class ReferenceMemory {
  readonly ledger = new Ledger();
  private readonly blocks = new Map<number, { bytes: Uint8Array; category: MemoryCategory }>();
  private nextId = 1;

  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer {
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(Math.ceil(sizeBytes / 8) * 8);
    } catch {
      throw new UserError(`out of memory: ${sizeBytes} bytes for ${category} could not be allocated`);
    }
    const id = this.nextId++;
    this.blocks.set(id, { bytes, category });
    this.ledger.add(category, sizeBytes);
    return { id, sizeBytes };
  }

  bytesOf(buffer: DeviceBuffer): Uint8Array {
    const block = this.blocks.get(buffer.id);
    if (!block) throw new BugError(`use of freed buffer ${buffer.id}`);
    return block.bytes;
  }

  free(buffer: DeviceBuffer): void {
    const block = this.blocks.get(buffer.id);
    if (!block) throw new BugError(`buffer ${buffer.id} freed twice`);
    this.blocks.delete(buffer.id);
    this.ledger.remove(block.category, buffer.sizeBytes);
  }

  clear(): void {
    this.blocks.clear();
  }

  /** The tensor's own f32 or f64 memory; writes go through. */
  floats(tensor: Tensor): Floats {
    const bytes = this.bytesOf(tensor.buffer);
    this.checkRange(tensor);
    const count = elementCount(tensor.shape);
    const offset = bytes.byteOffset + tensor.byteOffset;
    if (tensor.dtype === "f32") return new Float32Array(bytes.buffer, offset, count);
    if (tensor.dtype === "f64") return new Float64Array(bytes.buffer, offset, count);
    throw new BugError(`expected a float tensor, got ${tensor.dtype}`);
  }

  /** The numbers a tensor of any dtype holds; a copy unless it is f32 or f64. */
  values(tensor: Tensor): Floats {
    if (tensor.dtype === "f32" || tensor.dtype === "f64") return this.floats(tensor);
    return decodeToF32(this.raw(tensor), tensor.dtype);
  }

  ints(tensor: Tensor): Int32Array {
    if (tensor.dtype !== "i32") throw new BugError(`expected an i32 tensor, got ${tensor.dtype}`);
    const bytes = this.bytesOf(tensor.buffer);
    this.checkRange(tensor);
    return new Int32Array(bytes.buffer, bytes.byteOffset + tensor.byteOffset, elementCount(tensor.shape));
  }

  raw(tensor: Tensor): Uint8Array {
    this.checkRange(tensor);
    const size = tensorBytes(tensor.shape, tensor.dtype);
    return this.bytesOf(tensor.buffer).subarray(tensor.byteOffset, tensor.byteOffset + size);
  }

  store(values: Floats, tensor: Tensor): void {
    if (tensor.dtype === "f32" || tensor.dtype === "f64") this.floats(tensor).set(values);
    else this.raw(tensor).set(encodeFrom(values, tensor.dtype as DType));
  }

  /** All elements of a matrix, dense or quantised, as numbers [out, in]. */
  matrix(matrix: Matrix): Floats {
    if (isBlocks(matrix)) return decodeGguf(this.raw(matrix.blocks), matrix.type);
    if (!isQuantized(matrix)) return this.values(matrix);
    const codes = this.raw(matrix.codes);
    const codebook = this.values(matrix.codebook);
    const scales = this.scales(matrix);
    const out = new Float32Array(matrix.shape[0] * matrix.shape[1]);
    for (let i = 0; i < out.length; i++) {
      const byte = codes[i >> 1]!;
      const code = i % 2 === 0 ? byte >> 4 : byte & 15;
      out[i] = Math.fround(codebook[code]! * scales[Math.floor(i / matrix.blockSize)]!);
    }
    return out;
  }

  private scales(matrix: QuantizedMatrix): Floats {
    const nested = matrix.nested;
    if (!nested) return this.values(matrix.absmax);
    const codes = this.raw(matrix.absmax);
    const map = this.values(nested.codebook);
    const outer = this.values(nested.absmax);
    const scales = new Float32Array(codes.length);
    for (let b = 0; b < codes.length; b++) {
      scales[b] = Math.fround(map[codes[b]!]! * outer[Math.floor(b / nested.blockSize)]!) + nested.offset;
    }
    return scales;
  }

  private checkRange(tensor: Tensor): void {
    const end = tensor.byteOffset + tensorBytes(tensor.shape, tensor.dtype);
    if (tensor.byteOffset < 0 || end > tensor.buffer.sizeBytes) {
      throw new BugError(
        `tensor [${tensor.shape}] ${tensor.dtype} ends at byte ${end} of a buffer of ${tensor.buffer.sizeBytes}`,
      );
    }
  }
}
