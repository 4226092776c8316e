// Kernels that work element by element, and reductions of a whole tensor: launches of fill.wgsl, cast.wgsl, reduce.wgsl and
// their like, in windows where a tensor is larger than a binding.

import { type DType, dtypeBytes } from "../../tensor/dtype.ts";
import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { BugError, invariant } from "../../util/errors.ts";
import type { ActivationKind, ContractKernels, Operands } from "../contract.ts";
import { f32, type Operand, operand } from "./commands.ts";
import { elementsPerGroup, type Gpu, plain, windows, withScratch } from "./gpu.ts";
import type { Variant } from "./pipelines.ts";

const kinds: Partial<Record<DType, number>> = { f32: 0, bf16: 1, f16: 2, f64: 3 };
export const activations: Record<ActivationKind, number> = {
  ...{ silu: 0, gelu: 1, geluTanh: 2, identity: 3, sigmoid: 4 },
};

/** The number that shaders know a floating dtype by. */
export function kindOf(dtype: DType): number {
  const kind = kinds[dtype];
  if (kind === undefined) throw new BugError(`WebGPU kernels take no ${dtype} here`);
  return kind;
}

/** Records `kernel` over windows of tensors that have equally many f32 elements. */
export function forElements(
  gpu: Gpu,
  label: string,
  variant: () => Variant,
  tensors: readonly Tensor[],
  params: readonly number[],
  fixed: readonly Operand[] = [],
): void {
  const count = elementCount(tensors[0]!.shape);
  for (const tensor of tensors) {
    invariant(tensor.dtype === "f32" && elementCount(tensor.shape) === count, `${label}: [${tensor.shape}]`);
  }
  const pipeline = gpu.pipelines.get(label, variant);
  for (const { start, length } of windows(gpu, count, 4, elementsPerGroup)) {
    const bound = tensors.map((tensor) => operand(tensor, start, length));
    const operands = [bound[0]!, ...fixed, ...bound.slice(1)];
    gpu.commands.launch(pipeline, operands, [length, ...params], Math.ceil(length / elementsPerGroup));
  }
}

/** y = x for f32 tensors of equally many elements. */
export function copyFloats(gpu: Gpu, x: Tensor, y: Tensor): void {
  gpu.commands.copy(x.buffer, x.byteOffset, y.buffer, y.byteOffset, 4 * elementCount(y.shape));
}

/** Whether two tensors start at the same place. */
export function sameMemory(x: Tensor, y: Tensor): boolean {
  return x.buffer === y.buffer && x.byteOffset === y.byteOffset;
}

function cast(gpu: Gpu, x: Tensor, y: Tensor): void {
  const [from, to] = [kindOf(x.dtype), kindOf(y.dtype)];
  if (to === kinds.f64) throw new BugError("WebGPU has no f64 to cast to");
  const [fromBytes, toBytes] = [dtypeBytes[x.dtype], dtypeBytes[y.dtype]];
  invariant(y.byteOffset % 4 === 0, "cast to 16 bits from the middle of a word");
  const pipeline = gpu.pipelines.get(`cast ${from} ${to}`, () => ({
    files: ["float-bits", "cast"],
    constants: { FROM: from, TO: to },
  }));
  const count = elementCount(y.shape);
  for (const { start, length } of windows(gpu, count, Math.max(fromBytes, toBytes), elementsPerGroup)) {
    const source = { ...operand(x, start, length), unit: fromBytes };
    const target = { ...operand(y, start, length), unit: 4 };
    const words = Math.ceil((length * toBytes) / 4);
    gpu.commands.launch(pipeline, [source, target], [length], Math.ceil(words / elementsPerGroup));
  }
}

/** Rounds of Philox 4x32-10, which its shader is told at run time (philox.wgsl). */
export const philoxRounds = 10;

