// Where kernel cases stand: makes and reads tensors on one backend, and finds writes past the end of any of them. Equal
// seeds give equal numbers on every backend.

import type { Backend, Segments, Tensor } from "../../src/backend/backend.ts";
import { type DType, decodeToF32, dtypeBytes, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount, viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

/** Makes and reads tensors on one backend, and frees them all. Equal seeds give equal numbers on every backend. */
export class Stage {
  private readonly buffers: Tensor[] = [];
  constructor(readonly backend: Backend) {}

  private make(shape: readonly number[], dtype: DType, bytes: Uint8Array): Tensor {
    const buffer = this.backend.allocate(Math.max(4, elementCount(shape) * dtypeBytes[dtype]), "workspace");
    if (bytes.length > 0) this.backend.write(buffer, bytes);
    const tensor = viewOf(buffer, shape, dtype);
    this.buffers.push(tensor);
    return tensor;
  }

  values(shape: readonly number[], values: ArrayLike<number>, dtype: DType = this.backend.floatType): Tensor {
    return this.make(shape, dtype, encodeFrom(values, dtype));
  }

  /** Uniform in +-bound, rounded to f32. */
  random(shape: readonly number[], seed: number, bound = 1, dtype: DType = this.backend.floatType): Tensor {
    const random = new Random(seed, 77);
    return this.values(
      shape,
      Float32Array.from({ length: elementCount(shape) }, () => (2 * random.nextFloat() - 1) * bound),
      dtype,
    );
  }

  ints(shape: readonly number[], values: readonly number[]): Tensor {
    return this.make(shape, "i32", encodeFrom(values, "i32"));
  }

  bytes(shape: readonly number[], values: Uint8Array): Tensor {
    return this.make(shape, "u8", values);
  }

  zeros(shape: readonly number[], dtype: DType = this.backend.floatType): Tensor {
    return this.make(shape, dtype, new Uint8Array(elementCount(shape) * dtypeBytes[dtype]));
  }

  segments(lengths: readonly (readonly [number, number])[]): Segments {
    let q = 0;
    let k = 0;
    const table = lengths.flatMap(([queries, keys]) => {
      const row = [q, queries, k, keys];
      q += queries;
      k += keys;
      return row;
    });
    return {
      table: this.ints([lengths.length, 4], table),
      count: lengths.length,
      maxQueries: Math.max(...lengths.map((l) => l[0])),
      maxKeys: Math.max(...lengths.map((l) => l[1])),
    };
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const sizeBytes = elementCount(tensor.shape) * dtypeBytes[tensor.dtype];
    return decodeToF32(await this.backend.read(tensor.buffer, tensor.byteOffset, sizeBytes), tensor.dtype);
  }

  free(): void {
    for (const tensor of this.buffers) this.backend.free(tensor.buffer);
  }
}
