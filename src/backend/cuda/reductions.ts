// Sums of a whole tensor, launches of native/cuda/kernels/reduce.cu: one stage where a block suffices, else two.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ContractKernels } from "../contract.ts";
import { dtypeCodes } from "../operand-check.ts";
import { type CudaGpu, derivedKernel, scratchTensor, withScratch, writtenKernel } from "./gpu.ts";

/** Elements that a block of the first stage takes. */
const span = 8192;
const ops = { sum: 0, sumSquares: 1, countNonFinite: 2 };

type ReductionKernels = Pick<ContractKernels, keyof typeof ops | "clipFactor">;

export function reductionKernels(gpu: CudaGpu): ReductionKernels {
  const reduce = (op: keyof typeof ops, x: Tensor, out: Tensor): void => {
    const n = elementCount(x.shape);
    const type = dtypeCodes[x.dtype];
    const blocks = Math.ceil(n / span);
    if (blocks <= 1) {
      gpu.launch("reduce", [1], { x, out, n, type, op: ops[op], isLast: 1 });
      return;
    }
    withScratch(gpu, 4 * blocks, (memory) => {
      const partials = scratchTensor(memory, [blocks]);
      gpu.launch("reduce", [blocks], { x, out: partials, n, type, op: ops[op], isLast: 0 });
      gpu.launch("reduce", [1], { x: partials, out, n: blocks, type: 0, op: ops.sum, isLast: 1 });
    });
  };
  return {
    sum: writtenKernel(gpu, "sum", ({ x, out }) => reduce("sum", x, out)),
    sumSquares: writtenKernel(gpu, "sumSquares", ({ x, out }) => reduce("sumSquares", x, out)),
    countNonFinite: writtenKernel(gpu, "countNonFinite", ({ x, out }) => reduce("countNonFinite", x, out)),
    clipFactor: derivedKernel(gpu, "clipFactor", () => [1]),
  };
}
