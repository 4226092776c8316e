// Kernels of the contract that change parameters: the optimizers' updates and the factor that gradients are multiplied by.
// Not here: when they are called, and with what (optim/).

import { type Family, f32, float, number, optional, u8, update } from "./operands.ts";

/** Elements that share one scale in 8-bit moments; a tensor's last block may be shorter. */
export const momentBlockSize = 256;

const clipping = {
  /** As clipFactor leaves it: gradients are multiplied by it, below 0 the update changes nothing. 1 when absent. */
  factor: optional(float("1")),
} as const;

/** What every update of parameters by AdamW is told. */
const adamwConstants = {
  learningRate: number,
  beta1: number,
  beta2: number,
  epsilon: number,
  weightDecay: number,
  /** 1 for the first update. */
  step: number,
  ...clipping,
} as const;

export const updateKernels = {
  /**
   * What an update multiplies gradients by: min(1, maxNorm / (sqrt(sumSquares[0]) + 1e-6)) as torch's clip_grad_norm_, or 1
   * where maxNorm is 0. It is -1, and the update changes nothing, when sumSquares or a loss is not finite, and when factor
   * held a number below 0 before: what follows a step that went wrong is held up with it until somebody writes factor.
   */
  clipFactor: { sumSquares: float("1"), losses: float("*n"), maxNorm: number, factor: update(float("1")) },
  /**
   * One update of Lion (Chen et al. 2023): params = params (1 - learningRate weightDecay) - learningRate
   * sign(beta1 m + (1 - beta1) g), then m = beta2 m + (1 - beta2) g; g is clipped as AdamW's.
   */
  lion: {
    params: update(float("count")),
    grads: float("count"),
    m: update(float("count")),
    learningRate: number,
    beta1: number,
    beta2: number,
    weightDecay: number,
    ...clipping,
  },
  /** One update of flat state, as torch.optim.AdamW: decay, moments, bias-corrected step, epsilon outside the root. */
  adamw: {
    params: update(float("count")),
    grads: float("count"),
    m: update(float("count")),
    v: update(float("count")),
    ...adamwConstants,
  },
  /**
   * The same update on moments in 8 bits (optim/adamw-8bit-reference.ts), used in full and then rounded to the nearest
   * codes: m = mMap[mCodes] * mAbsmax of its block, and v likewise. Maps ascend and hold a 0.
   */
  adamw8bit: {
    params: update(float("count")),
    grads: float("count"),
    mCodes: update(u8("count")),
    vCodes: update(u8("count")),
    mAbsmax: update(f32(`ceil(count/${momentBlockSize})`)),
    vAbsmax: update(f32(`ceil(count/${momentBlockSize})`)),
    mMap: f32("256"),
    vMap: f32("256"),
    ...adamwConstants,
  },
} as const satisfies Family;
