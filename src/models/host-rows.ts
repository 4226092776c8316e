// A table of embeddings that stays in the host's memory: the rows of a pass's tokens alone reach the device. For tables
// that are a large part of a model and of which a text touches little (Gemma 4's embeddings of each layer).

import { type DType, decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";

export interface HostRows {
  /** Rows of these ids, one after another, times `factor`: [ids * row width]. UserError where one is not finite. */
  gather(ids: ArrayLike<number>, factor: number): Float32Array;
}

/** Bytes of rows that lie together: one array of a whole table can be more than an engine allows. */
const pieceBytes = 256 * 2 ** 20;

/** Reads a table of [rows, width] into the host's memory, in the dtype that it has. */
export async function readHostRows(
  { name, path, dtype, shape }: { name: string; path: string; dtype: DType; shape: readonly number[] },
  read: (offset: number, length: number) => Promise<Uint8Array>,
): Promise<HostRows> {
  const [rows, width] = shape as [number, number];
  const rowBytes = width * dtypeBytes[dtype];
  const rowsOfPiece = Math.max(1, Math.floor(pieceBytes / rowBytes));
  const pieces: Uint8Array[] = [];
  for (let start = 0; start < rows; start += rowsOfPiece) {
    const count = Math.min(rowsOfPiece, rows - start);
    pieces.push(await read(start * rowBytes, count * rowBytes));
  }
  return {
    gather(ids, factor) {
      const gathered = new Float32Array(ids.length * width);
      for (let i = 0; i < ids.length; i++) {
        const id = ids[i]!;
        if (id < 0 || id >= rows) {
          throw new UserError(
            `${path}: token ${id} has no row in "${name}", which has ${rows}: models with embeddings for each layer cannot take tokens that were added later`,
          );
        }
        const from = (id % rowsOfPiece) * rowBytes;
        const piece = pieces[Math.floor(id / rowsOfPiece)]!;
        const values = decodeToF32(piece.slice(from, from + rowBytes), dtype);
        for (let j = 0; j < width; j++) {
          const value = values[j]! * factor;
          if (!Number.isFinite(value))
            throw new UserError(
              `${path}: tensor "${name}" holds values that are NaN or infinite in the row of token ${id}; the checkpoint is damaged or overflowed when it was converted`,
            );
          gathered[i * width + j] = value;
        }
      }
      return gathered;
    },
  };
}

/** Rows that are all alike, for measuring. */
export function evenHostRows(width: number, value: number): HostRows {
  return { gather: (ids, factor) => new Float32Array(ids.length * width).fill(value * factor) };
}
