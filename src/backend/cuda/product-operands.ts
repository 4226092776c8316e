// Operands of products in the forms that their kernels read: a tensor as it lies where that will do, else packed or expanded into
// scratch memory. Everything that a call of linear needs packed goes in one launch. Not here: the products (products.ts),
// which are asked for (linear.ts).

import { type DType, dtypeBytes } from "../../tensor/dtype.ts";
import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import { type Dropout, isQuantized, type PlainMatrix, type QuantizedMatrix } from "../backend.ts";
import { dtypeCodes } from "../operand-check.ts";
import type { CudaGpu } from "./gpu.ts";
import type { Operand } from "./product-types.ts";

/** Bytes of an element of an operand. */
export function operandBytes({ precision }: CudaGpu): 2 | 4 {
  return precision === "fp32" ? 4 : 2;
}

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** The address of a tensor of one of these types with `count` elements. BugError when it is none, or not wholly in a live buffer. */
export function addressOf(
  gpu: CudaGpu,
  tensor: Tensor,
  count: number,
  what: string,
  types: readonly DType[] = ["f32"],
): number {
  const { buffer, byteOffset, dtype, shape } = tensor;
  if (!types.includes(dtype))
    throw new BugError(`cuda linear: ${what} is ${dtype}, not ${types.join(" or ")}`);
  if (elementCount(shape) !== count)
    throw new BugError(`cuda linear: ${what} has shape [${shape}], not ${count} elements`);
  if (!gpu.memory.isLive(buffer.id))
    throw new BugError(`cuda linear: ${what} lies in a buffer that was freed`);
  if (byteOffset < 0 || byteOffset + count * dtypeBytes[dtype] > buffer.sizeBytes)
    throw new BugError(`cuda linear: ${what}, [${shape}], reaches beyond its buffer`);
  return buffer.id + byteOffset;
}

/** Weights as they may lie on the device. */
export const weightTypes: readonly DType[] = ["f32", "bf16", "f16"];

/** Holds a weight's tensors against its shape. */
export function checkMatrix(gpu: CudaGpu, matrix: PlainMatrix): void {
  const [rows, columns] = matrix.shape as readonly [number, number];
  const size = rows * columns;
  if (!isQuantized(matrix)) {
    addressOf(gpu, matrix, size, "a weight", weightTypes);
    return;
  }
  const { blockSize, nested } = matrix;
  const blocks = Math.ceil(size / blockSize);
  addressOf(gpu, matrix.codes, Math.ceil(size / 2), "codes", ["u8"]);
  addressOf(gpu, matrix.codebook, 16, "a codebook");
  addressOf(gpu, matrix.absmax, blocks, "scales", [nested ? "u8" : "f32"]);
  if (!nested) return;
  addressOf(gpu, nested.codebook, 256, "a nested codebook");
  addressOf(gpu, nested.absmax, Math.ceil(blocks / nested.blockSize), "nested scales");
}

/** Scratch memory of one call; launches run in order, so it is given back as soon as they are enqueued. */
export class Scratch {
  private readonly blocks: ReturnType<CudaGpu["memory"]["scratch"]>[] = [];
  constructor(private readonly gpu: CudaGpu) {}

  take(sizeBytes: number): number {
    const block = this.gpu.memory.scratch(Math.max(16, sizeBytes));
    this.blocks.push(block);
    return block.id;
  }

  release(): void {
    for (const block of this.blocks.splice(0)) this.gpu.memory.free(block);
  }
}

/** Runs `body` with scratch memory that is freed behind it. */
export function withScratchOf<T>(gpu: CudaGpu, body: (scratch: Scratch) => T): T {
  const scratch = new Scratch(gpu);
  try {
    return body(scratch);
  } finally {
    scratch.release();
  }
}

/** What is packed, and where to: factor * mask(source [rows, columns]), zeros up to targetRows. */
interface Job {
  readonly source: Tensor;
  readonly rows: number;
  readonly columns: number;
  readonly targetRows: number;
  readonly target: Operand;
  readonly factor: number;
  readonly dropout?: Dropout;
}

/** Jobs of one launch. */
const mostJobs = 12;

/** Packs rows; run() enqueues what was asked for. */
export class Packing {
  private readonly jobs: Job[] = [];
  constructor(
    private readonly gpu: CudaGpu,
    private readonly scratch: Scratch,
  ) {}

  /** Rows of a tensor as an operand, of which `factor` and dropout make others. */
  rows(
    source: Tensor,
    rows: number,
    columns: number,
    options: { factor?: number; dropout?: Dropout } = {},
  ): Operand {
    const { factor = 1, dropout } = options;
    const drops = dropout !== undefined && dropout.p > 0;
    const address = addressOf(this.gpu, source, rows * columns, "an operand", weightTypes);
    if (factor === 1 && !drops && liesAsOperand(this.gpu, source.dtype, address, columns))
      return { address, pitch: columns };
    const pitch = roundUp(columns, 8);
    const target = { address: this.scratch.take(operandBytes(this.gpu) * rows * pitch), pitch };
    this.jobs.push({
      source,
      rows,
      columns,
      targetRows: rows,
      target,
      factor,
      dropout: drops ? dropout : undefined,
    });
    return target;
  }

  /** Several matrices of as many columns under one another, each padded with zeros to a multiple of 8 rows. */
  stack(sources: readonly Tensor[], columns: number): Operand {
    const pitch = roundUp(columns, 8);
    const bytes = operandBytes(this.gpu) * pitch;
    const heights = sources.map((source) => roundUp(source.shape[0]!, 8));
    const address = this.scratch.take(bytes * heights.reduce((sum, height) => sum + height, 0));
    let first = 0;
    for (const [i, source] of sources.entries()) {
      const rows = source.shape[0]!;
      addressOf(this.gpu, source, rows * columns, "an adapter's matrix");
      const target = { address: address + first * bytes, pitch };
      this.jobs.push({ source, rows, columns, targetRows: heights[i]!, target, factor: 1 });
      first += heights[i]!;
    }
    return { address, pitch };
  }

