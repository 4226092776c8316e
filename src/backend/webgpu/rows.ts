// Kernels that work row by row: gathering and scattering, embedding, RMSNorm, rotary embedding, cross-entropy, and sums
// over rows. Tensors larger than a binding are walked in windows of rows.

import { dtypeBytes } from "../../tensor/dtype.ts";
import { elementCount, rows as rowsOf, type Tensor } from "../../tensor/tensor.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { f32, operand } from "./commands.ts";
import { copyFloats, kindOf } from "./elementwise.ts";
import { type Gpu, plain, windows, withScratch } from "./gpu.ts";
import { apart, quadsOf, rowsMayWait } from "./project-rows.ts";

/** y[i] = table[index[i]]: windows over y's rows and over the table's. */
function gather(gpu: Gpu, table: Tensor, index: Tensor, y: Tensor): void {
  const kind = kindOf(table.dtype);
  const pipeline = gpu.pipelines.get(`gather-rows ${kind}`, () => ({
    files: ["float-bits", "gather-rows"],
    constants: { KIND: kind },
  }));
  const [tableRows, width] = table.shape as [number, number];
  for (const target of windows(gpu, index.shape[0]!, 4 * width)) {
    const outputs = operand(rowsOf(y, target.start, target.start + target.length));
    const ids = operand(index, target.start, target.length);
    for (const { start, length } of windows(gpu, tableRows, dtypeBytes[table.dtype] * width, 2)) {
      const source = operand(rowsOf(table, start, start + length));
      const params = [target.length, width, start, length];
      gpu.commands.launch(pipeline, [source, ids, outputs], params, target.length);
    }
  }
}

function scatter(gpu: Gpu, x: Tensor, index: Tensor, y: Tensor): void {
  const pipeline = gpu.pipelines.get("scatter-rows", plain("scatter-rows"));
  const [targetRows, width] = y.shape as [number, number];
  for (const source of windows(gpu, index.shape[0]!, 4 * width)) {
    const inputs = operand(rowsOf(x, source.start, source.start + source.length));
    const ids = operand(index, source.start, source.length);
    for (const { start, length } of windows(gpu, targetRows, 4 * width)) {
      const target = operand(rowsOf(y, start, start + length));
      gpu.commands.launch(
        pipeline,
        [inputs, ids, target],
        [source.length, width, start, length],
        source.length,
      );
    }
  }
}

function embeddingBackward(gpu: Gpu, ids: Tensor, dy: Tensor, dTable: Tensor): void {
  const pipeline = gpu.pipelines.get("embedding-backward", plain("embedding-backward"));
  const [vocabulary, width] = dTable.shape as [number, number];
  for (const tokens of windows(gpu, ids.shape[0]!, 4 * width)) {
    const part = operand(rowsOf(dy, tokens.start, tokens.start + tokens.length));
    const partIds = operand(ids, tokens.start, tokens.length);
    for (const { start, length } of windows(gpu, vocabulary, 4 * width)) {
      const target = operand(rowsOf(dTable, start, start + length));
      gpu.commands.launch(
        pipeline,
        [partIds, part, target],
        [tokens.length, width, start, length],
        tokens.length,
      );
    }
  }
}

/** What a uniform binding holds on every device, and where it may start. */
const uniformBytes = 65536;
const uniformAlignment = 256;

/** Lanes for a row of this width: enough to keep loads wide, few enough that short rows waste little. */
function lanesFor(width: number): number {
  return width <= 128 ? 32 : width <= 512 ? 64 : 256;
}

function rmsNorm(gpu: Gpu, operands: Operands<"rmsNorm">): void {
  const { x, w, y, rstd, epsilon, shift } = operands;
  const [rows, width] = [rstd.shape[0]!, x.shape.at(-1)!];
  // The weight is bound as a uniform: eight bindings are all that every device has.
  const fits = 4 * width <= uniformBytes && w.byteOffset % uniformAlignment === 0;
  if (!fits || !rowsMayWait(gpu, rows, width, [x, w, y]) || !apart(gpu, [x, w], [y, rstd])) {
    launchNorm(gpu, operands);
    return;
  }
  const own = gpu.deferred.handlesOf({ x, w, y, rstd });
  gpu.deferred.add({
    ...{ makes: [own.y], writes: [own.rstd], reads: [own.x, own.w], isWhole: true },
    source: {
      ...{ files: ["rows-norm"], constants: { WIDTH4: width / 4 }, outputs: 1, pitch: width, quads: true },
      operands: [quadsOf(own.x), quadsOf(own.y), operand(own.rstd)],
      uniforms: [operand(own.w)],
      own: [f32(epsilon), f32(shift)],
    },
    run: () => launchNorm(gpu, { ...operands, ...own }),
  });
}

