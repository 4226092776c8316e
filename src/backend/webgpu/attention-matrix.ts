// Attention on subgroup matrices, forward and backward: which shapes they take, and the launches. Inputs are read as they are
// and rounded to f16 on the way into workgroup memory. attention.ts comes here where the tier and the head's width allow it.

import type { Tensor } from "../../tensor/tensor.ts";
import type { Segments } from "../contract.ts";
import { f32, type Operand, operand } from "./commands.ts";
import type { MatrixShape } from "./device.ts";
import { type Gpu, plain, withScratch } from "./gpu.ts";
import { largestOfPartial } from "./packed-rows.ts";
import type { Pipeline, Variant } from "./pipelines.ts";

/** Subgroups of a workgroup, and the widest head whose sums fit registers. */
const strips = 4;
const widestHead = 128;
/** Rows of the other side at a time, the first that fits workgroup memory. */
const tileWidths = [32, 16] as const;
/** Rows of dOut that a workgroup of attention-matrix-known.wgsl takes. */
const rowsPerGroup = 8;

/** Bytes of workgroup memory; the backward pass takes the most. */
function workgroupBytes(matrix: MatrixShape, width: number, tileWidth: number): number {
  const rows = strips * matrix.m;
  const slices = 2 * rows * (matrix.k / 8 + 1);
  return 16 * Math.max(2 * tileWidth * (width / 8 + 1), slices) + rows * tileWidth * 12;
}

/** Rows of the other side that a workgroup has at a time; undefined where none fit. */
function tileWidthOf(gpu: Gpu, width: number): number | undefined {
  const { matrix } = gpu;
  const room = gpu.limits.maxComputeWorkgroupStorageSize;
  return tileWidths.find(
    (tile) =>
      matrix &&
      [tile % matrix.k, tile % matrix.n].every((rest) => rest === 0) &&
      workgroupBytes(matrix, width, tile) <= room,
  );
}

/** Whether these tensors' attention can run on subgroup matrices here. */
export function matrixAttentionFits(gpu: Gpu, tensors: readonly Tensor[], segments: Segments): boolean {
  const { matrix } = gpu;
  if (!matrix || segments.maxQueries < matrix.m) return false;
  const width = tensors[0]!.shape[2]!;
  return (
    width <= widestHead &&
    [width % matrix.k, width % matrix.n, matrix.subgroupSize % matrix.m].every((rest) => rest === 0) &&
    [matrix.k % 8, matrix.n % 8].every((rest) => rest === 0) &&
    strips * matrix.subgroupSize <= gpu.limits.maxComputeInvocationsPerWorkgroup &&
    tileWidthOf(gpu, width) !== undefined &&
    tensors.every(({ byteOffset }) => byteOffset % 16 === 0)
  );
}

function pipelineOf(
  gpu: Gpu,
  file: Variant["files"][number],
  width: number,
  keys: Pick<Variant, "files"> & { readonly BLOCK?: number } = { files: [] },
): Pipeline {
  const { BLOCK } = keys;
  return gpu.pipelines.get(`${file} ${width}${BLOCK === undefined ? "" : ` ${BLOCK}`}`, () => {
    const { m, n, k, subgroupSize } = gpu.matrix!;
    const shape = { STRIPS: strips, SUBGROUP: subgroupSize, MM: m, MN: n, MK: k };
    return {
      files: ["half-factor", "attention-matrix-params", ...keys.files, file],
      constants: {
        D: width,
        WIDTH: tileWidthOf(gpu, width)!,
        ...shape,
        ...(BLOCK === undefined ? {} : { BLOCK }),
      },
      extensions: ["f16", "subgroups", "chromium_experimental_subgroup_matrix"],
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
  kvHeads: number,
  blocks: { readonly list: Operand; readonly tokens: number },
): void {
  const [, heads, width] = q.shape as [number, number, number];
  const pipeline = pipelineOf(gpu, "attention-matrix", width, { files: ["key-rows"], BLOCK: blocks.tokens });
  const operands = [q, k, v, segments.table, out, lse].map((tensor) => operand(tensor));
  operands.push(blocks.list);
  const params = [heads, kvHeads, window, f32(scale)];
  const tiles = Math.ceil(segments.maxQueries / (strips * gpu.matrix!.m));
  gpu.commands.launch(pipeline, operands, params, [tiles, heads, segments.count]);
}

/** The backward pass; `useStatistics` may read (lse, delta) of all rows. */
export function matrixAttentionBackward(
  gpu: Gpu,
  [q, k, v, out, dOut]: readonly [Tensor, Tensor, Tensor, Tensor, Tensor],
  lse: Tensor,
  segments: Segments,
  scale: number,
  window: number,
  [dq, dk, dv]: readonly [Tensor, Tensor, Tensor],
  useStatistics: (statistics: Operand) => void,
): void {
  const [tokens, heads, width] = q.shape as [number, number, number];
  const kvHeads = k.shape[1]!;
  const rows = tokens * heads;
  const first = 1 + 2 * segments.count;
  const groups = Math.ceil(rows / rowsPerGroup);
  withScratch(gpu, 8 * (first + rows), (memory) => {
    const known = { buffer: memory, byteOffset: 0, sizeBytes: 8 * (first + rows) };
    withScratch(gpu, 4 * groups, (found) => {
      const tops = { buffer: found, byteOffset: 0, sizeBytes: 4 * groups };
      const pipeline = gpu.pipelines.get("attention-matrix-known", plain("attention-matrix-known"));
      const from = [out, dOut, lse, segments.table].map((tensor) => operand(tensor));
      gpu.commands.launch(pipeline, [...from, known, tops], [rows, width, 2 * segments.count], groups);
      largestOfPartial(gpu, tops, { ...known, sizeBytes: 4 });
    });
    useStatistics({ ...known, byteOffset: 8 * first, sizeBytes: 8 * rows });
    const tiles = Math.ceil(segments.maxQueries / (strips * gpu.matrix!.m));
    const operands = [q, k, v, dOut].map((tensor) => operand(tensor));
    const grads = [dq, dk, dv].map((tensor) => operand(tensor));
    const params = [heads, kvHeads, window, f32(scale), tiles, first];
    const pipeline = pipelineOf(gpu, "attention-matrix-backward", width);
    gpu.commands.launch(pipeline, [...operands, known, ...grads], params, [2 * tiles, heads, segments.count]);
  });
}
