// Where kernel cases stand: makes and reads tensors on one backend, with words behind every tensor that no kernel may
// touch. Equal seeds give equal numbers on every backend.

import type { Backend, Segments, Tensor } from "../../src/backend/backend.ts";
import { type DType, decodeToF32, dtypeBytes, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount, tensorBytes, viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

/** Bytes behind each tensor, and what they hold: a number that no kernel writes by chance, in any type. */
const guardBytes = 64;
const guardByte = 0xa7;

export class Stage {
  private readonly tensors: Tensor[] = [];
  constructor(
    readonly backend: Backend,
    /** False: a device that compiles and computes nothing, so that what is read back says nothing. */
    readonly computes = true,
  ) {}

  private make(shape: readonly number[], dtype: DType, bytes: Uint8Array): Tensor {
    // Devices write whole words: a tensor's last word is its own.
    const sizeBytes = Math.max(4, Math.ceil(bytes.length / 4) * 4);
    const held = new Uint8Array(sizeBytes + guardBytes).fill(guardByte);
    held.fill(0, 0, sizeBytes);
    held.set(bytes);
    const buffer = this.backend.allocate(held.length, "workspace");
    this.backend.write(buffer, held);
    const tensor = viewOf(buffer, shape, dtype);
    this.tensors.push(tensor);
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
      maxQueries: Math.max(0, ...lengths.map((l) => l[0])),
      maxKeys: Math.max(0, ...lengths.map((l) => l[1])),
    };
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    return decodeToF32(await this.raw(tensor), tensor.dtype);
  }

  raw(tensor: Tensor): Promise<Uint8Array> {
    return this.backend.read(tensor.buffer, tensor.byteOffset, tensorBytes(tensor.shape, tensor.dtype));
  }

  /** Throws when a kernel wrote behind any of the tensors. */
  async checkGuards(): Promise<void> {
    for (const { buffer, shape, dtype } of this.tensors) {
      const words = await this.backend.read(buffer, buffer.sizeBytes - guardBytes, guardBytes);
      const at = words.findIndex((byte) => byte !== guardByte);
      if (at >= 0) throw new Error(`a kernel wrote ${at} bytes behind a tensor [${shape}] ${dtype}`);
    }
  }

  free(): void {
    for (const tensor of this.tensors) this.backend.free(tensor.buffer);
  }
}
