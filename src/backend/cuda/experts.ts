// Launches of a mixture's router, the order of its tokens, the sum of its experts' answers and their activation
// (native/cuda/kernels/experts.cu). Not here: products of experts (grouped.ts).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ActivationKind, ContractKernels } from "../contract.ts";
import type { CudaGpu } from "./gpu.ts";
import { activationCodes } from "./rows.ts";

type ExpertKernels = Pick<
  ContractKernels,
  | "router"
  | "routerBackward"
  | "sortByExpert"
  | "combineExperts"
  | "combineExpertsBackward"
  | "expertActivation"
  | "expertActivationBackward"
>;

interface Kind {
  readonly activation: ActivationKind;
  readonly limit: number;
  readonly alpha: number;
}

/** Tokens of a block whose warps take one each; elements or columns of a block that takes a fixed number. */
const [blockTokens, blockElements] = [8, 1024];

function gated(gpu: CudaGpu, { activation, limit, alpha }: Kind, x: Tensor, y: Tensor, dy?: Tensor): void {
  const [rows, width] = (dy ?? y).shape as [number, number];
  const count = rows * width;
  const numbers = { count, width, activation: activationCodes[activation], limit, alpha };
  gpu.launch("expertActivation", [Math.ceil(count / blockElements)], { x, y, dy, ...numbers });
}

export function expertKernels(gpu: CudaGpu): ExpertKernels {
  return {
    router({ logits, normalized, weights, chosen }) {
      const [tokens, experts] = logits.shape as [number, number];
      const numbers = { tokens, experts, k: weights.shape[1]!, normalized: normalized ? 1 : 0 };
      gpu.launch("router", [Math.ceil(tokens / blockTokens)], { logits, weights, chosen, ...numbers });
    },
    routerBackward({ normalized, ...tensors }) {
      const [tokens, experts] = tensors.logits.shape as [number, number];
      const numbers = { tokens, experts, k: tensors.weights.shape[1]!, normalized: normalized ? 1 : 0 };
      gpu.launch("routerBackward", [Math.ceil(tokens / blockTokens)], { ...tensors, ...numbers });
    },
    sortByExpert(tensors) {
      const experts = tensors.offsets.shape[0]! - 1;
      const numbers = { pairs: elementCount(tensors.chosen.shape), experts, k: tensors.chosen.shape[1]! };
      gpu.launch("sortByExpert", [experts], { ...tensors, ...numbers });
    },
    combineExperts(tensors) {
      const [tokens, width] = tensors.y.shape as [number, number];
      const grid = [tokens, Math.ceil(width / blockElements)] as const;
      gpu.launch("combineExperts", grid, { ...tensors, k: tensors.slots.shape[1]!, width });
    },
    combineExpertsBackward(tensors) {
      const numbers = { k: tensors.slots.shape[1]!, width: tensors.dy.shape[1]! };
      gpu.launch("combineExpertsBackward", [elementCount(tensors.slots.shape)], { ...tensors, ...numbers });
    },
    expertActivation: ({ x, y, ...kind }) => gated(gpu, kind, x, y),
    expertActivationBackward: ({ x, dy, dx, ...kind }) => gated(gpu, kind, x, dx, dy),
  };
}
