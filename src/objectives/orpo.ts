// Odds ratio preference optimisation (Hong et al. 2024): the cross-entropy of prompt and chosen completion, less beta times
// log(sigmoid(log odds ratio)), where the odds of a completion are p / (1 - p) of its mean probability a token.

import { log1mExp, logSigmoid, sigmoid } from "./logistic.ts";
import type { ObjectiveKind } from "./objective.ts";
import { pairScoring } from "./pairs.ts";

/** log(p / (1 - p)) and its derivative by log p. */
function logOdds(logProb: number): readonly [odds: number, derivative: number] {
  return [logProb - log1mExp(logProb), -1 / Math.expm1(logProb)];
}

export const orpo: ObjectiveKind = {
  about: "pairs by their odds, and the chosen answers",
  rows: "pairs",
  defaults: { beta: 0.1 },
  make: ({ beta = 0 }) => ({
    scoring: pairScoring({
      reference: false,
      chosenLoss: { weight: 1, ofPrompts: true },
      judge(chosen, rejected) {
        const [c, r] = [chosen.logProb / chosen.tokens, rejected.logProb / rejected.tokens];
        const [[chosenOdds, byC], [rejectedOdds, byR]] = [logOdds(c), logOdds(r)];
        const ratio = chosenOdds - rejectedOdds;
        const by = -beta * sigmoid(-ratio);
        return {
          loss: -beta * logSigmoid(ratio),
          byChosen: (by * byC) / chosen.tokens,
          byRejected: (-by * byR) / rejected.tokens,
          chosenReward: beta * c,
          rejectedReward: beta * r,
        };
      },
    }),
  }),
};
