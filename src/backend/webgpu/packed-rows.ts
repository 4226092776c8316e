// What is done to operand A before a product reads it: rows become f16 for subgroup matrices, scaled so that small gradients
// and large activations survive, and are multiplied by adapters' factors on the same way (project-rows.wgsl).

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import { f32, type Operand } from "./commands.ts";
import { type Gpu, plain, withScratch } from "./gpu.ts";
import type { Variant } from "./pipelines.ts";
import { type Form, part } from "./product-operands.ts";
import type { MatrixTile } from "./tiles.ts";

/** Elements that a workgroup of the search for the largest magnitude takes. */
const largestSpan = 8192;

/** Constants of gemm-matrix.wgsl beyond those of every tiled product. */
export function matrixConstants(gpu: Gpu, { WM, WN }: MatrixTile): Record<string, number> {
  invariant(gpu.matrix, "subgroup matrices outside their tier");
  const { m, n, k, subgroupSize } = gpu.matrix;
  return { WM, WN, MM: m, MN: n, MK: k, SUBGROUP: subgroupSize };
}

/** largest = bits of the largest magnitude of an f32 operand; elements between its rows count too, and do no harm. */
export function findLargest(gpu: Gpu, source: Operand, largest: Operand): void {
  const count = source.sizeBytes / 4;
  const pipeline = gpu.pipelines.get("reduce-largest", plain("reduce-largest"));
  const groups = Math.ceil(count / largestSpan);
  withScratch(gpu, 4 * groups, (memory) => {
    const partial = { buffer: memory, byteOffset: 0, sizeBytes: 4 * groups };
    gpu.commands.launch(pipeline, [source, partial], [count, largestSpan], groups);
    largestOfPartial(gpu, partial, largest);
  });
}

/** largest = the largest of bits of magnitudes. */
export function largestOfPartial(gpu: Gpu, partial: Operand, largest: Operand): void {
  const count = partial.sizeBytes / 4;
  const pipeline = gpu.pipelines.get("reduce-largest", plain("reduce-largest"));
  gpu.commands.launch(pipeline, [partial, largest], [count, count], 1);
}

/** Operand A of gemm-matrix.wgsl: rows of f16, `lda` elements each, from vector `firstRow` of its memory on. */
export type PackedRows = Form & { readonly lda: number; readonly firstRow: number };

/** Words before the rows, and bytes of it all, of packed rows that have a scale each. */
export function packedLayout(rows: number, columns: number) {
  const lda = Math.ceil(columns / 8) * 8;
  const header = 4 + Math.ceil(rows / 4) * 4;
  return { lda, header, sizeBytes: 4 * (header + (rows * lda) / 2) };
}

/** Rows that lie packed in `memory`. */
export function packedRowsIn(memory: Operand, rows: number, columns: number): PackedRows {
  const { lda, header } = packedLayout(rows, columns);
  return {
    files: [],
    operands: [{ ...memory, unit: 16 }],
    name: "packed",
    half: true,
    lda,
    firstRow: header / 4,
  };
}

/**
 * Packs rows of A for `use`. With `common` (f32 operand B of the same product, whose factor is then found too) one scale
 * serves all rows.
 */
export function withPackedRows(
  gpu: Gpu,
  source: Operand,
  shape: { readonly rows: number; readonly columns: number; readonly pitch: number },
  common: Operand | undefined,
  use: (a: PackedRows) => void,
): void {
  const { rows, columns, pitch } = shape;
  const { lda, header, sizeBytes } = packedLayout(common ? 1 : rows, columns);
  const bytes = common ? 4 * (header + (rows * lda) / 2) : sizeBytes;
  withScratch(gpu, bytes, (memory) => {
    const packed = { buffer: memory, byteOffset: 0, sizeBytes: bytes };
    if (common) {
      const pack = gpu.pipelines.get("pack-matrix", plain("pack-matrix"));
      withScratch(gpu, 512, (found) => {
        // Two results, each at an offset that every device can bind.
        const slot = (i: number) => ({ buffer: found, byteOffset: 256 * i, sizeBytes: 4 });
        findLargest(gpu, source, slot(0));
        findLargest(gpu, common, slot(1));
        const both = { buffer: found, byteOffset: 0, sizeBytes: 512 };
        gpu.commands.launch(pack, [source, both, packed], [rows, columns, pitch, lda / 2, header], rows);
      });
    } else projectRows(gpu, { source, ...shape, packed, projections: [], scale: 1 });
    const form = packedRowsIn(packed, rows, columns);
    use(common ? { ...form, name: "packed-common", firstRow: header / 4 } : form);
  });
}

/** One factor that rows are multiplied by, and where the products go. */
export interface Projection {
  /** f32 [rank, columns] ("a") or [columns, rank] ("b"). */
  readonly factor: Tensor;
  readonly by: "a" | "b";
  /** f32, row t of it `ldu` elements after row t - 1. */
  readonly u: Operand;
  readonly ldu: number;
}

/** Factors that one launch multiplies by. */
export const mostProjections = 3;

/** Multiplies rows by the factors of adapters, and packs them where `packed` has room for them; project-rows.wgsl. */
export function projectRows(
  gpu: Gpu,
  job: {
    readonly source: Operand;
    readonly rows: number;
    readonly columns: number;
    readonly pitch: number;
    readonly packed?: Operand;
    readonly projections: readonly Projection[];
    readonly scale: number;
  },
): void {
  const { source, rows, columns, pitch, packed, projections } = job;
  const parts = projections.length;
  invariant(parts <= mostProjections, `${parts} projections in one launch`);
  const by = projections[0]?.by ?? "a";
  const rankOf = ({ factor }: Projection) => factor.shape[by === "a" ? 0 : 1]!;
  invariant(
    projections.every((one) => one.by === by && (parts === 1 || one.ldu === rankOf(one))),
    "projections",
  );
  const quads = columns % 4 === 0 && pitch % 4 === 0 && source.byteOffset % 16 === 0;
  const factorQuads = projections.every(
    (one) => one.factor.byteOffset % 16 === 0 && one.factor.shape[1]! % 4 === 0 && (by === "b" || quads),
  );
  const vec = quads ? "-vec4" : "";
  const factorVec = factorQuads ? "-vec4" : "";
  const pipeline = gpu.pipelines.get(
    `project-rows ${parts} ${by}${factorVec} ${quads} ${packed ? 1 : 0}`,
    (): Variant => ({
      files: [
        `operand-a${vec}`,
        `project-parts-${parts as 0 | 1 | 2 | 3}`,
        `project-by-${by}${factorVec}`,
        "project-rows",
      ],
      constants: { PARTS: parts, PACK: packed ? 1 : 0 },
      aliases: { Factor: factorQuads ? "vec4f" : "f32" },
      offsetWords: 8,
    }),
  );
  const operands = [{ ...source, unit: quads ? 16 : 4 }, packed ?? gpu.commands.nothing];
  for (const { factor, u } of projections) {
    operands.push(u, part(factor, 0, factor.shape[0]!, 0, factor.shape[1]!, factorQuads ? 16 : 4));
  }
  const { lda, header } = packedLayout(rows, columns);
  const ranks = [0, 1, 2].map((i) => (projections[i] ? rankOf(projections[i]) : 0));
  const ldu = projections[0]?.ldu ?? 0;
  const params = [rows, columns, pitch, lda / 2, header, ldu, f32(job.scale), ...ranks];
  gpu.commands.launch(pipeline, operands, params, Math.ceil(rows / 8));
}