  run(): void {
    const jobs = this.jobs.splice(0);
    for (let first = 0; first < jobs.length; first += mostJobs)
      packJobs(this.gpu, jobs.slice(first, first + mostJobs));
  }
}

/** Rows of dropout(x) in f32, whatever the precision. */
export function packPlain(
  gpu: CudaGpu,
  scratch: Scratch,
  source: Tensor,
  rows: number,
  columns: number,
  dropout: Dropout | undefined,
): Operand {
  const pitch = roundUp(columns, 8);
  const target = { address: scratch.take(4 * rows * pitch), pitch };
  packJobs(gpu, [{ source, rows, columns, targetRows: rows, target, factor: 1, dropout }], "packRowsF32");
  return target;
}

function packJobs(
  gpu: CudaGpu,
  jobs: readonly Job[],
  kernel: "packRowsF32" | "packRowsBf16" = gpu.precision === "fp32" ? "packRowsF32" : "packRowsBf16",
): void {
  const chunks = Math.max(...jobs.map(({ targetRows, target }) => (targetRows * target.pitch) / 8));
  gpu.launch(kernel, [Math.ceil(chunks / 256), jobs.length], {
    source: jobs.map((job) => job.source),
    target: jobs.map((job) => job.target.address),
    seed: jobs.map((job) => job.dropout?.seed ?? 0),
    rows: jobs.map((job) => job.rows),
    columns: jobs.map((job) => job.columns),
    targetRows: jobs.map((job) => job.targetRows),
    pitch: jobs.map((job) => job.target.pitch),
    sourceType: jobs.map((job) => dtypeCodes[job.source.dtype]),
    stream: jobs.map((job) => job.dropout?.stream ?? 0),
    threshold: jobs.map((job) => thresholdOf(job.dropout)),
    keptScale: jobs.map((job) => keptScaleOf(job.dropout)),
    factor: jobs.map((job) => job.factor),
  });
}

/** An element is kept iff its random word is at least this (util/rng.ts). */
export function thresholdOf(dropout: Dropout | undefined): number {
  return dropout ? Math.floor(dropout.p * 4294967296) : 0;
}

export function keptScaleOf(dropout: Dropout | undefined): number {
  return dropout ? 1 / (1 - dropout.p) : 1;
}

/** Whether a product's kernel can read rows of `columns` as they lie. */
function liesAsOperand({ precision }: CudaGpu, dtype: DType, address: number, columns: number): boolean {
  if (precision === "fp32") return dtype === "f32";
  return dtype === "bf16" && columns % 8 === 0 && address % 16 === 0;
}

/** log2 of a size, by which kernels shift; 64 where it is no power of two. */
export function shiftOf(size: number): number {
  const shift = Math.log2(size);
  return Number.isInteger(shift) ? shift : 64;
}

/** Whether codes can be decoded by the product itself: whole words in a row, each under one scale found by shifting. */
export function canFuse(gpu: CudaGpu, matrix: QuantizedMatrix): boolean {
  const { shape, blockSize, nested, codes } = matrix;
  return (
    gpu.precision !== "fp32" &&
    shape[1] % 8 === 0 &&
    blockSize >= 8 &&
    shiftOf(blockSize) < 64 &&
    (!nested || shiftOf(nested.blockSize) < 64) &&
    (codes.buffer.id + codes.byteOffset) % 4 === 0 &&
    (shape[0] * shape[1]) / 8 < 2 ** 32
  );
}

/** A dense weight that needs no copy; undefined for others. */
export function denseAsItLies(gpu: CudaGpu, matrix: PlainMatrix): Operand | undefined {
  if (isQuantized(matrix)) return undefined;
  const address = matrix.buffer.id + matrix.byteOffset;
  const columns = matrix.shape[1]!;
  return liesAsOperand(gpu, matrix.dtype, address, columns) ? { address, pitch: columns } : undefined;
}

/** Rows [first, first + rows) of a weight as an operand in scratch memory. */
export function expandWeight(
  gpu: CudaGpu,
  scratch: Scratch,
  matrix: PlainMatrix,
  first: number,
  rows: number,
): Operand {
  const columns = matrix.shape[1]!;
  const pitch = roundUp(columns, 8);
  const address = scratch.take(operandBytes(gpu) * rows * pitch);
  const target = { address, pitch };
  if (!isQuantized(matrix)) {
    const byteOffset = matrix.byteOffset + first * columns * dtypeBytes[matrix.dtype];
    const source = { ...matrix, byteOffset, shape: [rows, columns] };
    packJobs(gpu, [{ source, rows, columns, targetRows: rows, target, factor: 1 }]);
    return target;
  }
  const { codes, codebook, absmax, blockSize, nested } = matrix;
  gpu.launch(
    gpu.precision === "fp32" ? "expandCodesF32" : "expandCodesBf16",
    [Math.ceil((rows * pitch) / 8 / 256)],
    {
      codes,
      codebook,
      absmax,
      nestedAbsmax: nested?.absmax,
      nestedCodebook: nested?.codebook,
      target: address,
      firstRow: first,
      rows,
      columns,
      pitch,
      blockSize,
      nestedBlockSize: nested?.blockSize ?? 1,
      blockShift: shiftOf(blockSize),
      nestedShift: shiftOf(nested?.blockSize ?? 1),
      nestedOffset: nested?.offset ?? 0,
    },
  );
  return target;
}
