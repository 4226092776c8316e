// Contrastive preference optimisation (Xu et al. 2024): the DPO loss without a reference, and the chosen completions' mean
// cross-entropy beside it, times --cpo-alpha. Loss types as DPO's, but ipo takes means over tokens, as TRL does.

import { UsageError } from "../util/errors.ts";
import { smoothedLoss } from "./logistic.ts";
import type { ObjectiveKind } from "./objective.ts";
import { pairScoring } from "./pairs.ts";

export const cpo: ObjectiveKind = {
  about: "pairs without a reference, and the chosen answers",
  rows: "pairs",
  defaults: { lossType: "sigmoid", beta: 0.1, labelSmoothing: 0, cpoAlpha: 1 },
  lossTypes: ["sigmoid", "hinge", "ipo"],
  make({ lossType, beta = 0, labelSmoothing = 0, cpoAlpha = 0 }) {
    if (labelSmoothing > 0 && lossType !== "sigmoid")
      throw new UsageError(`--label-smoothing goes with --loss-type sigmoid, not with ${lossType}.`);
    const lossOf = (d: number): readonly [number, number] => {
      if (lossType === "hinge") return beta * d < 1 ? [1 - beta * d, -beta] : [0, 0];
      if (lossType === "ipo") return [(d - 1 / (2 * beta)) ** 2, 2 * (d - 1 / (2 * beta))];
      const [loss, by] = smoothedLoss(beta * d, labelSmoothing);
      return [loss, by * beta];
    };
    return {
      scoring: pairScoring({
        reference: false,
        chosenLoss: cpoAlpha > 0 ? { weight: cpoAlpha, ofPrompts: false } : undefined,
        judge(chosen, rejected) {
          const [perChosen, perRejected] =
            lossType === "ipo" ? [1 / chosen.tokens, 1 / rejected.tokens] : [1, 1];
          const [c, r] = [chosen.logProb * perChosen, rejected.logProb * perRejected];
          const [loss, by] = lossOf(c - r);
          return {
            ...{ loss, byChosen: by * perChosen, byRejected: -by * perRejected },
            ...{ chosenReward: beta * c, rejectedReward: beta * r },
          };
        },
      }),
    };
  },
};
