// What is done to operand A before a product reads it: rows become f16 for subgroup matrices, scaled so that small gradients
// and large activations survive. Rows that have a scale each come from project-rows.ts.

import { invariant } from "../../util/errors.ts";
import type { Operand } from "./commands.ts";
import { type Gpu, plain, withScratch } from "./gpu.ts";
import type { Form } from "./product-operands.ts";
import { packedLayout, projectRows, rowsInMemory } from "./project-rows.ts";
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
    } else
      projectRows(gpu, {
        ...{ source: rowsInMemory(source, columns, pitch), rows, columns, packed, projections: [] },
      });
    const form = packedRowsIn(packed, rows, columns);
    use(common ? { ...form, name: "packed-common", firstRow: header / 4 } : form);
  });
}
