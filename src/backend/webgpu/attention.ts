// Attention over segments, forward and backward: tile sizes by the device's workgroup memory, and the launches.

import type { Tensor } from "../../tensor/tensor.ts";
import { UserError } from "../../util/errors.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { matrixAttention, matrixAttentionBackward, matrixAttentionFits } from "./attention-matrix.ts";
import { f32, type Operand, operand } from "./commands.ts";
import { bytesOf, type Gpu, plain, withScratch } from "./gpu.ts";
import { vectorRows } from "./product-operands.ts";

/** New queries a segment up to which each gets a workgroup of its own: all that passes of few rows have. */
const decodeQueries = vectorRows;

/** Kernels that walk over segments bind their tensors whole: a segment may lie anywhere in them. */
export function checkSizes(gpu: Gpu, kernel: string, tensors: readonly Tensor[]): void {
  const limit = gpu.commands.bindingLimit;
  for (const tensor of tensors) {
    if (bytesOf(tensor) <= limit - 256) continue;
    throw new UserError(
      `${kernel} over ${tensor.shape[0]} tokens takes tensors of ${bytesOf(tensor)} bytes, and this GPU binds ${limit} at a time through WebGPU; use fewer tokens a batch`,
    );
  }
}

/** Queries and keys of a tile of attention.wgsl: as many as workgroup memory holds. */
function forwardTiles(gpu: Gpu, maxQueries: number): { BQ: number; BK: number } {
  const bytes = (BQ: number, BK: number) => 16 * (BQ * 9 + BK * 17 + BQ * (BK / 4 + 1)) + 4 * (256 + 3 * BQ);
  const room = gpu.limits.maxComputeWorkgroupStorageSize;
  if (bytes(32, 32) > room) return { BQ: 32, BK: 16 };
  return { BQ: maxQueries > 32 && bytes(64, 32) <= room ? 64 : 32, BK: 32 };
}

function backwardTiles(gpu: Gpu, width: number): { CHUNK: number; PAD: number } {
  const fits = (CHUNK: number, PAD: number) =>
    32 * (4 * 16 * (CHUNK / 4 + PAD) + 2 * 4 * (32 + PAD)) <= gpu.limits.maxComputeWorkgroupStorageSize;
  if (width > 16 && fits(32, 1)) return { CHUNK: 32, PAD: 1 };
  return { CHUNK: 16, PAD: fits(16, 1) ? 1 : 0 };
}

/** Where keys and values lie: the list of their blocks, each of so many tokens; 0: one behind the other. */
interface KeyBlocks {
  readonly list: Operand;
  readonly tokens: number;
}

function attention(
  gpu: Gpu,
  operands: Operands<"attention">,
  kvHeads: number = operands.k.shape[1]!,
  blocks: KeyBlocks = { list: gpu.commands.nothing, tokens: 0 },
): void {
  const { q, k, v, segments, scale, window, softcap, sinks, out, lse } = operands;
  const [, heads, width] = q.shape as [number, number, number];
  if (segments.count === 0 || q.shape[0] === 0) return;
  checkSizes(gpu, "attention", [q, k, v]);
  const few = segments.maxQueries <= decodeQueries;
  if (!few && softcap === 0 && !sinks && matrixAttentionFits(gpu, [q, k, v], segments)) {
    matrixAttention(gpu, [q, k, v], segments, scale, window, out, lse, kvHeads, blocks);
    return;
  }
  const bound = [...[q, k, v, segments.table, out, lse].map((t) => operand(t)), operandOrNothing(gpu, sinks)];
  bound.push(blocks.list);
  const params = [heads, kvHeads, window, f32(scale), f32(softcap)];
  const kind = { CAPPED: softcap > 0 ? 1 : 0, SINKS: sinks ? 1 : 0, BLOCK: blocks.tokens };
  const name = Object.values(kind).join(" ");
  if (few) {
    const pipeline = gpu.pipelines.get(`attention-decode ${width} ${name}`, () => ({
      files: ["attention-cap", "key-rows", "attention-decode"],
      constants: { D: width, ...kind },
    }));
    gpu.commands.launch(pipeline, bound, params, [segments.maxQueries, heads, segments.count]);
    return;
  }
  // 8: vectors of four in the 32 columns of a chunk.
  params.push(8);
  const tiles = forwardTiles(gpu, segments.maxQueries);
  const pipeline = gpu.pipelines.get(`attention ${width} ${name} ${Object.values(tiles).join(" ")}`, () => ({
    files: ["attention-cap", "key-rows", "attention"],
    constants: { ...tiles, D: width, ...kind },
  }));
  const queryTiles = Math.ceil(segments.maxQueries / tiles.BQ);
  gpu.commands.launch(pipeline, bound, params, [queryTiles, heads, segments.count]);
}

