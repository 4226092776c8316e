// Launches of native/cuda/kernels/elementwise.cu: each a call of the contract as it is.

import type { ContractKernels } from "../contract.ts";
import { type CudaGpu, derivedKernel, elements } from "./gpu.ts";

export function elementKernels(gpu: CudaGpu): Partial<ContractKernels> {
  return {
    fill: derivedKernel(gpu, "fill", elements(1024)),
    cast: derivedKernel(gpu, "cast", elements(1024)),
    addInPlace: derivedKernel(gpu, "addInPlace", elements(1024)),
    scaleInPlace: derivedKernel(gpu, "scaleInPlace", elements(1024)),
    fillUniform: derivedKernel(gpu, "fillUniform", elements(1024)),
  };
}
