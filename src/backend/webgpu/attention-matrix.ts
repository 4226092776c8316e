// Attention on subgroup matrices, forward and backward: copies of its inputs in f16, which matrices are loaded from, and the
// launches. attention.ts comes here where the tier and the head's width allow it.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { Segments } from "../contract.ts";
import { f32, type Operand, operand } from "./commands.ts";
import { elementsPerGroup, type Gpu, withScratch } from "./gpu.ts";
import { findLargest } from "./packed-rows.ts";
import type { Pipeline, Variant } from "./pipelines.ts";

/** Subgroups of a workgroup, rows of the other side at a time, and the widest head whose sums fit registers. */
const strips = 4;
const tileWidth = 32;
const widestHead = 128;
/** Rows of zeros after each copy: what the last tile may read beyond the last token. */
const spareRows = 128;

/** Elements of the f16 copies, and where each starts. */
interface Halves {
  readonly starts: readonly number[];
  readonly elements: number;
}

function halvesOf(tensors: readonly Tensor[]): Halves {
  let elements = 0;
  const starts = tensors.map((tensor) => {
    const start = elements;
    const [rows, heads, width] = tensor.shape as [number, number, number];
    elements += (rows + spareRows) * heads * width;
    return start;
  });
  return { starts, elements };
}

/** Whether these tensors' attention can run on subgroup matrices here. */
export function matrixAttentionFits(gpu: Gpu, tensors: readonly Tensor[], segments: Segments): boolean {
  const { matrix } = gpu;
  if (!matrix || segments.maxQueries < matrix.m) return false;
  const width = tensors[0]!.shape[2]!;
  return (
    width <= widestHead &&
    [width % matrix.k, width % matrix.n, matrix.subgroupSize % matrix.m].every((rest) => rest === 0) &&
    [tileWidth % matrix.k, tileWidth % matrix.n].every((rest) => rest === 0) &&
    strips * matrix.subgroupSize <= gpu.limits.maxComputeInvocationsPerWorkgroup &&
    strips * matrix.m <= spareRows &&
    strips * matrix.m * tileWidth * 12 + 1024 <= gpu.limits.maxComputeWorkgroupStorageSize &&
    2 * halvesOf(tensors).elements <= gpu.commands.bindingLimit - 256
  );
}

/** Records copies of the tensors in f16 into `memory`; the one called `scaled` times halfFactor(largest). */
function copyHalves(
  gpu: Gpu,
  tensors: readonly Tensor[],
  halves: Halves,
  memory: Operand,
  scaled?: { readonly tensor: Tensor; readonly largest: Operand },
): void {
  for (const [i, tensor] of tensors.entries()) {
    const own = scaled?.tensor === tensor;
    const pipeline = gpu.pipelines.get(`half-copy ${own ? 1 : 0}`, () => ({
      files: ["half-factor", "half-copy"],
      constants: { SCALED: own ? 1 : 0 },
    }));
    const [, heads, width] = tensor.shape as [number, number, number];
    const count = elementCount(tensor.shape);
    const padded = count + spareRows * heads * width;
    const target = {
      buffer: memory.buffer,
      byteOffset: memory.byteOffset + 2 * halves.starts[i]!,
      sizeBytes: 2 * padded,
    };
    const operands = [operand(tensor), own ? scaled.largest : gpu.commands.nothing, target];
    gpu.commands.launch(pipeline, operands, [count, padded], Math.ceil(padded / 2 / elementsPerGroup));
  }
}

function pipelineOf(gpu: Gpu, file: Variant["files"][number], width: number): Pipeline {
  return gpu.pipelines.get(`${file} ${width}`, () => {
    const { m, n, k, subgroupSize } = gpu.matrix!;
    return {
      files: ["half-factor", "attention-matrix-params", file],
      constants: { D: width, WIDTH: tileWidth, STRIPS: strips, SUBGROUP: subgroupSize, MM: m, MN: n, MK: k },
      extensions: ["f16", "subgroups", "chromium_experimental_subgroup_matrix"],
      offsetWords: 6,
    };
  });
}

export function matrixAttention(
  gpu: Gpu,
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  segments: Segments,
  scale: number,
  window: number,
  out: Tensor,
  lse: Tensor,
): void {
  const [, heads, width] = q.shape as [number, number, number];
  const tensors = [q, k, v];
  const halves = halvesOf(tensors);
  withScratch(gpu, 2 * halves.elements, (memory) => {
    const copies = { buffer: memory, byteOffset: 0, sizeBytes: 2 * halves.elements, unit: 2 };
    copyHalves(gpu, tensors, halves, copies);
    const pipeline = pipelineOf(gpu, "attention-matrix", width);
    const operands = [copies, operand(segments.table), operand(out), operand(lse)];
    const params = [heads, k.shape[1]!, window, f32(scale), ...halves.starts];
    const tiles = Math.ceil(segments.maxQueries / (strips * gpu.matrix!.m));
    gpu.commands.launch(pipeline, operands, params, [tiles, heads, segments.count]);
  });
}

/** The halves of the backward pass that follow attention-delta; `statistics` is its result. */
export function matrixAttentionBackward(
  gpu: Gpu,
  [q, k, v, dOut]: readonly [Tensor, Tensor, Tensor, Tensor],
  statistics: Operand,
  segments: Segments,
  scale: number,
  window: number,
  [dq, dk, dv]: readonly [Tensor, Tensor, Tensor],
): void {
  const [, heads, width] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const tensors = [q, k, v, dOut];
  const halves = halvesOf(tensors);
  withScratch(gpu, 2 * halves.elements, (memory) => {
    withScratch(gpu, 16, (found) => {
      const copies = { buffer: memory, byteOffset: 0, sizeBytes: 2 * halves.elements, unit: 2 };
      const largest = { buffer: found, byteOffset: 0, sizeBytes: 4 };
      findLargest(gpu, operand(dOut), largest);
      copyHalves(gpu, tensors, halves, copies, { tensor: dOut, largest });
      const shared = [copies, operand(segments.table), statistics, largest];
      const params = [heads, kvHeads, window, f32(scale), ...halves.starts];
      const tiles = Math.ceil(segments.maxQueries / (strips * gpu.matrix!.m));
      const byQuery = pipelineOf(gpu, "attention-matrix-backward-query", width);
      const byKey = pipelineOf(gpu, "attention-matrix-backward-key", width);
      gpu.commands.launch(byQuery, [...shared, operand(dq)], params, [tiles, heads, segments.count]);
      const bothKeys = [...shared, operand(dk), operand(dv)];
      gpu.commands.launch(byKey, bothKeys, params, [tiles, kvHeads, segments.count]);
    });
  });
}
