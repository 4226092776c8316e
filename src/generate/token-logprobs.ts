// Log-probabilities of a drawn token and of the likeliest ones, in nats, from the model's own logits: before
// temperature, penalties and cuts.

export interface TokenLogprobs {
  readonly logprob: number;
  /** The likeliest tokens, best first. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

export function tokenLogprobs(logits: Float32Array, id: number, count: number): TokenLogprobs {
  let largest = Number.NEGATIVE_INFINITY;
  for (const value of logits) if (value > largest) largest = value;
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - largest);
  const norm = largest + Math.log(sum);
  const top: { id: number; logprob: number }[] = [];
  for (let i = 0; i < logits.length && count > 0; i++) {
    const logprob = logits[i]! - norm;
    if (top.length === count && logprob <= top[count - 1]!.logprob) continue;
    const at = top.findIndex((other) => logprob > other.logprob);
    top.splice(at < 0 ? top.length : at, 0, { id: i, logprob });
    if (top.length > count) top.pop();
  }
  return { logprob: logits[id]! - norm, top };
}