function cachedAttention(gpu: Gpu, operands: Operands<"cachedAttention">): void {
  const { kvHeads, blocks, blockTokens, ...rest } = operands;
  attention(gpu, rest, kvHeads, { list: operand(blocks), tokens: blockTokens });
}

function attentionBackward(gpu: Gpu, operands: Operands<"attentionBackward">): void {
  const { q, k, v, segments, scale, window, softcap, sinks, out, lse, dOut, dq, dk, dv, dSinks } = operands;
  const [tokens, heads, width] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  if (segments.count === 0 || tokens === 0) return;
  checkSizes(gpu, "attention", [q, k, v]);
  const rows = tokens * heads;
  const addSinks = (statistics: Operand) => {
    if (!sinks || !dSinks) return;
    const pipeline = gpu.pipelines.get("attention-sinks-backward", plain("attention-sinks-backward"));
    gpu.commands.launch(pipeline, [statistics, operand(sinks), operand(dSinks)], [tokens, heads], heads);
  };
  if (softcap === 0 && matrixAttentionFits(gpu, [q, k, v, dOut], segments)) {
    const inputs = [q, k, v, out, dOut] as const;
    matrixAttentionBackward(gpu, inputs, lse, segments, scale, window, [dq, dk, dv], addSinks);
    return;
  }
  withScratch(gpu, 8 * rows, (memory) => {
    const statistics = { buffer: memory, byteOffset: 0, sizeBytes: 8 * rows };
    const delta = gpu.pipelines.get("attention-delta", plain("attention-delta"));
    const from = [operand(out), operand(dOut), operand(lse), statistics];
    gpu.commands.launch(delta, from, [rows, width], Math.ceil(rows / 8));
    addSinks(statistics);
    const constants = { ...backwardTiles(gpu, width), D: width, CAPPED: softcap > 0 ? 1 : 0 };
    const name = Object.values(constants).join(" ");
    const byQuery = gpu.pipelines.get(`attention-backward-query ${name}`, () => ({
      files: ["attention-cap", "attention-backward-tiles", "attention-backward-query"],
      constants,
      offsetWords: 8,
    }));
    const byKey = gpu.pipelines.get(`attention-backward-key ${name}`, () => ({
      files: ["attention-cap", "attention-backward-tiles", "attention-backward-key"],
      constants,
      offsetWords: 8,
    }));
    const shared = [operand(q), operand(k), operand(v), operand(dOut), statistics, operand(segments.table)];
    const params = [heads, kvHeads, window, f32(scale), f32(softcap), constants.CHUNK / 4];
    const tiles = Math.ceil(segments.maxQueries / 32);
    gpu.commands.launch(byQuery, [...shared, operand(dq)], params, [tiles, heads, segments.count]);
    gpu.commands.launch(byKey, [...shared, operand(dk), operand(dv)], params, [
      tiles,
      kvHeads,
      segments.count,
    ]);
  });
}

function operandOrNothing(gpu: Gpu, tensor: Tensor | undefined): Operand {
  return tensor ? operand(tensor) : gpu.commands.nothing;
}

export function attentionKernels(
  gpu: Gpu,
): Pick<ContractKernels, "attention" | "cachedAttention" | "attentionBackward"> {
  return {
    attention: (operands) => attention(gpu, operands),
    cachedAttention: (operands) => cachedAttention(gpu, operands),
    attentionBackward: (operands) => attentionBackward(gpu, operands),
  };
}
