// The forms in which matrix products read their operands: which shader file reads it, what it binds, and whether rows are
// read four elements at a time. products.ts chooses and launches.

import { dtypeBytes } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import { isQuantized, type PlainMatrix, type QuantizedMatrix } from "../backend.ts";
import type { Operand } from "./commands.ts";
import type { ShaderSource } from "./shaders.ts";

/** Products of at most this many rows go to the matrix-vector kernel. */
export const vectorRows = 8;

/** One form of an operand: the shader's file, what to bind, and whether rows are read four elements at a time. */
export interface Form {
  readonly files: readonly ShaderSource[];
  readonly operands: readonly Operand[];
  readonly constants?: Readonly<Record<string, number>>;
  readonly name: string;
  /** Exact as f16, or by the tier's own choice rounded to it. */
  readonly half: boolean;
}

/** Elements [row0.., column0..] of a row-major tensor as an operand that `unit` bytes are read at a time of. */
export function part(
  tensor: Tensor,
  row0: number,
  rows: number,
  column0: number,
  columns: number,
  unit: number,
): Operand {
  const size = dtypeBytes[tensor.dtype];
  const row = tensor.shape[1]!;
  return {
    buffer: tensor.buffer,
    byteOffset: tensor.byteOffset + (row0 * row + column0) * size,
    sizeBytes: ((rows - 1) * row + columns) * size,
    unit,
  };
}

/** Whether rows of a dense operand can be read four elements at a time. */
function alignedRows(tensor: Tensor, column0: number, columns: number): boolean {
  const size = dtypeBytes[tensor.dtype];
  return (
    tensor.shape[1]! % 4 === 0 &&
    column0 % 4 === 0 &&
    columns % 4 === 0 &&
    tensor.byteOffset % (4 * size) === 0
  );
}

export function denseForm(
  tensor: Tensor,
  which: "a" | "b",
  row0: number,
  rows: number,
  column0: number,
  columns: number,
): Form {
  const fast = alignedRows(tensor, column0, columns);
  const bytes = dtypeBytes[tensor.dtype];
  const operands = [part(tensor, row0, rows, column0, columns, fast ? 4 * bytes : bytes)];
  const vec = fast ? "-vec4" : "";
  if (which === "a") {
    return { files: [`operand-a${vec}`], operands, name: `a${vec}`, half: false };
  }
  if (tensor.dtype === "f32") {
    return { files: [`operand-b-f32${vec}`], operands, name: `f32${vec}`, half: false };
  }
  if (tensor.dtype !== "f16" && tensor.dtype !== "bf16") throw new BugError(`a product with ${tensor.dtype}`);
  return {
    files: [`operand-b-half${vec}`],
    operands,
    constants: { HALF: tensor.dtype === "bf16" ? 1 : 2 },
    name: `${tensor.dtype}${vec}`,
    half: tensor.dtype === "f16",
  };
}

function quantizedForm(b: QuantizedMatrix, row0: number, rows: number): Form {
  const columns = b.shape[1];
  const first = row0 * columns;
  const bytes = Math.ceil((rows * columns) / 2);
  const codes = {
    buffer: b.codes.buffer,
    byteOffset: b.codes.byteOffset + first / 2,
    sizeBytes: bytes,
    unit: 4,
  };
  const whole = (tensor: Tensor, unit: number): Operand => ({
    buffer: tensor.buffer,
    byteOffset: tensor.byteOffset,
    sizeBytes: tensor.shape[0]! * dtypeBytes[tensor.dtype],
    unit,
  });
  if (!b.nested) {
    return {
      files: ["scales-plain", "operand-b-quantized"],
      operands: [codes, whole(b.absmax, 4), whole(b.codebook, 4)],
      constants: { BLOCK: b.blockSize },
      name: `quantized ${b.blockSize}`,
      half: true,
    };
  }
  return {
    files: ["scales-nested", "operand-b-quantized"],
    constants: { BLOCK: b.blockSize, NESTED_BLOCK: b.nested.blockSize },
    operands: [
      codes,
      whole(b.absmax, 1),
      whole(b.nested.absmax, 4),
      whole(b.codebook, 4),
      whole(b.nested.codebook, 4),
    ],
    name: `quantized-nested ${b.blockSize} ${b.nested.blockSize}`,
    half: true,
  };
}

/** Operand B, in rows [row0, row0 + rows) and columns [column0, column0 + columns) of how it is stored. */
export function formOfB(b: PlainMatrix, row0: number, rows: number, column0: number, columns: number): Form {
  return isQuantized(b) ? quantizedForm(b, row0, rows) : denseForm(b, "b", row0, rows, column0, columns);
}

/** formOfB for gemm-matrix.wgsl, which reads eight elements at a time. */
export function matrixFormOfB(
  b: PlainMatrix,
  row0: number,
  rows: number,
  column0: number,
  columns: number,
): Form {
  const form = formOfB(b, row0, rows, column0, columns);
  const aligned = [b.shape[1]!, column0, columns].every((count) => count % 8 === 0);
  if (isQuantized(b) && aligned && b.blockSize % 8 === 0) {
    return { ...form, files: [...form.files, "matrix-b-quantized"], name: `${form.name} eight` };
  }
  if (!isQuantized(b) && b.dtype === "f16" && aligned && b.byteOffset % 16 === 0) {
    const operands = [part(b, row0, rows, column0, columns, 16)];
    return { files: ["matrix-b-half"], operands, name: "f16 eight", half: true };
  }
  return { ...form, files: [...form.files, "matrix-b-any"], name: `${form.name} any` };
}