function launchNorm(gpu: Gpu, { x, w, shift, epsilon, y, rstd }: Operands<"rmsNorm">): void {
  const width = x.shape.at(-1)!;
  const lanes = lanesFor(width);
  const pipeline = gpu.pipelines.get(`rms-norm ${lanes}`, () => ({
    files: ["rms-norm"],
    constants: { WG: lanes },
  }));
  for (const { start, length } of windows(gpu, elementCount(x.shape) / width, 4 * width)) {
    const part = [start * width, length * width] as const;
    const operands = [operand(x, ...part), operand(w), operand(y, ...part), operand(rstd, start, length)];
    gpu.commands.launch(pipeline, operands, [length, width, f32(epsilon), f32(shift)], length);
  }
}

function rmsNormBackward(gpu: Gpu, operands: Operands<"rmsNormBackward">): void {
  const { x, w, rstd, dy, dx, shift, accumulate } = operands;
  if (!dx) return;
  const [rows, width] = [rstd.shape[0]!, x.shape.at(-1)!];
  const inputs = [x, w, rstd, dy];
  if (!rowsMayWait(gpu, rows, width, [x, w, dy, dx]) || !apart(gpu, inputs, [dx])) {
    launchNormBackward(gpu, { ...operands, dx });
    return;
  }
  const own = gpu.deferred.handlesOf({ x, w, rstd, dy, dx });
  gpu.deferred.add({
    ...{ makes: [own.dx], reads: [own.x, own.w, own.rstd, own.dy], isWhole: true },
    source: {
      ...{ files: ["rows-norm-backward"], outputs: 1, pitch: width, quads: true },
      operands: [quadsOf(own.x), quadsOf(own.w), operand(own.rstd), quadsOf(own.dy), quadsOf(own.dx)],
      own: [f32(shift), accumulate ? 1 : 0],
    },
    run: () => launchNormBackward(gpu, { ...operands, ...own }),
  });
}

function launchNormBackward(gpu: Gpu, operands: Operands<"rmsNormBackward"> & { readonly dx: Tensor }): void {
  const { x, w, shift, rstd, dy, dx, accumulate } = operands;
  const width = x.shape.at(-1)!;
  const lanes = lanesFor(width);
  const pipeline = gpu.pipelines.get(`rms-norm-backward ${lanes}`, () => ({
    files: ["rms-norm-backward"],
    constants: { WG: lanes },
  }));
  for (const { start, length } of windows(gpu, elementCount(x.shape) / width, 4 * width)) {
    const part = [start * width, length * width] as const;
    const bound = [
      operand(x, ...part),
      operand(w),
      operand(rstd, start, length),
      operand(dy, ...part),
      operand(dx, ...part),
    ];
    gpu.commands.launch(pipeline, bound, [length, width, accumulate ? 1 : 0, f32(shift)], length);
  }
}

/** Rows that one partial sum over rows covers, at least, and the most partial sums there are. */
const columnSpan = 64;
const columnGroups = 256;

export interface ColumnFactors {
  readonly y?: Tensor;
  /** By row. */
  readonly rstd?: Tensor;
  /** By column. */
  readonly divisor?: Tensor;
}

/** out[c] += sum over rows of x[row, c], times and over the factors that are there; rstd only beside y. */
export function addColumnSums(gpu: Gpu, x: Tensor, out: Tensor, by: ColumnFactors = {}): void {
  const width = out.shape[0]!;
  const kind = by.rstd ? 1 : by.y ? 2 : 0;
  const first = gpu.pipelines.get(`column-sums ${kind}`, () => ({
    files: ["column-sums"],
    constants: { NORM: kind },
  }));
  const divide = by.divisor ? 1 : 0;
  const second = gpu.pipelines.get(`add-column-sums ${divide}`, () => ({
    files: ["add-column-sums"],
    constants: { DIVIDE: divide },
  }));
  for (const { start, length } of windows(gpu, elementCount(x.shape) / width, 4 * width)) {
    const span = Math.max(columnSpan, Math.ceil(length / columnGroups));
    const groups = Math.ceil(length / span);
    const part = [start * width, length * width] as const;
    withScratch(gpu, 4 * groups * width, (memory) => {
      const partial = operand({ buffer: memory, byteOffset: 0, shape: [groups, width], dtype: "f32" });
      const columns = Math.ceil(width / 64);
      const operands = [
        operand(x, ...part),
        by.y ? operand(by.y, ...part) : gpu.commands.nothing,
        by.rstd ? operand(by.rstd, start, length) : gpu.commands.nothing,
        partial,
      ];
      gpu.commands.launch(first, operands, [length, width, span], [columns, groups, 1]);
      const divisor = by.divisor ? operand(by.divisor) : gpu.commands.nothing;
      gpu.commands.launch(second, [partial, divisor, operand(out)], [groups, width], [columns, 1, 1]);
    });
  }
}

