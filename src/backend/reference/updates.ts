// Reference updates of parameters: AdamW, AdamW on moments in 8 bits (the arithmetic of optim/adamw-8bit-reference.ts, written
// out again in the plainest form, so that each checks the other), Lion.

import { SMALLEST_SCALE } from "../../quant/codebook.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type ContractKernels, momentBlockSize, type Operands } from "../contract.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";
import { largestMagnitude } from "./quantized.ts";

function clipFactor(
  memory: ReferenceMemory,
  { sumSquares, losses, maxNorm, factor }: Operands<"clipFactor">,
): void {
  const [squares] = memory.floats(sumSquares) as Float64Array;
  const held = memory.floats(factor);
  const finite = Number.isFinite(squares) && memory.floats(losses).every(Number.isFinite);
  if (!finite || held[0]! < 0) held[0] = -1;
  else held[0] = maxNorm > 0 ? Math.min(1, maxNorm / (Math.sqrt(squares!) + 1e-6)) : 1;
}

function factorOf(memory: ReferenceMemory, factor: Tensor | undefined): number {
  return factor ? memory.floats(factor)[0]! : 1;
}

/** Loshchilov & Hutter 2019 in torch's order of operations. */
function adamw(memory: ReferenceMemory, update: Operands<"adamw">): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
  const [ps, gs, ms, vs] = [update.params, update.grads, update.m, update.v].map((t) =>
    memory.floats(t),
  ) as Float64Array[];
  const correction1 = 1 - beta1 ** step;
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  const factor = factorOf(memory, update.factor);
  if (factor < 0) return;
  for (let i = 0; i < ps!.length; i++) {
    const g = gs![i]! * factor;
    ps![i]! *= 1 - learningRate * weightDecay;
    ms![i] = beta1 * ms![i]! + (1 - beta1) * g;
    vs![i] = beta2 * vs![i]! + (1 - beta2) * g * g;
    ps![i]! -= ((learningRate / correction1) * ms![i]!) / (Math.sqrt(vs![i]!) / rootCorrection2 + epsilon);
  }
}

/** Chen et al. 2023, "Symbolic discovery of optimization algorithms", in the order of the authors' code. */
function lion(memory: ReferenceMemory, update: Operands<"lion">): void {
  const { learningRate, beta1, beta2, weightDecay } = update;
  const [ps, gs, ms] = [update.params, update.grads, update.m].map((t) => memory.floats(t)) as Float64Array[];
  const factor = factorOf(memory, update.factor);
  if (factor < 0) return;
  for (let i = 0; i < ps!.length; i++) {
    const g = gs![i]! * factor;
    const direction = Math.sign(beta1 * ms![i]! + (1 - beta1) * g);
    ps![i] = ps![i]! * (1 - learningRate * weightDecay) - learningRate * direction;
    ms![i] = beta2 * ms![i]! + (1 - beta2) * g;
  }
}

/** Moments in double between the roundings to f32; parameters as they are stored. */
function adamw8bit(memory: ReferenceMemory, update: Operands<"adamw8bit">): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
  const [params, grads] = [memory.floats(update.params), memory.floats(update.grads)];
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  const stepSize = (learningRate * rootCorrection2) / (1 - beta1 ** step);
  const factor = factorOf(memory, update.factor);
  if (factor < 0) return;
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

export function updateKernels(memory: ReferenceMemory) {
  return {
    clipFactor: (operands) => clipFactor(memory, operands),
    adamw: (operands) => adamw(memory, operands),
    adamw8bit: (operands) => adamw8bit(memory, operands),
    lion: (operands) => lion(memory, operands),
  } satisfies Partial<ContractKernels>;
}
