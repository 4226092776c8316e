// Simple preference optimisation (Meng et al. 2024): no reference; mean log-probabilities a token, and a margin that the
// chosen one is to be ahead by: -log(sigmoid(beta (c - r) - gamma)). With --cpo-alpha, the chosen completions' cross-entropy
// beside it.

import { smoothedLoss } from "./logistic.ts";
import type { ObjectiveKind } from "./objective.ts";
import { pairScoring } from "./pairs.ts";

export const simpo: ObjectiveKind = {
  about: "pairs, by their mean log-probabilities",
  rows: "pairs",
  defaults: { beta: 0.1, gamma: 0.5, labelSmoothing: 0, cpoAlpha: 0 },
  make: ({ beta = 0, gamma = 0, labelSmoothing = 0, cpoAlpha = 0 }) => ({
    scoring: pairScoring({
      reference: false,
      chosenLoss: cpoAlpha > 0 ? { weight: cpoAlpha, ofPrompts: false } : undefined,
      judge(chosen, rejected) {
        const [c, r] = [chosen.logProb / chosen.tokens, rejected.logProb / rejected.tokens];
        const [loss, by] = smoothedLoss(beta * (c - r) - gamma, labelSmoothing);
        return {
          loss,
          byChosen: (by * beta) / chosen.tokens,
          byRejected: (-by * beta) / rejected.tokens,
          chosenReward: beta * c,
          rejectedReward: beta * r,
        };
      },
    }),
  }),
};
