// The reference kernel of 4-bit weights. The arithmetic is that of quant/codebook.ts, written out again here in the plainest
// form, so that each checks the other.

import { SMALLEST_SCALE } from "../../quant/codebook.ts";
import { UserError } from "../../util/errors.ts";
import type { Operands } from "../contract.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";

export function largestMagnitude(values: Floats, start: number, end: number): number {
  let largest = 0;
  for (let i = start; i < end; i++) {
    if (!Number.isFinite(values[i])) {
      throw new UserError(`cannot quantise: element ${i} is ${values[i]}; every value must be finite`);
    }
    largest = Math.max(largest, Math.abs(values[i]!));
  }
  return largest;
}

export function quantize4bit(
  memory: ReferenceMemory,
  { x, thresholds, codeByRank, blockSize, codes, absmax }: Operands<"quantize4bit">,
): void {
  const values = Float32Array.from(memory.values(x));
  const [bytes, scales] = [memory.raw(codes), memory.floats(absmax)];
  const codeOf = (value: number) => {
    let rank = 0;
    while (rank < 15 && value > thresholds[rank]!) rank++;
    return codeByRank[rank]!;
  };
  bytes.fill(0);
  for (let start = 0, block = 0; start < values.length; start += blockSize, block++) {
    const end = Math.min(start + blockSize, values.length);
    const largest = largestMagnitude(values, start, end);
    const scale = Math.max(largest, SMALLEST_SCALE);
    const whole = end - start === blockSize;
    scales[block] = whole ? largest : scale;
    const inverse = Math.fround(1 / scale);
    for (let i = start; i < end; i++) {
      const code = codeOf(Math.fround(whole ? values[i]! * inverse : values[i]! / scale));
      bytes[i >> 1]! |= i % 2 === 0 ? code << 4 : code;
    }
  }
  if (values.length % 2 === 1) bytes[bytes.length - 1]! |= codeOf(0);
}
