// Launches of kernels by column and of dropout by itself (native/cuda/kernels/columns.cu), and sums over rows, which norms'
// gradients take too.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ContractKernels } from "../contract.ts";
import { type CudaGpu, scratchTensor, withScratch } from "./gpu.ts";

/** Rows that one block adds before blocks are added. */
const rowsEach = 64;
const columnsEach = 128;

/** out[c] += sum over rows of x y rstd, over divisor[c]; what is absent is 1. */
export function addColumnSums(
  gpu: CudaGpu,
  x: Tensor,
  out: Tensor,
  by: { readonly y?: Tensor; readonly rstd?: Tensor; readonly divisor?: Tensor },
): void {
  const width = elementCount(out.shape);
  const rows = elementCount(x.shape) / Math.max(1, width);
  if (rows === 0 || width === 0) return;
  // Grids are at most 65535 blocks high.
  const span = Math.max(rowsEach, Math.ceil(rows / 65535));
  const count = Math.ceil(rows / span);
  const across = Math.ceil(width / columnsEach);
  withScratch(gpu, 4 * count * width, (memory) => {
    const partial = scratchTensor(memory, [count, width]);
    gpu.launch("columnSums", [across, count], { x, y: by.y, rstd: by.rstd, partial, rows, width, span });
    gpu.launch("addColumnSums", [across], { partial, divisor: by.divisor, out, count, width });
  });
}

type ColumnKernels = Pick<
  ContractKernels,
  "dropout" | "scaleColumns" | "copyColumns" | "addColumnDots" | "magnitudeFactors"
>;

export function columnKernels(gpu: CudaGpu): ColumnKernels {
  return {
    dropout({ x, p, seed, stream, y }) {
      const count = elementCount(y.shape);
      const numbers = { count, seed, threshold: Math.floor(p * 2 ** 32), stream, keptScale: 1 / (1 - p) };
      gpu.launch("dropout", [Math.ceil(count / 1024)], { x, y, ...numbers });
    },
    scaleColumns({ x, factors, bias, residual, y }) {
      const count = elementCount(y.shape);
      const values = { x, factors, bias, residual, y, count, width: y.shape[1]! };
      gpu.launch("scaleColumns", [Math.ceil(count / 1024)], values);
    },
    copyColumns({ x, from, y, to, count }) {
      const total = x.shape[0]! * count;
      const sizes = { total, count, width: x.shape[1]!, from, targetWidth: y.shape[1]!, to };
      gpu.launch("copyColumns", [Math.ceil(total / 1024)], { x, y, ...sizes });
    },
    addColumnDots: ({ x, y, divisor, out }) => addColumnSums(gpu, x, out, { y, divisor }),
    magnitudeFactors(operands) {
      const [outputs, rank] = operands.b.shape as [number, number];
      gpu.launch("magnitudeFactors", [Math.ceil(outputs / 128)], { ...operands, outputs, rank });
    },
  };
}
