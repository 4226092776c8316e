// Trainable parameters, flat: one buffer of values and one of gradients, each parameter a view at a 256-byte
// boundary (WebGPU's binding alignment), so that clipping, updating, saving and paging see one tensor. The gaps
// hold zeros and stay zero.

import type { Parameter } from "../autograd/tape.ts";
import type { Backend, MemoryCategory, Tensor } from "../backend/backend.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, viewOf } from "../tensor/tensor.ts";
import { BugError } from "../util/errors.ts";

const alignmentBytes = 256;

export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

/** How a group of parameters is updated otherwise than the rest. */
export interface ParameterGroup {
  /** What its learning rate is multiplied by. */
  readonly rate: number;
  /** False: no weight decay. */
  readonly decays: boolean;
}

/** Elements [begin, end) of the flat buffers, all of one group. */
export interface ParameterRange extends ParameterGroup {
  readonly begin: number;
  readonly end: number;
}

/** The group of what has none. */
export const oneGroup: ParameterGroup = { rate: 1, decays: true };

/** Elements between the beginnings of groups: whole pages of state, so that each is paged by itself. */
const groupAlignment = 16_384;

export class FlatParameters {
  readonly entries: readonly Parameter[];
  /** All values, [n]. */
  readonly data: Tensor;
  private readonly flatGrad: Tensor | undefined;
  /** Parameters proper, without the gaps and what never moves. */
  readonly count: number;
  /** The groups, each in one stretch; together they cover the buffers. */
  readonly ranges: readonly ParameterRange[];
  private readonly byName = new Map<string, Parameter>();

  constructor(
    private readonly backend: Backend,
    specs: readonly ParameterSpec[],
    category: MemoryCategory,
    /** False: values only, for inference. */
    trains = true,
    /** Parameters of a group lie together, groups in the order of their first parameters; all are one when absent. */
    groupOf: (spec: ParameterSpec) => ParameterGroup = () => oneGroup,
  ) {
    const dtype = backend.floatType;
    const elementBytes = dtypeBytes[dtype];
    const groups = new Map<string, ParameterSpec[]>();
    for (const spec of specs) {
      const { rate, decays } = groupOf(spec);
      const key = `${rate} ${decays}`;
      const members = groups.get(key);
      if (members) members.push(spec);
      else groups.set(key, [spec]);
    }
    const offsetOf = new Map<ParameterSpec, number>();
    const ranges: ParameterRange[] = [];
    let end = 0;
    for (const members of groups.values()) {
      const groupBytes = groupAlignment * elementBytes;
      if (end > 0) end = Math.ceil(end / groupBytes) * groupBytes;
      const begin = end / elementBytes;
      for (const spec of members) {
        offsetOf.set(spec, end);
        end += Math.ceil((elementCount(spec.shape) * elementBytes) / alignmentBytes) * alignmentBytes;
      }
      const { rate, decays } = groupOf(members[0]!);
      ranges.push({ begin, end: end / elementBytes, rate, decays });
    }
    this.ranges = ranges.map((range, i) => ({ ...range, end: ranges[i + 1]?.begin ?? range.end }));
    const offsets = specs.map((spec) => offsetOf.get(spec)!);
    const flat = (kind: MemoryCategory) => {
      const tensor = viewOf(backend.allocate(Math.max(end, 4), kind), [end / elementBytes], dtype);
      backend.fill({ y: tensor, value: 0 });
      return tensor;
    };
    this.data = flat(category);
    const grad = trains ? flat("gradients") : undefined;
    this.flatGrad = grad;
    this.count = specs.reduce(
      (sum, spec) => sum + (groupOf(spec).rate === 0 ? 0 : elementCount(spec.shape)),
      0,
    );
    this.entries = specs.map((spec, i) => ({
      name: spec.name,
      tensor: viewOf(this.data.buffer, spec.shape, dtype, offsets[i]!),
      grad: grad && viewOf(grad.buffer, spec.shape, dtype, offsets[i]!),
    }));
    for (const entry of this.entries) this.byName.set(entry.name, entry);
  }

  /** All gradients, [n]. */
  get grad(): Tensor {
    if (!this.flatGrad) throw new BugError("gradients of parameters that do not train");
    return this.flatGrad;
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

  /** One parameter's values (or gradient), or `count` of them from `from` on, as f32. */
  async read(
    parameter: Parameter,
    what: "tensor" | "grad" = "tensor",
    from = 0,
    count = elementCount(parameter.tensor.shape) - from,
  ): Promise<Float32Array> {
    const { buffer, byteOffset, dtype } = parameter[what]!;
    const size = dtypeBytes[dtype];
    return decodeToF32(await this.backend.read(buffer, byteOffset + from * size, count * size), dtype);
  }

  zeroGrad(): void {
    this.backend.fill({ y: this.grad, value: 0 });
  }

  free(): void {
    this.backend.free(this.data.buffer);
    if (this.flatGrad) this.backend.free(this.flatGrad.buffer);
  }
}
