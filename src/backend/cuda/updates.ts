// Updates of parameters and what decides on them: launches of native/cuda/kernels/updates.cu, with what is the same for every
// element worked out here in double; and quantize.cu.

import { elementCount } from "../../tensor/tensor.ts";
import { type ContractKernels, momentBlockSize } from "../contract.ts";
import { type CudaGpu, derivedKernel, writtenKernel } from "./gpu.ts";

/** Elements, and blocks of moments, that one block of an update takes. */
const [elementsPerBlock, momentBlocksPerBlock] = [1024, 8];

type UpdateKernels = Pick<ContractKernels, "adamw" | "adamw8bit" | "lion" | "quantize4bit">;

export function updateKernels(gpu: CudaGpu): UpdateKernels {
  return {
    adamw: writtenKernel(gpu, "adamw", (update) => {
      const { params, grads, m, v, factor, learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
      const count = elementCount(params.shape);
      gpu.launch("adamw", [Math.ceil(count / elementsPerBlock)], {
        ...{ params, grads, m, v, factor, count, beta1, beta2, epsilon },
        rest1: 1 - beta1,
        rest2: 1 - beta2,
        keep: 1 - learningRate * weightDecay,
        rate: learningRate / (1 - beta1 ** step),
        root: Math.sqrt(1 - beta2 ** step),
      });
    }),
    adamw8bit: writtenKernel(gpu, "adamw8bit", (update) => {
      const { params, learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
      const { grads, mCodes, vCodes, mAbsmax, vAbsmax, mMap, vMap, factor } = update;
      const count = elementCount(params.shape);
      const root = Math.sqrt(1 - beta2 ** step);
      gpu.launch("adamw8bit", [Math.ceil(count / (momentBlockSize * momentBlocksPerBlock))], {
        ...{ params, grads, mCodes, vCodes, mAbsmax, vAbsmax, mMap, vMap, factor, count, beta1, beta2 },
        rest1: 1 - beta1,
        rest2: 1 - beta2,
        keep: 1 - learningRate * weightDecay,
        rate: (learningRate * root) / (1 - beta1 ** step),
        epsilon: epsilon * root,
      });
    }),
    lion: writtenKernel(gpu, "lion", (update) => {
      const { params, grads, m, factor, learningRate, beta1, beta2, weightDecay } = update;
      const count = elementCount(params.shape);
      gpu.launch("lion", [Math.ceil(count / elementsPerBlock)], {
        ...{ params, grads, m, factor, count, beta1, beta2 },
        rest1: 1 - beta1,
        rest2: 1 - beta2,
        keep: 1 - learningRate * weightDecay,
        rate: learningRate,
      });
    }),
    quantize4bit: derivedKernel(gpu, "quantize4bit", (size) => [
      Math.ceil(size("count") / size("blockSize") / 8),
    ]),
  };
}
