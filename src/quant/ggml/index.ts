// Numbers to the bytes of GGUF's tensor types and back: floats (tensor/dtype.ts), blocks of 32 (small-blocks.ts) and
// of 256 (k-blocks.ts). A type is registered here; its number in files is in gguf.ts's table, made of this one.

import { type DType, decodeToF32, encodeFrom } from "../../tensor/dtype.ts";
import { invariant } from "../../util/errors.ts";
import type { BlockType } from "./block-type.ts";
import { kBlocks } from "./k-blocks.ts";
import { smallBlocks } from "./small-blocks.ts";

export const blockTypes = { ...smallBlocks, ...kBlocks } as const;

export type BlockTypeName = keyof typeof blockTypes;

/** A type of numbers in a GGUF file. */
export type GgufNumberType = Extract<DType, "f32" | "f16" | "bf16"> | BlockTypeName;

/** Undefined for floats. */
export function blockTypeOf(type: GgufNumberType): BlockType | undefined {
  return Object.hasOwn(blockTypes, type) ? blockTypes[type as BlockTypeName] : undefined;
}

/**
 * Encodes whole rows of `width` numbers, which is a multiple of the type's block. Values must be finite. `importance`
 * has `width` numbers, 0 or more, and is heeded by blocks alone.
 */
export function encodeGguf(
  values: Float32Array,
  type: GgufNumberType,
  width = values.length,
  importance?: Float32Array,
): Uint8Array {
  const coded = blockTypeOf(type);
  if (!coded) return encodeFrom(values, type as DType);
  const { block, blockBytes } = coded;
  invariant(width % block === 0, `${width} values do not divide into blocks of ${block}`);
  const out = new Uint8Array((values.length / block) * blockBytes);
  const view = new DataView(out.buffer);
  const rowBytes = (width / block) * blockBytes;
  for (let start = 0, at = 0; start < values.length; start += width, at += rowBytes) {
    coded.encodeRow(values.subarray(start, start + width), view, at, importance);
  }
  return out;
}

/** The numbers of whole blocks. */
export function decodeGguf(bytes: Uint8Array, type: GgufNumberType): Float32Array {
  const coded = blockTypeOf(type);
  if (!coded) return decodeToF32(bytes, type as DType);
  const { block, blockBytes } = coded;
  invariant(bytes.length % blockBytes === 0, `${bytes.length} bytes are no blocks of ${blockBytes}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out = new Float32Array((bytes.length / blockBytes) * block);
  for (let at = 0, to = 0; at < bytes.length; at += blockBytes, to += block) coded.decode(view, at, out, to);
  return out;
}

/** Bytes of a row of `width` numbers, which divides into blocks. */
export function blockRowBytes(type: BlockTypeName, width: number): number {
  const { block, blockBytes } = blockTypes[type];
  return (width / block) * blockBytes;
}