function fillUniform(gpu: Gpu, { y, bound, seed, stream }: Operands<"fillUniform">): void {
  const to = kindOf(y.dtype);
  invariant(to <= 2, `fillUniform of ${y.dtype}`);
  invariant(y.byteOffset % 4 === 0, "fillUniform from the middle of a word");
  const pipeline = gpu.pipelines.get(`fill-uniform ${to}`, () => ({
    files: ["float-bits", "multiply-high", "philox", "fill-uniform"],
    constants: { TO: to },
  }));
  const { mantissa, exponent } = splitDouble(Math.abs(bound));
  invariant(bound >= 0, "fillUniform with a negative bound");
  for (const { start, length } of windows(
    gpu,
    elementCount(y.shape),
    dtypeBytes[y.dtype],
    elementsPerGroup,
  )) {
    const params = [
      length,
      start,
      stream >>> 0,
      seed >>> 0,
      Math.floor(seed / 2 ** 32) >>> 0,
      Math.floor(mantissa / 2 ** 32),
      mantissa >>> 0,
      exponent,
      philoxRounds,
    ];
    gpu.commands.launch(
      pipeline,
      [{ ...operand(y, start, length), unit: 4 }],
      params,
      Math.ceil(length / 256),
    );
  }
}

/** value = mantissa * 2^exponent with a mantissa below 2^53; value is zero or a normal double. */
function splitDouble(value: number): { mantissa: number; exponent: number } {
  if (value === 0) return { mantissa: 0, exponent: 0 };
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, value);
  const exponent = ((bits.getUint32(0) >>> 20) & 0x7ff) - 1023 - 52;
  return { mantissa: value / 2 ** exponent, exponent };
}

const reductions = { sum: 0, sumSquares: 1, countNonFinite: 2 };
/** Elements that one workgroup of a reduction takes, and the most partial sums its second stage is given. */
const reductionSpan = 8192;

function reduce(gpu: Gpu, op: keyof typeof reductions, x: Tensor, out: Tensor): void {
  const kind = kindOf(x.dtype);
  invariant(kind <= 2 && (kind === 0 || op === "countNonFinite"), `${op} of ${x.dtype}`);
  const count = elementCount(x.shape);
  const first = gpu.pipelines.get(`reduce ${op} ${kind}`, () => ({
    files: ["reduce"],
    constants: { OP: reductions[op], KIND: kind },
  }));
  const second = gpu.pipelines.get("reduce-partials", plain("reduce-partials"));
  const partials = Math.max(1, Math.ceil(count / reductionSpan));
  withScratch(gpu, 4 * partials, (memory) => {
    const sums: Tensor = { buffer: memory, byteOffset: 0, shape: [partials], dtype: "f32" };
    for (const { start, length } of windows(gpu, count, dtypeBytes[x.dtype], reductionSpan)) {
      const groups = Math.ceil(length / reductionSpan);
      const partial = operand(sums, start / reductionSpan, groups);
      gpu.commands.launch(first, [operand(x, start, length), partial], [length, reductionSpan], groups);
    }
    gpu.commands.launch(second, [operand(sums), operand(out, 0, 1)], [count === 0 ? 0 : partials], 1);
  });
}

type ElementKernels = Pick<
  ContractKernels,
  | "fill"
  | "cast"
  | "addInPlace"
  | "scaleInPlace"
  | "fillUniform"
  | "sum"
  | "sumSquares"
  | "countNonFinite"
  | "softCap"
  | "softCapBackward"
>;

export function elementKernels(gpu: Gpu): ElementKernels {
  return {
    fill: ({ y, value }) => forElements(gpu, "fill", plain("fill"), [y], [f32(value)]),
    cast: ({ x, y }) => cast(gpu, x, y),
    addInPlace: ({ x, y }) => forElements(gpu, "add-in-place", plain("add-in-place"), [x, y], []),
    scaleInPlace: ({ y, factor }) =>
      forElements(gpu, "scale-in-place", plain("scale-in-place"), [y], [f32(factor)]),
    fillUniform: (operands) => fillUniform(gpu, operands),
    sum: ({ x, out }) => reduce(gpu, "sum", x, out),
    sumSquares: ({ x, out }) => reduce(gpu, "sumSquares", x, out),
    countNonFinite: ({ x, out }) => reduce(gpu, "countNonFinite", x, out),
    softCap({ x, cap, y }) {
      if (!sameMemory(x, y)) copyFloats(gpu, x, y);
      forElements(gpu, "soft-cap", plain("soft-cap"), [y], [f32(cap)]);
    },
    softCapBackward({ y, cap, dy, dx }) {
      if (!sameMemory(dy, dx)) copyFloats(gpu, dy, dx);
      forElements(gpu, "soft-cap-backward", plain("soft-cap-backward"), [dx, y], [f32(cap)]);
    },
  };
}
