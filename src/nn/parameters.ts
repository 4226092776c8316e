// Trainable parameters, flat: one buffer of values and one of gradients, each parameter a view at a 256-byte
// boundary (WebGPU's binding alignment), so that clipping, updating, saving and paging see one tensor. The gaps
// hold zeros and stay zero.

import type { Parameter } from "../autograd/tape.ts";
import type { Backend, MemoryCategory, Tensor } from "../backend/backend.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, viewOf } from "../tensor/tensor.ts";

const alignmentBytes = 256;

export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

export class FlatParameters {
  readonly entries: readonly Parameter[];
  /** All values, all gradients, [n]. */
  readonly data: Tensor;
  readonly grad: Tensor;
  /** Parameters proper, without the gaps. */
  readonly count: number;
  private readonly byName = new Map<string, Parameter>();

  constructor(
    private readonly backend: Backend,
    specs: readonly ParameterSpec[],
    category: MemoryCategory,
  ) {
    const dtype = backend.floatType;
    const elementBytes = dtypeBytes[dtype];
    let end = 0;
    const offsets = specs.map((spec) => {
      const offset = end;
      end += Math.ceil((elementCount(spec.shape) * elementBytes) / alignmentBytes) * alignmentBytes;
      return offset;
    });
    const flat = () => viewOf(backend.allocate(Math.max(end, 4), category), [end / elementBytes], dtype);
    this.data = flat();
    this.grad = viewOf(backend.allocate(Math.max(end, 4), "gradients"), [end / elementBytes], dtype);
    backend.fill(this.data, 0);
    backend.fill(this.grad, 0);
    this.count = specs.reduce((sum, spec) => sum + elementCount(spec.shape), 0);
    this.entries = specs.map((spec, i) => ({
      name: spec.name,
      tensor: viewOf(this.data.buffer, spec.shape, dtype, offsets[i]!),
      grad: viewOf(this.grad.buffer, spec.shape, dtype, offsets[i]!),
    }));
    for (const entry of this.entries) this.byName.set(entry.name, entry);
  }

  get(name: string): Parameter | undefined {
    return this.byName.get(name);
  }

  /** Sets one parameter's values from f32 numbers. */
  set(parameter: Parameter, values: Float32Array): void {
    this.backend.write(
      parameter.tensor.buffer,
      encodeFrom(values, parameter.tensor.dtype),
      parameter.tensor.byteOffset,
    );
  }

  /** One parameter's values (or gradient) as f32. */
  async read(parameter: Parameter, what: "tensor" | "grad" = "tensor"): Promise<Float32Array> {
    const tensor = parameter[what]!;
    const sizeBytes = elementCount(tensor.shape) * dtypeBytes[tensor.dtype];
    return decodeToF32(await this.backend.read(tensor.buffer, tensor.byteOffset, sizeBytes), tensor.dtype);
  }

  zeroGrad(): void {
    this.backend.fill(this.grad, 0);
  }

  free(): void {
    this.backend.free(this.data.buffer);
    this.backend.free(this.grad.buffer);
  }
}
