// Kernels by column, for adapters that scale a layer's outputs, and dropout by itself: launches of scale-columns.wgsl,
// magnitude-factors.wgsl, dropout.wgsl and the sums over rows of rows.ts.

import { elementCount } from "../../tensor/tensor.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { f32, operand } from "./commands.ts";
import { copyFloats, philoxRounds } from "./elementwise.ts";
import { elementsPerGroup, type Gpu, plain, windows, withScratch } from "./gpu.ts";
import { addColumnSums } from "./rows.ts";

function dropout(gpu: Gpu, { x, p, seed, stream, y }: Operands<"dropout">): void {
  const inPlace = x.buffer === y.buffer && x.byteOffset === y.byteOffset;
  const pipeline = gpu.pipelines.get("dropout", plain("multiply-high", "philox", "dropout"));
  const pass = (from: typeof x) => {
    for (const { start, length } of windows(gpu, elementCount(y.shape), 4, elementsPerGroup)) {
      const numbers = [
        ...[length, start, seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, stream >>> 0],
        ...[Math.floor(p * 4294967296), f32(1 / (1 - p)), philoxRounds],
      ];
      const operands = [operand(from, start, length), operand(y, start, length)];
      gpu.commands.launch(pipeline, operands, numbers, Math.ceil(length / elementsPerGroup));
    }
  };
  if (inPlace) onCopy(gpu, x, pass);
  else pass(x);
}

/** A buffer cannot be bound to be read and written in one launch. */
function onCopy(gpu: Gpu, x: Operands<"dropout">["x"], use: (copy: typeof x) => void): void {
  withScratch(gpu, 4 * Math.max(1, elementCount(x.shape)), (buffer) => {
    const copy = { ...x, buffer, byteOffset: 0 };
    copyFloats(gpu, x, copy);
    use(copy);
  });
}

function scaleColumns(gpu: Gpu, { x, factors, bias, residual, y }: Operands<"scaleColumns">): void {
  const width = y.shape[1]!;
  if (elementCount(y.shape) === 0) return;
  const flags = [factors, bias, residual].map((tensor) => (tensor ? 1 : 0));
  const [FACTORS, BIAS, RESIDUAL] = flags as [number, number, number];
  const pipeline = gpu.pipelines.get(`scale-columns ${flags}`, () => ({
    files: ["scale-columns"],
    constants: { FACTORS, BIAS, RESIDUAL },
  }));
  const pass = (from: typeof x) => {
    for (const { start, length } of windows(gpu, y.shape[0]!, 4 * width)) {
      const part = [start * width, length * width] as const;
      const operands = [
        operand(from, ...part),
        factors ? operand(factors) : gpu.commands.nothing,
        bias ? operand(bias) : gpu.commands.nothing,
        residual ? operand(residual, ...part) : gpu.commands.nothing,
        operand(y, ...part),
      ];
      const groups = Math.ceil((length * width) / elementsPerGroup);
      gpu.commands.launch(pipeline, operands, [length * width, width], groups);
    }
  };
  if (x.buffer === y.buffer && x.byteOffset === y.byteOffset) onCopy(gpu, x, pass);
  else pass(x);
}

function magnitudeFactors(gpu: Gpu, operands: Operands<"magnitudeFactors">): void {
  const { magnitude, squares, b, bGram, wa, scale, factors, norms } = operands;
  const [outputs, rank] = b.shape as [number, number];
  const pipeline = gpu.pipelines.get("magnitude-factors", plain("magnitude-factors"));
  const bound = [magnitude, squares, b, bGram, wa, factors, norms].map((tensor) => operand(tensor));
  gpu.commands.launch(pipeline, bound, [outputs, rank, f32(scale)], Math.ceil(outputs / 64));
}

function copyColumns(gpu: Gpu, { x, from, y, to, count }: Operands<"copyColumns">): void {
  const [rows, width] = x.shape as [number, number];
  const target = y.shape[1]!;
  if (rows * count === 0) return;
  const pipeline = gpu.pipelines.get("copy-columns", plain("copy-columns"));
  for (const { start, length } of windows(gpu, rows, 4 * Math.max(width, target))) {
    const operands = [operand(x, start * width, length * width), operand(y, start * target, length * target)];
    const groups = Math.ceil((length * count) / elementsPerGroup);
    gpu.commands.launch(pipeline, operands, [length * count, count, width, from, target, to], groups);
  }
}

type ColumnKernels = Pick<
  ContractKernels,
  "dropout" | "scaleColumns" | "addColumnDots" | "magnitudeFactors" | "copyColumns"
>;

export function columnKernels(gpu: Gpu): ColumnKernels {
  return {
    dropout: (operands) => dropout(gpu, operands),
    scaleColumns: (operands) => scaleColumns(gpu, operands),
    copyColumns: (operands) => copyColumns(gpu, operands),
    addColumnDots({ x, y, divisor, out }) {
      if (elementCount(x.shape) > 0) addColumnSums(gpu, x, out, { y, divisor });
    },
    magnitudeFactors: (operands) => magnitudeFactors(gpu, operands),
  };
}
