// A row of numbers in 8 bits, as caches of keys and values hold it: what ggml's Q8_0 makes of each 32 of them, with all
// scales behind all codes. The quantiser is quant/ggml's.
//
//   i8 codes [width] | f16 scales [width / 32]

import { decodeGguf, encodeGguf } from "../../quant/ggml/index.ts";

const block = 32;
/** Of a block in files: its scale, then its codes. */
const [scaleBytes, blockBytes] = [2, 2 + block];

export function eightBitRow(values: ArrayLike<number>): Uint8Array {
  const blocks = encodeGguf(Float32Array.from(values), "q8_0");
  const { length: width } = values;
  const row = new Uint8Array(width + width / 16);
  for (let b = 0; b * block < width; b++) {
    const own = blocks.subarray(b * blockBytes, (b + 1) * blockBytes);
    row.set(own.subarray(scaleBytes), b * block);
    row.set(own.subarray(0, scaleBytes), width + b * scaleBytes);
  }
  return row;
}

export function rowFromEightBits(row: Uint8Array, width: number): Float32Array {
  const blocks = new Uint8Array((width / block) * blockBytes);
  for (let b = 0; b * block < width; b++) {
    const at = width + b * scaleBytes;
    blocks.set(row.subarray(at, at + scaleBytes), b * blockBytes);
    blocks.set(row.subarray(b * block, (b + 1) * block), b * blockBytes + scaleBytes);
  }
  return decodeGguf(blocks, "q8_0");
}
