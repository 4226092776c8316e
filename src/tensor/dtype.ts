// Element types and conversions between their bytes and numbers. Quantised weights are not a dtype:
// they are (codes, scales, codebook), see quant/ and backend/backend.ts.

import { BugError } from "../util/errors.ts";

export type DType = "f64" | "f32" | "f16" | "bf16" | "i32" | "u8";

export const dtypeBytes: Record<DType, number> = { f64: 8, f32: 4, f16: 2, bf16: 2, i32: 4, u8: 1 };

const word = new DataView(new ArrayBuffer(4));

/** Rounds an f32 number to bf16 (nearest, ties to even; NaN stays NaN); returns the 16 bits. */
export function toBf16Bits(value: number): number {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that 16 bf16 bits stand for. */
export function fromBf16Bits(bits: number): number {
  word.setUint32(0, (bits << 16) >>> 0);
  return word.getFloat32(0);
}

let halfTable: Float32Array | undefined;

/** Table of all 65,536 f16 values as f32. */
export function f16Table(): Float32Array {
  if (halfTable) return halfTable;
  halfTable = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >>> 10) & 31;
    const mantissa = bits & 1023;
    halfTable[bits] =
      exponent === 0
        ? sign * mantissa * 2 ** -24
        : exponent === 31
          ? mantissa
            ? Number.NaN
            : sign * Number.POSITIVE_INFINITY
          : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
  }
  return halfTable;
}

/** Rounds a number to f16 (nearest, ties to even); returns the 16 bits. */
export function toF16Bits(value: number): number {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or above: infinity
  if (magnitude < 0x38800000) {
    // Subnormal half: quantise to multiples of 2^-24; the f32 sum rounds to nearest even by itself.
    word.setUint32(0, magnitude);
    const scaled = word.getFloat32(0) * 2 ** 24;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
    return sign | rounded;
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** The same, but f32 where it stands, not copied where it can be: for bytes that nobody else holds. */
export function ownedToF32(bytes: Uint8Array, dtype: DType): Float32Array {
  if (dtype !== "f32" || bytes.byteOffset % 4 !== 0) return decodeToF32(bytes, dtype);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** Decodes little-endian bytes of `dtype` into f32 (or f64 for "f64") numbers. */
export function decodeToF32(bytes: Uint8Array, dtype: DType): Float32Array {
  const count = bytes.byteLength / dtypeBytes[dtype];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float32Array(count);
  switch (dtype) {
    case "f32":
      new Uint8Array(out.buffer).set(bytes);
      return out;
    case "bf16": {
      const words = new Uint32Array(out.buffer);
      for (let i = 0; i < count; i++) words[i] = view.getUint16(2 * i, true) << 16;
      return out;
    }
    case "f16": {
      const table = f16Table();
      for (let i = 0; i < count; i++) out[i] = table[view.getUint16(2 * i, true)]!;
      return out;
    }
    case "f64":
      for (let i = 0; i < count; i++) out[i] = view.getFloat64(8 * i, true);
      return out;
    case "i32":
      for (let i = 0; i < count; i++) out[i] = view.getInt32(4 * i, true);
      return out;
    case "u8":
      out.set(bytes);
      return out;
  }
}

/** Encodes numbers as little-endian bytes of `dtype` (floating dtypes only). */
export function encodeFrom(values: ArrayLike<number>, dtype: DType): Uint8Array {
  const bytes = new Uint8Array(values.length * dtypeBytes[dtype]);
  const view = new DataView(bytes.buffer);
  switch (dtype) {
    case "f64":
      for (let i = 0; i < values.length; i++) view.setFloat64(8 * i, values[i]!, true);
      return bytes;
    case "f32":
      new Float32Array(bytes.buffer).set(values);
      return bytes;
    case "bf16":
      for (let i = 0; i < values.length; i++) view.setUint16(2 * i, toBf16Bits(values[i]!), true);
      return bytes;
    case "f16":
      for (let i = 0; i < values.length; i++) view.setUint16(2 * i, toF16Bits(values[i]!), true);
      return bytes;
    case "i32":
      new Int32Array(bytes.buffer).set(values);
      return bytes;
    case "u8":
      throw new BugError("encodeFrom: u8 has no numeric encoding here");
  }
}
