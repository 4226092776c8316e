// Direct preference optimisation (Rafailov et al. 2023) and kin: how much more likely than under the reference the chosen
// completion became, less the same of the rejected one, d. sigmoid: -log(sigmoid(beta d)), with label smoothing the
// conservative loss (Mitchell 2023); robust: unbiased under flipped labels (Chowdhury et al. 2024); hinge: max(0, 1 - beta d)
// (Zhao et al. 2023); ipo: (d' - 1 / (2 beta))^2, with d' of means over tokens (Azar et al. 2023).

import { UsageError } from "../util/errors.ts";
import { smoothedLoss } from "./logistic.ts";
import type { ObjectiveKind } from "./objective.ts";
import { type PairJudgment, pairScoring, type ScoredCompletion } from "./pairs.ts";

export const dpo: ObjectiveKind = {
  about: "pairs of answers, against the model as it was",
  rows: "pairs",
  defaults: { lossType: "sigmoid", beta: 0.1, labelSmoothing: 0 },
  lossTypes: ["sigmoid", "hinge", "ipo", "robust"],
  make({ lossType, beta = 0, labelSmoothing = 0 }) {
    if (labelSmoothing > 0 && lossType !== "sigmoid" && lossType !== "robust")
      throw new UsageError(
        `--label-smoothing goes with --loss-type sigmoid and robust, not with ${lossType}.`,
      );
    const ratio = ({ logProb, reference }: ScoredCompletion) => logProb - reference;
    const judge = (chosen: ScoredCompletion, rejected: ScoredCompletion): PairJudgment => {
      const [c, r] = [ratio(chosen), ratio(rejected)];
      const rewards = { chosenReward: beta * c, rejectedReward: beta * r };
      const of = ([loss, by]: readonly [number, number], scale = [beta, beta] as const): PairJudgment => ({
        ...{ loss, byChosen: by * scale[0], byRejected: -by * scale[1], ...rewards },
      });
      switch (lossType) {
        case "hinge":
          return of(beta * (c - r) < 1 ? [1 - beta * (c - r), -1] : [0, 0]);
        case "ipo": {
          const [perChosen, perRejected] = [1 / chosen.tokens, 1 / rejected.tokens];
          const off = c * perChosen - r * perRejected - 1 / (2 * beta);
          return of([off * off, 2 * off], [perChosen, perRejected]);
        }
        case "robust": {
          const clean = smoothedLoss(beta * (c - r), 0);
          const flipped = smoothedLoss(-beta * (c - r), 0);
          const share = 1 / (1 - 2 * labelSmoothing);
          return of([
            ((1 - labelSmoothing) * clean[0] - labelSmoothing * flipped[0]) * share,
            ((1 - labelSmoothing) * clean[1] + labelSmoothing * flipped[1]) * share,
          ]);
        }
        default:
          return of(smoothedLoss(beta * (c - r), labelSmoothing));
      }
    };
    return { scoring: pairScoring({ reference: true, judge }) };
  },
};
