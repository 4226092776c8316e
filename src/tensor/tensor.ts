// A tensor: a typed, shaped view of a device buffer. It owns nothing: who allocated the buffer frees it
// (the tape for intermediates, nn/module.ts for weights, optim/ for state). All tensors are contiguous
// and row-major.

import { type DType, dtypeBytes } from "./dtype.ts";

/** Memory on a device; opaque. `id` is the device's own handle (an address on the CPU backend). */
export interface DeviceBuffer {
  readonly id: number;
  readonly sizeBytes: number;
}

export interface Tensor {
  readonly buffer: DeviceBuffer;
  /** Offset of element 0, in bytes; a multiple of 256 where a view starts inside a buffer. */
  readonly byteOffset: number;
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** Number of elements of a shape (1 for a scalar). */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

/** Bytes that a tensor of this shape and dtype covers. */
export function tensorBytes(shape: readonly number[], dtype: DType): number {
  return elementCount(shape) * dtypeBytes[dtype];
}

/** A view of part of a buffer. */
export function viewOf(buffer: DeviceBuffer, shape: readonly number[], dtype: DType, byteOffset = 0): Tensor {
  return { buffer, byteOffset, shape, dtype };
}

/** The same elements under another shape. */
export function reshape(tensor: Tensor, shape: readonly number[]): Tensor {
  return { ...tensor, shape };
}

/** Rows [start, end) along the first dimension. */
export function rows(tensor: Tensor, start: number, end: number): Tensor {
  const rest = tensor.shape.slice(1);
  return {
    ...tensor,
    shape: [end - start, ...rest],
    byteOffset: tensor.byteOffset + start * elementCount(rest) * dtypeBytes[tensor.dtype],
  };
}
