// Layers on few rows, as decoding has them: every weight is read once, layers that share x in one launch, an adapter's second
// product at the end of the layer's own. A row's bits depend on no other row and not on how many there are.
// Not here: more rows (linear.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import { type Adapter, isQuantized, type PlainLinearPart, type PlainMatrix } from "../backend.ts";
import { dtypeCodes } from "../operand-check.ts";
import type { CudaGpu } from "./gpu.ts";
import { drops } from "./linear-adapters.ts";
import { Packing, packPlain, shiftOf, withScratchOf } from "./product-operands.ts";
import type { Operand } from "./product-types.ts";

/** Rows that the kernels of few rows take. */
export const mostFewRows = 16;
/** Parts of one launch. */
const mostParts = 4;
/** Kind of a weight of codes; others are their dtype's code. */
const codesKind = 4;

/** One product of few rows: y = x weight^T + bias + residual + adapter's. */
interface RowsPart {
  readonly weight: PlainMatrix;
  readonly y: Tensor;
  readonly bias?: Tensor;
  readonly residual?: Tensor;
  readonly adapter?: Adapter;
}

type RowsKernel = "Plain" | "Half" | "Codes" | "F32";

/** The kernel for a weight: on tensor cores where its rows come in whole steps. */
function kernelFor(gpu: CudaGpu, weight: PlainMatrix): RowsKernel {
  const columns = weight.shape[1]!;
  if (gpu.precision === "fp32") return "F32";
  if (isQuantized(weight)) {
    const { codes, blockSize } = weight;
    const whole =
      columns % 64 === 0 &&
      blockSize >= 64 &&
      shiftOf(blockSize) < 64 &&
      (codes.buffer.id + codes.byteOffset) % 8 === 0;
    return whole ? "Codes" : "F32";
  }
  const whole = columns % 8 === 0 && (weight.buffer.id + weight.byteOffset) % 16 === 0;
  if (!whole || weight.dtype === "f16") return "F32";
  return weight.dtype === "f32" ? "Plain" : "Half";
}

/** x of a launch: in f32, and packed to bf16 where that was done. */
interface Input {
  readonly plain: Operand;
  readonly packed?: Operand;
}

function launch(
  gpu: CudaGpu,
  kernel: RowsKernel,
  input: Input,
  rows: number,
  parts: readonly RowsPart[],
): void {
  const packed = kernel === "F32" ? undefined : input.packed;
  const x = packed ?? input.plain;
  const outputs = kernel === "F32" ? 8 : 16;
  const quantized = parts.map(({ weight }) => (isQuantized(weight) ? weight : undefined));
  const firstBlock: number[] = [];
  let blocks = 0;
  for (const { weight } of parts) {
    firstBlock.push(blocks);
    blocks += Math.ceil(weight.shape[0]! / outputs);
  }
  const name =
    kernel === "F32"
      ? rows <= 4
        ? "productRowsF32Of4"
        : "productRowsF32Of16"
      : `productRows${kernel}${rows <= 8 ? 8 : 16}`;
  gpu.launch(name as "productRowsHalf8", [blocks], {
    x: x.address,
    weight: parts.map(({ weight }) => (isQuantized(weight) ? weight.codes : weight)),
    codebook: quantized.map((weight) => weight?.codebook),
    absmax: quantized.map((weight) => weight?.absmax),
    nestedAbsmax: quantized.map((weight) => weight?.nested?.absmax),
    nestedCodebook: quantized.map((weight) => weight?.nested?.codebook),
    bias: parts.map(({ bias }) => bias),
    residual: parts.map(({ residual }) => residual),
    u: parts.map(({ adapter }) => adapter?.u),
    b: parts.map(({ adapter }) => adapter?.b),
    y: parts.map(({ y }) => y),
    n: parts.map(({ weight }) => weight.shape[0]!),
    rank: parts.map(({ adapter }) => adapter?.a.shape[0] ?? 0),
    firstBlock,
    kind: parts.map(({ weight }) => (isQuantized(weight) ? codesKind : dtypeCodes[weight.dtype])),
    blockSize: quantized.map((weight) => weight?.blockSize ?? 64),
    nestedBlockSize: quantized.map((weight) => weight?.nested?.blockSize ?? 1),
    blockShift: quantized.map((weight) => shiftOf(weight?.blockSize ?? 64)),
    nestedShift: quantized.map((weight) => shiftOf(weight?.nested?.blockSize ?? 1)),
    nestedOffset: quantized.map((weight) => weight?.nested?.offset ?? 0),
    scale: parts.map(({ adapter }) => adapter?.scale ?? 0),
    parts: parts.length,
    rows,
    k: parts[0]!.weight.shape[1]!,
    pitch: x.pitch,
    xType: packed ? dtypeCodes.bf16 : dtypeCodes.f32,
  });
}

/** Every part by the kernel for its weight, as few launches as may be. */
function multiplyRows(gpu: CudaGpu, input: Input, rows: number, parts: readonly RowsPart[]): void {
  for (const kernel of ["Codes", "Half", "Plain", "F32"] as const) {
    const own = parts.filter(({ weight }) => kernelFor(gpu, weight) === kernel && weight.shape[0]! > 0);
    for (let first = 0; first < own.length; first += mostParts)
      launch(gpu, kernel, input, rows, own.slice(first, first + mostParts));
  }
}

/** linear() of at most mostFewRows rows. */
export function linearFewRows(gpu: CudaGpu, x: Tensor, parts: readonly PlainLinearPart[]): void {
  const [rows, columns] = x.shape as [number, number];
  withScratchOf(gpu, (scratch) => {
    const address = x.buffer.id + x.byteOffset;
    const plain = { address, pitch: columns };
    // One row or two are packed by every block as it reads them: that costs less than a launch.
    const packs = gpu.precision !== "fp32" && (rows > 2 || columns % 8 !== 0 || address % 16 !== 0);
    const packing = new Packing(gpu, scratch);
    const input = { plain, packed: packs ? packing.rows(x, rows, columns) : undefined };
    packing.run();
    const adapters = parts.flatMap(({ adapter }) => (adapter ? [adapter] : []));
    const down = ({ a, u }: Adapter): RowsPart => ({ weight: a, y: u });
    multiplyRows(gpu, input, rows, adapters.filter((adapter) => !drops(adapter)).map(down));
    for (const adapter of adapters.filter(drops)) {
      const masked = packPlain(gpu, scratch, x, rows, columns, adapter.dropout);
      multiplyRows(gpu, { plain: masked }, rows, [down(adapter)]);
    }
    multiplyRows(gpu, input, rows, parts);
  });
}
