// Launches of kernels that work row by row: gathering and scattering, embedding, RMSNorm, rotary embedding, gated
// activations, soft caps, cross-entropy (files of their names in native/cuda/kernels/; the first three are rows.cu).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ActivationKind, ContractKernels, Operands } from "../contract.ts";
import { dtypeCodes } from "../operand-check.ts";
import { addColumnSums } from "./columns.ts";
import type { CudaGpu } from "./gpu.ts";

/** As activate() in gated-activation.cu. */
export const activationCodes: Record<ActivationKind, number> = {
  ...{ silu: 0, gelu: 1, geluTanh: 2, identity: 3, sigmoid: 4 },
};

/** Rows up to this width get a warp each, eight a block of them; longer ones a block. */
const shortRow = 1024;
const shortRowsEach = 8;

/** Elements or columns that a block takes, where it takes a fixed number. */
const blockElements = 1024;

type RowKernels = Pick<
  ContractKernels,
  | "gatherRows"
  | "scatterRows"
  | "storeRows"
  | "embedding"
  | "embeddingBackward"
  | "rmsNorm"
  | "rmsNormBackward"
  | "rope"
  | "gatedActivation"
  | "gatedActivationBackward"
  | "softCap"
  | "softCapBackward"
  | "crossEntropy"
>;

/** Elements of a row, whatever sizes it has. */
function widthOf({ shape }: Tensor): number {
  return elementCount(shape.slice(1));
}

/** Blocks of row kernels over so many rows of this width. */
function rowBlocks(rows: number, width: number): number {
  return width <= shortRow ? Math.ceil(rows / shortRowsEach) : rows;
}

function gather(gpu: CudaGpu, x: Tensor, index: Tensor, y: Tensor): void {
  const width = widthOf(x);
  const values = { x, index, y, count: x.shape[0]!, width, type: dtypeCodes[x.dtype] };
  gpu.launch("gatherRows", [index.shape[0]!, Math.ceil(width / blockElements)], values);
}

function scatter(gpu: CudaGpu, { x, index, y }: Operands<"scatterRows">): void {
  const width = widthOf(y);
  const grid = [index.shape[0]!, Math.ceil(width / blockElements)] as const;
  gpu.launch("scatterRows", grid, { x, index, y, count: y.shape[0]!, width });
}

export function rowKernels(gpu: CudaGpu): RowKernels {
  return {
    gatherRows: ({ x, index, y }) => gather(gpu, x, index, y),
    scatterRows: (operands) => scatter(gpu, operands),
    // Caches are f32 here (cacheTypes).
    storeRows: (operands) => scatter(gpu, operands),
    embedding: ({ ids, table, y }) => gather(gpu, table, ids, y),
    embeddingBackward({ ids, dy, dTable }) {
      const [count, width] = dTable.shape as [number, number];
      const tokens = ids.shape[0]!;
      const grid = [tokens, Math.ceil(width / blockElements)] as const;
      gpu.launch("embeddingBackward", grid, { ids, dy, dTable, tokens, count, width });
    },
    rmsNorm({ x, w, shift, epsilon, y, rstd }) {
      const [rows, width] = [elementCount(rstd.shape), elementCount(w.shape)];
      const kernel = width <= shortRow ? "rmsNormShort" : "rmsNorm";
      gpu.launch(kernel, [rowBlocks(rows, width)], { x, w, y, rstd, rows, width, epsilon, shift });
    },
    rmsNormBackward({ x, w, shift, rstd, dy, dx, accumulate, dw }) {
      const [rows, width] = [elementCount(rstd.shape), elementCount(w.shape)];
      if (dw) addColumnSums(gpu, dy, dw, { y: x, rstd });
      if (!dx) return;
      const kernel = width <= shortRow ? "rmsNormBackwardShort" : "rmsNormBackward";
      const values = { x, w, rstd, dy, dx, rows, width, accumulate: accumulate ? 1 : 0, shift };
      gpu.launch(kernel, [rowBlocks(rows, width)], values);
    },
    rope({ x, positions, cos, sin, direction, y }) {
      const [tokens, heads, width] = x.shape as [number, number, number];
      const half = cos.shape[1]!;
      const count = tokens * heads;
      const blocks = Math.ceil((count * (width - half)) / 256);
      gpu.launch("rope", [blocks], { x, positions, cos, sin, y, count, heads, width, half, direction });
    },
    gatedActivation({ activation, gate, up, y }) {
      const count = elementCount(y.shape);
      const values = { gate, up, y, count, activation: activationCodes[activation] };
      gpu.launch("gatedActivation", [Math.ceil(count / blockElements)], values);
    },
    gatedActivationBackward({ activation, gate, up, dy, dGate, dUp }) {
      const count = elementCount(dy.shape);
      const values = { gate, up, dy, dGate, dUp, count, activation: activationCodes[activation] };
      gpu.launch("gatedActivationBackward", [Math.ceil(count / blockElements)], values);
    },
    softCap({ x, cap, y }) {
      const count = elementCount(y.shape);
      gpu.launch("softCap", [Math.ceil(count / blockElements)], { x, y, count, cap });
    },
    softCapBackward({ y, cap, dy, dx }) {
      const count = elementCount(y.shape);
      gpu.launch("softCap", [Math.ceil(count / blockElements)], { x: y, dy, y: dx, count, cap });
    },
    crossEntropy({ logits, targets, loss, dLogits, gradScale }) {
      const [rows, width] = logits.shape as [number, number];
      gpu.launch("crossEntropy", [rows], { logits, targets, loss, dLogits, width, gradScale });
    },
  };
}
