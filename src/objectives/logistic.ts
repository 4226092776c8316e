// The logistic function and its logarithm where they neither overflow nor lose what is small.

/** 1 / (1 + exp(-x)). */
export function sigmoid(x: number): number {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

/** log(sigmoid(x)). */
export function logSigmoid(x: number): number {
  return Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
}

/** log(1 - exp(x)) of x < 0 (Maechler 2012). */
export function log1mExp(x: number): number {
  return x > -Math.LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x));
}

/** -log(sigmoid(x)) of a label that is wrong with probability `smoothing`, and its derivative by x. */
export function smoothedLoss(x: number, smoothing: number): readonly [loss: number, derivative: number] {
  const loss = -(1 - smoothing) * logSigmoid(x) - smoothing * logSigmoid(-x);
  return [loss, -(1 - smoothing) * sigmoid(-x) + smoothing * sigmoid(x)];
}