function rope(gpu: Gpu, operands: Operands<"rope">): void {
  const { x, y, positions, cos, sin, direction } = operands;
  const [tokens, heads, width] = x.shape as [number, number, number];
  // The kernel works in place; the tape asks for just that.
  const inPlace = x.buffer === y.buffer && x.byteOffset === y.byteOffset;
  if (!inPlace) copyFloats(gpu, x, y);
  const half = cos.shape[1]!;
  const quads = half % 4 === 0 && width % 4 === 0;
  // What is turned back is a gradient, which a product reads; what is turned, attention.
  if (direction === 1 || !inPlace || !quads || !rowsMayWait(gpu, tokens, heads * width, [y, cos, sin])) {
    launchRope(gpu, operands);
    return;
  }
  const own = gpu.deferred.handlesOf({ y, positions, cos, sin });
  gpu.deferred.add({
    ...{ makes: [own.y], reads: [own.positions, own.cos, own.sin], isWhole: false },
    source: {
      ...{ files: ["rows-rope"], outputs: 1, pitch: heads * width, quads: true },
      operands: [quadsOf(own.y), operand(own.positions), quadsOf(own.cos), quadsOf(own.sin)],
      own: [width, half, f32(direction)],
    },
    run: () => launchRope(gpu, { ...operands, ...own }),
  });
}

function launchRope(gpu: Gpu, { positions, cos, sin, direction, y }: Operands<"rope">): void {
  const [tokens, heads, width] = y.shape as [number, number, number];
  const half = cos.shape[1]!;
  const pipeline = gpu.pipelines.get("rope", plain("rope"));
  for (const { start, length } of windows(gpu, tokens, 4 * heads * width)) {
    const pairs = length * heads * half;
    const operands = [
      operand(positions, start, length),
      operand(cos),
      operand(sin),
      operand(y, start * heads * width, length * heads * width),
    ];
    gpu.commands.launch(
      pipeline,
      operands,
      [pairs, heads, width, half, f32(direction)],
      Math.ceil(pairs / 256),
    );
  }
}

function crossEntropy(gpu: Gpu, operands: Operands<"crossEntropy">): void {
  const { logits, targets, loss, dLogits, gradScale } = operands;
  const [count, width] = logits.shape as [number, number];
  // The gradient is made in place, as the head's loss asks for it.
  if (dLogits && (dLogits.buffer !== logits.buffer || dLogits.byteOffset !== logits.byteOffset)) {
    copyFloats(gpu, logits, dLogits);
  }
  const grad = dLogits ? 1 : 0;
  const pipeline = gpu.pipelines.get(`cross-entropy ${grad}`, () => ({
    files: ["cross-entropy"],
    constants: { GRAD: grad },
  }));
  for (const { start, length } of windows(gpu, count, 4 * width)) {
    const bound = [
      operand(dLogits ?? logits, start * width, length * width),
      operand(targets, start, length),
      operand(loss, start, length),
    ];
    gpu.commands.launch(pipeline, bound, [length, width, f32(gradScale)], length);
  }
}

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
  | "crossEntropy"
>;

export function rowKernels(gpu: Gpu): RowKernels {
  return {
    gatherRows: ({ x, index, y }) => gather(gpu, x, index, y),
    scatterRows: ({ x, index, y }) => scatter(gpu, x, index, y),
    // Caches are f32 here (cacheTypes).
    storeRows: ({ x, index, y }) => scatter(gpu, x, index, y),
    embedding: ({ ids, table, y }) => gather(gpu, table, ids, y),
    embeddingBackward: ({ ids, dy, dTable }) => embeddingBackward(gpu, ids, dy, dTable),
    rmsNorm: (operands) => rmsNorm(gpu, operands),
    rmsNormBackward(operands) {
      const { x, rstd, dy, dw } = operands;
      if (elementCount(x.shape) === 0) return;
      if (dw) addColumnSums(gpu, dy, dw, { y: x, rstd });
      rmsNormBackward(gpu, operands);
    },
    rope: (operands) => rope(gpu, operands),
    crossEntropy: (operands) => crossEntropy(gpu, operands),
  };
}
