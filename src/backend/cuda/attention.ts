// Launches of attention: on tensor cores in precision bf16, in f32 otherwise, and split over keys where a segment has few
// queries. Tile sizes are those of native/cuda/kernels/attention.cu and attention-backward.cu.

import type { Tensor } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { type CudaGpu, scratchTensor, withScratch } from "./gpu.ts";

/** New queries a segment up to which keys are split: all that passes of few rows have. */
export const fewQueries = 16;
/** Elements of the keys that a part of them has at most. */
const partElements = 8192;
/** The widest head. */
const widest = 512;
/** Columns that a block in f32 holds, and its tile's side. */
const [exactColumns, exactTile] = [128, 64];

const widths = [64, 128, 256, 512] as const;

function checkWidth(width: number): void {
  if (width > widest)
    throw new UserError(
      `attention heads ${width} wide: the CUDA backend takes up to ${widest}; use --backend cpu`,
    );
}

/** The tensor cores' kernels for these operands; undefined where they run in f32. */
function matrixWidth(
  gpu: CudaGpu,
  width: number,
  tensors: readonly Tensor[],
): (typeof widths)[number] | undefined {
  if (gpu.precision === "fp32" || width % 4 !== 0) return undefined;
  if (tensors.some(({ byteOffset }) => byteOffset % 16 !== 0)) return undefined;
  return widths.find((most) => width <= most);
}

/** Keys and values with what says where they lie. */
interface Keys {
  readonly kvHeads: number;
  readonly blocks: Tensor | undefined;
  readonly blockTokens: number;
}

function attention(gpu: CudaGpu, operands: Operands<"attention">, keys: Keys): void {
  const { q, k, v, segments, scale, window, softcap, sinks, out, lse } = operands;
  const [tokens, heads, width] = q.shape as [number, number, number];
  if (segments.count === 0 || tokens === 0) return;
  checkWidth(width);
  if (segments.maxQueries <= fewQueries) {
    decode(gpu, operands, keys);
    return;
  }
  const shared = {
    q,
    k,
    v,
    table: segments.table,
    sinks,
    out,
    lse,
    heads,
    ...keys,
    width,
    window,
    scale,
    softcap,
  };
  const matrix = matrixWidth(gpu, width, [q, k, v, out]);
  const tiles = Math.ceil(segments.maxQueries / (matrix === 512 ? 32 : 64));
  if (matrix) gpu.launch(`attention${matrix}`, [tiles * segments.count, heads], { ...shared, tiles });
  else {
    const parts = Math.ceil(width / exactColumns);
    gpu.launch("attentionExact", [tiles * segments.count, heads * parts], { ...shared, tiles });
  }
}

/** The kernel for so many heads that share keys, and how many of them a block takes. */
function decodeKernel(group: number, width: number, tensors: readonly Tensor[]) {
  if (width % 4 !== 0 || tensors.some(({ byteOffset }) => byteOffset % 16 !== 0))
    return ["attentionDecodeAny", 4] as const;
  if (group === 1) return ["attentionDecode1", 1] as const;
  return group <= 4 ? (["attentionDecode4", 4] as const) : (["attentionDecode8", 8] as const);
}

function decode(gpu: CudaGpu, operands: Operands<"attention">, keys: Keys): void {
  const { q, k, v, segments, scale, window, softcap, sinks, out, lse } = operands;
  const [tokens, heads, width] = q.shape as [number, number, number];
  const { kvHeads } = keys;
  const { table, count, maxQueries, maxKeys } = segments;
  const partKeys = partElements / widths.find((most) => width <= most)!;
  const partsEach = Math.ceil(maxKeys / partKeys);
  const [kernel, together] = decodeKernel(heads / kvHeads, width, [k, v]);
  const shape = [tokens, heads, partsEach, width + 2];
  withScratch(gpu, 4 * tokens * heads * partsEach * (width + 2), (memory) => {
    const parts = scratchTensor(memory, shape);
    const shared = { parts, table, heads, width, window, partsEach, partKeys };
    const blocks = kvHeads * Math.ceil(heads / kvHeads / together);
    const numbers = { ...keys, scale, softcap };
    gpu.launch(kernel, [count * partsEach, blocks, maxQueries], { ...shared, ...numbers, q, k, v });
    gpu.launch("attentionCombine", [count, heads, maxQueries], { ...shared, sinks, out, lse });
  });
}

function attentionBackward(gpu: CudaGpu, operands: Operands<"attentionBackward">): void {
  const { q, k, v, out, lse, dOut, segments, scale, window, softcap, sinks, dq, dk, dv, dSinks } = operands;
  const [tokens, heads, width] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const { table, count, maxQueries, maxKeys } = segments;
  if (count === 0 || tokens === 0) return;
  checkWidth(width);
  const rows = tokens * heads;
  withScratch(gpu, 4 * rows, (memory) => {
    const delta = scratchTensor(memory, [rows]);
    gpu.launch("attentionDelta", [Math.ceil(rows / 8)], { out, dOut, delta, rows, width });
    if (sinks && dSinks) gpu.launch("attentionSinks", [heads], { sinks, lse, delta, dSinks, tokens, heads });
    const tensors = { q, k, v, table, dOut, lse, delta, dq, dk, dv };
    const shared = { ...tensors, heads, kvHeads, width, window, scale, softcap };
    const matrix = matrixWidth(gpu, width, [q, k, v, dOut, dq, dk, dv]);
    if (matrix) {
      const [queries, keys] = matrix === 512 ? [16, 16] : matrix === 256 ? [64, 32] : [64, 64];
      const [byQuery, byKey] = [Math.ceil(maxQueries / queries), Math.ceil(maxKeys / keys)];
      gpu.launch(`attentionBackwardQuery${matrix}`, [byQuery * count, heads], { ...shared, tiles: byQuery });
      gpu.launch(`attentionBackwardKey${matrix}`, [byKey * count, kvHeads], { ...shared, tiles: byKey });
      return;
    }
    const tiles = Math.ceil(maxQueries / exactTile);
    const parts = Math.ceil(width / exactColumns);
    gpu.launch("attentionExactQuery", [tiles * count, heads * parts], { ...shared, tiles });
    gpu.launch("attentionExactKey", [tiles * count, kvHeads * parts], { ...shared, tiles });
  });
}

function cachedAttention(gpu: CudaGpu, operands: Operands<"cachedAttention">): void {
  const { kvHeads, blocks, blockTokens, ...rest } = operands;
  if (blockTokens % exactTile !== 0) throw new BugError(`blocks of ${blockTokens} tokens on CUDA`);
  attention(gpu, rest, { kvHeads, blocks, blockTokens });
}

export function attentionKernels(
  gpu: CudaGpu,
): Pick<ContractKernels, "attention" | "cachedAttention" | "attentionBackward"> {
  return {
    attention(operands) {
      attention(gpu, operands, { kvHeads: operands.k.shape[1]!, blocks: undefined, blockTokens: exactTile });
    },
    cachedAttention: (operands) => cachedAttention(gpu, operands),
    attentionBackward: (operands) => attentionBackward(gpu, operands),
  };
}
