// Launches of project-rows.wgsl: rows multiplied by adapters' factors and packed for subgroup matrices, whether they lie in
// memory or are made on the way by the kernel that precedes the product (deferred-rows.ts).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import { f32, type Operand, operand } from "./commands.ts";
import type { Gpu } from "./gpu.ts";
import type { Variant } from "./pipelines.ts";
import { vectorRows } from "./product-operands.ts";
import type { RowSource } from "./row-source.ts";
import type { ShaderSource } from "./shaders.ts";

/** Words before the rows, and bytes of it all, of packed rows that have a scale each. */
export function packedLayout(rows: number, columns: number) {
  const lda = Math.ceil(columns / 8) * 8;
  const header = 4 + Math.ceil(rows / 4) * 4;
  return { lda, header, sizeBytes: 4 * (header + (rows * lda) / 2) };
}

/** Whether rows of this shape may be made by a product: large ones, which go to subgroup matrices. */
export function rowsMayWait(gpu: Gpu, rows: number, columns: number, tensors: readonly Tensor[]): boolean {
  return (
    gpu.matrix !== undefined &&
    rows > vectorRows &&
    columns % 4 === 0 &&
    4 * rows * columns <= gpu.commands.bindingLimit - 256 &&
    tensors.every(({ dtype, byteOffset }) => dtype === "f32" && byteOffset % 16 === 0)
  );
}

/** Whether no tensor of one list shares a buffer with one of the other: a launch may then write one and read the other. */
export function apart(gpu: Gpu, some: readonly Tensor[], others: readonly Tensor[]): boolean {
  for (const one of some) {
    const { block } = gpu.memory.of(one.buffer);
    for (const { buffer } of others) if (gpu.memory.of(buffer).block === block) return false;
  }
  return true;
}

/** A tensor that is read four elements at a time. */
export function quadsOf(tensor: Tensor): Operand {
  return { ...operand(tensor), unit: 16 };
}

/** Rows of f32 in memory. */
export function rowsInMemory(source: Operand, columns: number, pitch: number): RowSource {
  const quads = columns % 4 === 0 && pitch % 4 === 0 && source.byteOffset % 16 === 0;
  const operands = [{ ...source, unit: quads ? 16 : 4 }];
  return {
    files: [quads ? "rows-in-memory-vec4" : "rows-in-memory"],
    operands,
    outputs: 1,
    own: [],
    pitch,
    quads,
  };
}

/** One factor that rows are multiplied by, and where the products go. */
export interface Projection {
  /** f32 [rank, columns] ("a") or [columns, rank] ("b"). */
  readonly factor: Tensor;
  readonly by: "a" | "b";
  readonly scale: number;
  /** f32, row t of it `ldu` elements after row t - 1. */
  readonly u: Operand;
  readonly ldu: number;
}

/** Factors that one launch multiplies by. */
export const mostProjections = 3;

export interface RowsJob {
  readonly source: RowSource;
  readonly rows: number;
  readonly columns: number;
  /** Room for packed rows, of two kinds one behind the other. */
  readonly packed?: Operand;
  /** Of one kind of rows: their layers. Of two: a layer each, whose results stand side by side in rows of one buffer. */
  readonly projections: readonly Projection[];
}

interface HasFactor {
  readonly factor: Tensor;
}

/** Whether these factors can be read in one launch: through one binding, and so in one buffer. */
export function together(gpu: Gpu, projections: readonly HasFactor[]): boolean {
  const blocks = new Set(projections.map(({ factor }) => gpu.memory.of(factor.buffer).block));
  if (blocks.size === 0) return true;
  return blocks.size === 1 && spanOf(projections).sizeBytes <= gpu.commands.bindingLimit - 256;
}

/** The part of a buffer in which factors lie. */
function spanOf(projections: readonly HasFactor[]): Operand {
  const starts = projections.map(({ factor }) => factor.byteOffset);
  const ends = projections.map(({ factor }) => factor.byteOffset + 4 * elementCount(factor.shape));
  const start = Math.min(...starts);
  return { buffer: projections[0]!.factor.buffer, byteOffset: start, sizeBytes: Math.max(...ends) - start };
}

export function projectRows(gpu: Gpu, { source, rows, columns, packed, projections }: RowsJob): void {
  const parts = projections.length;
  const { outputs, quads } = source;
  invariant(parts <= mostProjections, `${parts} projections in one launch`);
  invariant(outputs === 1 || parts === 2 || parts === 0, `${parts} projections of two kinds of rows`);
  const by = projections[0]?.by ?? "a";
  const rankOf = ({ factor }: Projection) => factor.shape[by === "a" ? 0 : 1]!;
  // Results of two kinds of rows, and those of one layer, lie in one buffer.
  const into = (outputs === 2 && parts > 0 ? 1 : parts) as 0 | 1 | 2 | 3;
  invariant(
    projections.every((one) => one.by === by && (into <= 1 || one.ldu === rankOf(one))),
    "projections",
  );
  const factorQuads = projections.every(
    ({ factor }) => factor.byteOffset % 16 === 0 && factor.shape[1]! % 4 === 0 && (by === "b" || quads),
  );
  const factorVec = factorQuads ? "-vec4" : "";
  const pack = packed ? 1 : 0;
  const key = ["project-rows", by, factorQuads, ...source.files, parts, outputs, pack];
  for (const name in source.constants) key.push(source.constants[name]!);
  const pipeline = gpu.pipelines.get(key, (): Variant => {
    const projecting: ShaderSource[] = parts > 0 ? [`project-by-${by}${factorVec}`] : [];
    return {
      files: ["project-rows", `project-into-${into}`, ...projecting, ...source.files],
      constants: {
        ...source.constants,
        ...{ SOURCES: source.operands.length, OUTPUTS: outputs, PARTS: parts, PACK: pack },
      },
      aliases: { Factor: factorQuads ? "vec4f" : "f32" },
      offsetWords: 8,
    };
  });
  const { nothing } = gpu.commands;
  const unit = factorQuads ? 16 : 4;
  const factors: Operand = parts > 0 ? { ...spanOf(projections), unit } : nothing;
  const operands = [packed ?? nothing, factors, ...source.operands];
  for (let i = 0; i < into; i++) operands.push(projections[i]!.u);
  if (source.uniforms) operands.push(...source.uniforms);
  const { lda, header, sizeBytes } = packedLayout(rows, columns);
  const ldu = projections[0]?.ldu ?? 0;
  const params = [rows, columns, source.pitch, lda / 2, header, sizeBytes / 4, ldu];
  // Ranks, places and scales of three layers.
  const ofLayers = [0, 0, 0, 0, 0, 0, 0, 0, 0];
  for (const [i, one] of projections.entries()) {
    ofLayers[i] = rankOf(one);
    ofLayers[3 + i] = (one.factor.byteOffset - factors.byteOffset) / unit;
    ofLayers[6 + i] = f32(one.scale);
  }
  params.push(...ofLayers, ...source.own);
  gpu.commands.launch(pipeline, operands, params, Math.ceil(rows / 8));
}
