// Double quantisation: the f32 scales of 4-bit blocks, minus their mean, are themselves quantised to 8 bits in blocks of
// 256 (signed dynamic map). 32 bits per 64 weights become 8 bits per 64 plus 32 per 16,384: 4.5 bits a weight become 4.127.
// Source: Dettmers et al. 2023, "QLoRA", section 3.

import { BugError } from "../util/errors.ts";
import { dequantizeBlockwise, type MapLookup, quantizeBlockwise } from "./blockwise-8bit.ts";
import { signedDynamicMap } from "./dynamic-map.ts";

/** Scales in one block of the second quantisation. */
export const nestedBlockSize = 256;

/** scale i = signedDynamicMap[codes[i]] * absmax[floor(i / 256)] + offset, each operation rounded to f32. */
export interface NestedScales {
  readonly codes: Uint8Array; // [blocks]
  readonly absmax: Float32Array; // [ceil(blocks / 256)]
  readonly offset: number;
}

/**
 * Quantises scales. The offset is their mean, summed in f64 and rounded to f32 (torch's f32 sum differs in its last
 * bits from one processor to the next); pass `offset` to use another. The default lookup gives the bytes of
 * bitsandbytes' CPU build for the same offset.
 */
export function quantizeScales(
  scales: Float32Array,
  options: { readonly offset?: number; readonly lookup?: MapLookup } = {},
): NestedScales {
  const offset = Math.fround(options.offset ?? mean(scales));
  const centered = scales.map((scale) => scale - offset);
  const { codes, absmax } = quantizeBlockwise(
    centered,
    signedDynamicMap,
    nestedBlockSize,
    options.lookup ?? "grid",
  );
  return { codes, absmax, offset };
}

/** The scales that `nested` stands for. `map` and `blockSize` are those of the file, when it names its own. */
export function dequantizeScales(
  nested: NestedScales,
  map: Float32Array = signedDynamicMap,
  blockSize: number = nestedBlockSize,
): Float32Array {
  if (nested.absmax.length !== Math.ceil(nested.codes.length / blockSize)) {
    throw new BugError(
      `dequantizeScales: ${nested.codes.length} scales but ${nested.absmax.length} nested ones`,
    );
  }
  const scales = dequantizeBlockwise(nested, map, blockSize);
  for (let i = 0; i < scales.length; i++) scales[i]! += nested.offset;
  return scales;
}

function mean(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return values.length > 0 ? sum / values.length : 0;
}
