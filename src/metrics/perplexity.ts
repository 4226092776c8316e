// Perplexity from sums, so that it does not depend on how rows were batched: the negative log likelihoods of all target
// tokens are added first and divided once. Per token it compares runs with one tokenizer; per byte, any models.

import { UserError } from "../util/errors.ts";

/** Sums over all rows evaluated. */
export interface LossTotals {
  /** Negative log likelihood of the target tokens, in nats. */
  readonly lossSum: number;
  readonly targetTokens: number;
  /** UTF-8 bytes of the text that the target tokens spell. */
  readonly targetBytes?: number;
}

export interface Perplexity {
  /** Mean loss of a token, nats. */
  readonly loss: number;
  /** exp(loss). */
  readonly perplexity: number;
  /** exp(lossSum / targetBytes); absent without a byte count. */
  readonly bytePerplexity?: number;
  readonly bitsPerByte?: number;
}

/** Perplexities of totals. Throws UserError when no token was a target. */
export function perplexityOf({ lossSum, targetTokens, targetBytes }: LossTotals): Perplexity {
  if (!(targetTokens > 0)) {
    throw new UserError(
      "perplexity: no row has a target token; check the data format and what is trained on",
    );
  }
  const loss = lossSum / targetTokens;
  const perToken = { loss, perplexity: Math.exp(loss) };
  if (targetBytes === undefined || !(targetBytes > 0)) return perToken;
  return {
    ...perToken,
    bytePerplexity: Math.exp(lossSum / targetBytes),
    bitsPerByte: lossSum / targetBytes / Math.LN2,
  };
}

/** Totals of several parts of an evaluation. The byte count survives only if every part has one. */
export function addLossTotals(a: LossTotals, b: LossTotals): LossTotals {
  const bothBytes = a.targetBytes !== undefined && b.targetBytes !== undefined;
  return {
    lossSum: a.lossSum + b.lossSum,
    targetTokens: a.targetTokens + b.targetTokens,
    ...(bothBytes ? { targetBytes: a.targetBytes! + b.targetBytes! } : {}),
  };
}
