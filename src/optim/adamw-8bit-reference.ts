// The arithmetic of 8-bit AdamW on plain arrays, in f64 between the roundings to f32: the definition that faster
// versions are tested against. Moments live as 8-bit codes with one f32 scale per 256 elements; the update uses them
// before they are rounded again. Not here: device memory, clipping, which tensors stay in 32 bits, schedules.
// Source: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; Loshchilov & Hutter 2019 for the decay.
//
// One deviation from bitsandbytes' CPU build: codes are the exact nearest ones unless `lookup` says "grid"
// (quant/blockwise-8bit.ts), since a grid of 65,536 points loses second moments below 1.5e-5 of their block's largest.

import { momentBlockSize } from "../backend/backend.ts";
import { dequantizeBlockwise, type MapLookup, quantizeBlockwise } from "../quant/blockwise-8bit.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../quant/dynamic-map.ts";
import { invariant } from "../util/errors.ts";

/** Moments of a tensor: m through the signed map, v through the unsigned one. */
export interface Moments8bit {
  readonly mCodes: Uint8Array; // [count]
  readonly vCodes: Uint8Array; // [count]
  readonly mAbsmax: Float32Array; // [ceil(count / 256)]
  readonly vAbsmax: Float32Array; // [ceil(count / 256)]
}

export interface Adamw8bitStep {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** 1 for the first update. */
  readonly step: number;
}

/** All-zero moments. */
export function zeroMoments(count: number): Moments8bit {
  const blocks = Math.ceil(count / momentBlockSize);
  return {
    mCodes: new Uint8Array(count).fill(127), // zero of the signed map
    vCodes: new Uint8Array(count),
    mAbsmax: new Float32Array(blocks),
    vAbsmax: new Float32Array(blocks),
  };
}

/**
 * One update: `params` and `moments` change in place, `grads` do not. An element whose gradient is NaN or infinite
 * keeps its parameter and restarts its moments at zero, as in bitsandbytes' CUDA kernels.
 */
export function adamw8bitStep(
  params: Float32Array,
  grads: Float32Array,
  moments: Moments8bit,
  { learningRate, beta1, beta2, epsilon, weightDecay, step }: Adamw8bitStep,
  lookup: MapLookup = "nearest",
): void {
  const count = params.length;
  invariant(grads.length === count && moments.mCodes.length === count, "adamw8bit: lengths differ");
  const { mCodes, vCodes, mAbsmax, vAbsmax } = moments;
  const m = dequantizeBlockwise({ codes: mCodes, absmax: mAbsmax }, signedDynamicMap, momentBlockSize);
  const v = dequantizeBlockwise({ codes: vCodes, absmax: vAbsmax }, unsignedDynamicMap, momentBlockSize);
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  const stepSize = (learningRate * rootCorrection2) / (1 - beta1 ** step);
  for (let i = 0; i < count; i++) {
    const g = grads[i]!;
    if (!Number.isFinite(g)) {
      m[i] = 0;
      v[i] = 0;
      continue;
    }
    m[i] = beta1 * m[i]! + (1 - beta1) * g;
    v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
    // epsilon is scaled with the root, which equals sqrt(v / correction2) + epsilon in the denominator.
    const change = (stepSize * m[i]!) / (Math.sqrt(v[i]!) + epsilon * rootCorrection2);
    params[i] = params[i]! * (1 - learningRate * weightDecay) - change;
  }
  const newM = quantizeBlockwise(m, signedDynamicMap, momentBlockSize, lookup);
  const newV = quantizeBlockwise(v, unsignedDynamicMap, momentBlockSize, lookup);
  mCodes.set(newM.codes);
  vCodes.set(newV.codes);
  mAbsmax.set(newM.absmax);
  vAbsmax.set(newV.absmax);
}
