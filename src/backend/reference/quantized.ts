// Reference kernels of quantised state: 4-bit weights and 8-bit AdamW. The arithmetic is that of quant/codebook.ts and
// optim/adamw-8bit-reference.ts, written out again here in the plainest form, so that each checks the other.

import { SMALLEST_SCALE } from "../../quant/codebook.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { UserError } from "../../util/errors.ts";
import { momentBlockSize, type Operands } from "../contract.ts";
import { clipFactor } from "./elementwise.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";

function largestMagnitude(values: Floats, start: number, end: number): number {
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

/** Moments in double between the roundings to f32; parameters as they are stored. */
export function adamw8bit(memory: ReferenceMemory, update: Operands<"adamw8bit">): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
  const [params, grads] = [memory.floats(update.params), memory.floats(update.grads)];
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  const stepSize = (learningRate * rootCorrection2) / (1 - beta1 ** step);
  const factor = clipFactor(memory, update);
  const m = new Moment(memory, update.mCodes, update.mAbsmax, update.mMap);
  const v = new Moment(memory, update.vCodes, update.vAbsmax, update.vMap);
  for (let start = 0; start < params.length; start += momentBlockSize) {
    const end = Math.min(start + momentBlockSize, params.length);
    const [ms, vs] = [m.load(start, end), v.load(start, end)];
    for (let i = start; i < end; i++) {
      const g = grads[i]! * factor;
      const at = i - start;
      if (!Number.isFinite(g)) {
        ms[at] = 0;
        vs[at] = 0;
        continue;
      }
      ms[at] = beta1 * ms[at]! + (1 - beta1) * g;
      vs[at] = beta2 * vs[at]! + (1 - beta2) * g * g;
      const change = (stepSize * ms[at]!) / (Math.sqrt(vs[at]!) + epsilon * rootCorrection2);
      params[i] = params[i]! * (1 - learningRate * weightDecay) - change;
    }
    m.store(ms, start);
    v.store(vs, start);
  }
}

/** One moment in 8 bits, block by block. */
class Moment {
  private readonly codes: Uint8Array;
  private readonly absmax: Floats;
  private readonly map: Floats;
  constructor(memory: ReferenceMemory, codes: Tensor, absmax: Tensor, map: Tensor) {
    this.codes = memory.raw(codes);
    this.absmax = memory.floats(absmax);
    this.map = memory.floats(map);
  }

  load(start: number, end: number): Float32Array {
    const scale = this.absmax[start / momentBlockSize]!;
    return Float32Array.from(this.codes.subarray(start, end), (code) => this.map[code]! * scale);
  }

  /** The nearest entry of the map; a midpoint goes to the lower one. */
  store(values: Float32Array, start: number): void {
    const largest = largestMagnitude(values, 0, values.length);
    this.absmax[start / momentBlockSize] = largest;
    const inverse = Math.fround(1 / Math.max(largest, SMALLEST_SCALE));
    for (const [i, value] of values.entries()) {
      const x = Math.fround(value * inverse);
      let code = 0;
      while (code < 255 && x > Math.fround(this.map[code]! + this.map[code + 1]!) / 2) code++;
      this.codes[start + i] = code;
    }
  }
}
