// What a ggml type of blocks is: so many numbers in so many bytes, and how rows of numbers become them and come back.

export interface BlockType {
  /** Numbers a block. */
  readonly block: number;
  readonly blockBytes: number;
  /**
   * Encodes a row of whole blocks. `importance`, one number a column, weighs errors: mean squares of what the column is
   * multiplied with. Bytes are ggml's, bit for bit.
   */
  encodeRow(row: Float32Array, to: DataView, at: number, importance?: Float32Array): void;
  /** Decodes one block, each number rounded to f32 once an operation. */
  decode(from: DataView, at: number, to: Float32Array, toAt: number): void;
}

export const f = Math.fround;

/** Errors' weights in a block of a row whose numbers' mean square is `sigma2`. */
export function weigh(
  row: Float32Array,
  at: number,
  count: number,
  sigma2: number,
  importance: Float32Array,
  weights: Float32Array,
): void {
  for (let i = 0; i < count; i++) {
    const x = row[at + i]!;
    weights[i] = f(importance[at + i]! * f(Math.sqrt(f(sigma2 + f(x * x)))));
  }
}

export function sumOfSquares(row: Float32Array, at: number, count: number): number {
  let sum = 0;
  for (let i = at; i < at + count; i++) sum = f(sum + f(row[i]! * row[i]!));
  return sum;
}
