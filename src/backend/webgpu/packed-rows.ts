// Operand A of the products on subgroup matrices: rows of f16, scaled so that small gradients and large activations survive
// (pack-rows.wgsl), made anew for each product in scratch memory.

import { invariant } from "../../util/errors.ts";
import type { Operand } from "./commands.ts";
import { type Gpu, plain, withScratch } from "./gpu.ts";
import type { Form } from "./product-operands.ts";
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
    gpu.commands.launch(pipeline, [partial, largest], [groups, groups], 1);
  });
}

/**
 * Packs rows of A for `use`. With `common` (f32 operand B of the same product, whose factor is then found too) one scale
 * serves all rows.
 */
export function withPackedRows(
  gpu: Gpu,
  source: Operand,
  { rows, columns, pitch }: { readonly rows: number; readonly columns: number; readonly pitch: number },
  common: Operand | undefined,
  use: (a: Form & { readonly lda: number; readonly firstRow: number }) => void,
): void {
  const lda = Math.ceil(columns / 8) * 8;
  const header = 4 + (common ? 4 : Math.ceil(rows / 4) * 4);
  const words = header + (rows * lda) / 2;
  withScratch(gpu, 4 * words, (memory) => {
    const packed = { buffer: memory, byteOffset: 0, sizeBytes: 4 * words };
    const pack = gpu.pipelines.get(`pack-rows ${common ? 1 : 0}`, () => ({
      files: ["pack-rows"],
      constants: { COMMON: common ? 1 : 0 },
    }));
    const params = [rows, columns, pitch, lda / 2, header];
    if (common) {
      withScratch(gpu, 512, (found) => {
        // Two results, each at an offset that every device can bind.
        const slot = (i: number) => ({ buffer: found, byteOffset: 256 * i, sizeBytes: 4 });
        findLargest(gpu, source, slot(0));
        findLargest(gpu, common, slot(1));
        const both = { buffer: found, byteOffset: 0, sizeBytes: 512 };
        gpu.commands.launch(pack, [source, both, packed], params, rows);
      });
    } else {
      gpu.commands.launch(pack, [source, gpu.commands.nothing, packed], params, rows);
    }
    use({
      files: [],
      operands: [{ ...packed, unit: 16 }],
      name: common ? "packed-common" : "packed",
      half: true,
      lda,
      firstRow: header / 4,
    });
  });
}
