// Numbers to the bytes of GGUF's tensor types: floats, and ggml's blocks of 32 with one f16 scale.
//
//   q8_0:  | d f16 | 32 codes, i8 |                    value = d * code,        d = largest magnitude / 127
//   q4_0:  | d f16 | 16 bytes |                        value = d * (code - 8),  d = the value of largest magnitude / -8
//          byte j: code of element j (low nibble), of element j + 16 (high nibble)
//
// Codes are computed with the f32 scale before it is rounded to f16, each operation in f32, as ggml's reference
// quantisers do (ggml-quants.c, quantize_row_*_ref), so that the bytes agree.

import { encodeFrom, toF16Bits } from "../tensor/dtype.ts";
import { invariant } from "../util/errors.ts";
import type { GgufTensorType } from "./gguf.ts";

const BLOCK = 32;

/** Encodes whole rows; the count is a multiple of 32 for block types. Values must be finite. */
export function encodeGguf(values: Float32Array, type: GgufTensorType): Uint8Array {
  if (type !== "q8_0" && type !== "q4_0") return encodeFrom(values, type);
  invariant(values.length % BLOCK === 0, `${values.length} values do not divide into blocks of ${BLOCK}`);
  return type === "q8_0" ? encodeQ8(values) : encodeQ4(values);
}

function encodeQ8(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / BLOCK) * 34);
  const view = new DataView(out.buffer);
  for (let start = 0, at = 0; start < values.length; start += BLOCK, at += 34) {
    let largest = 0;
    for (let i = start; i < start + BLOCK; i++) largest = Math.max(largest, Math.abs(values[i]!));
    const scale = Math.fround(largest / 127);
    const inverse = scale > 0 ? Math.fround(1 / scale) : 0;
    view.setUint16(at, toF16Bits(scale), true);
    for (let i = 0; i < BLOCK; i++) {
      const x = Math.fround(values[start + i]! * inverse);
      // C's roundf: halves go away from zero.
      view.setInt8(at + 2 + i, Math.sign(x) * Math.floor(Math.abs(x) + 0.5));
    }
  }
  return out;
}

function encodeQ4(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / BLOCK) * 18);
  const view = new DataView(out.buffer);
  for (let start = 0, at = 0; start < values.length; start += BLOCK, at += 18) {
    let extreme = 0;
    for (let i = start; i < start + BLOCK; i++) {
      if (Math.abs(values[i]!) > Math.abs(extreme)) extreme = values[i]!;
    }
    const scale = Math.fround(extreme / -8);
    const inverse = scale !== 0 ? Math.fround(1 / scale) : 0;
    view.setUint16(at, toF16Bits(scale), true);
    const code = (i: number) =>
      Math.min(15, Math.trunc(Math.fround(Math.fround(values[start + i]! * inverse) + 8.5)));
    for (let j = 0; j < BLOCK / 2; j++) out[at + 2 + j] = code(j) | (code(j + BLOCK / 2) << 4);
  }
  return out;
}
