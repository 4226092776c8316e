// What objectives on pairs share: each says what a pair of completions comes to, and this turns it into a step's loss, its
// derivative by every token, and the rewards' metrics. Means are over all pairs of a step, so that 4 micro-batches of 1 are
// 1 of 4; beside them may stand the mean cross-entropy of the chosen completions, over all of the step's tokens.

import type { ScoredRun } from "../data/assemble.ts";
import { invariant } from "../util/errors.ts";
import type { Score, ScoredPass, Scoring } from "./objective.ts";

/** A completion as a pass scores it. */
export interface ScoredCompletion {
  /** Sum over its targets. */
  readonly logProb: number;
  /** The reference's; 0 where the objective has none. */
  readonly reference: number;
  readonly tokens: number;
}

export interface PairJudgment {
  readonly loss: number;
  /** Derivatives of the loss by the completions' logProb. */
  readonly byChosen: number;
  readonly byRejected: number;
  readonly chosenReward: number;
  readonly rejectedReward: number;
}

export interface PairRules {
  readonly reference: boolean;
  judge(chosen: ScoredCompletion, rejected: ScoredCompletion): PairJudgment;
  /** Adds the chosen completions' cross-entropy, of their prompts' tokens too where asked for. */
  readonly chosenLoss?: { readonly weight: number; readonly ofPrompts: boolean };
}

export function pairScoring({ reference, judge, chosenLoss }: PairRules): Scoring {
  const ofPrompts = chosenLoss?.ofPrompts ?? false;
  const learns = ({ completion }: ScoredRun) => completion === 0 || (ofPrompts && completion === "prompt");
  return {
    reference,
    scoresPrompts: ofPrompts,
    begin(batches) {
      const pairs = batches.reduce((sum, { scored }) => sum + scored!.samples.length, 0);
      const learnt = batches
        .flatMap(({ scored }) => scored!.runs.filter(learns))
        .reduce((sum, { start, end }) => sum + end - start, 0);
      return (micro) => {
        const { runs, samples } = micro.batch.scored!;
        const gradients = new Float64Array(micro.logProbs.length);
        const sums = { loss: 0, chosen: 0, rejected: 0, right: 0, crossEntropy: 0, tokens: 0 };
        const byCompletion = (completion: number) => runs.filter((run) => run.completion === completion);
        const [chosenRuns, rejectedRuns] = [byCompletion(0), byCompletion(1)];
        for (let i = 0; i < samples.length; i++) {
          const [chosen, rejected] = [chosenRuns[i], rejectedRuns[i]];
          invariant(
            chosen && rejected && chosen.sample === i && rejected.sample === i,
            "a pair without its runs",
          );
          const judged = judge(completionOf(micro, chosen), completionOf(micro, rejected));
          sums.loss += judged.loss / pairs;
          sums.chosen += judged.chosenReward;
          sums.rejected += judged.rejectedReward;
          sums.right += judged.chosenReward > judged.rejectedReward ? 1 : 0;
          gradients.fill(judged.byChosen / pairs, chosen.start, chosen.end);
          gradients.fill(judged.byRejected / pairs, rejected.start, rejected.end);
        }
        if (chosenLoss && chosenLoss.weight !== 0) {
          for (const run of runs.filter(learns)) {
            for (let i = run.start; i < run.end; i++) {
              sums.crossEntropy -= micro.logProbs[i]!;
              gradients[i]! -= chosenLoss.weight / learnt;
            }
            sums.tokens += run.end - run.start;
          }
          sums.loss += (chosenLoss.weight * sums.crossEntropy) / learnt;
        }
        return scoreOf(sums, gradients, samples.length, chosenLoss !== undefined);
      };
    },
  };
}

function scoreOf(
  sums: Readonly<Record<"loss" | "chosen" | "rejected" | "right" | "crossEntropy" | "tokens", number>>,
  gradients: Float64Array,
  pairs: number,
  learns: boolean,
): Score {
  return {
    loss: sums.loss,
    gradients,
    metrics: {
      rewardsChosen: [sums.chosen, pairs],
      rewardsRejected: [sums.rejected, pairs],
      rewardAccuracy: [sums.right, pairs],
      rewardMargin: [sums.chosen - sums.rejected, pairs],
      ...(learns ? { chosenLoss: [sums.crossEntropy, sums.tokens] as const } : {}),
    },
  };
}

/** Sums of a run's targets. */
export function completionOf(
  { logProbs, reference }: ScoredPass,
  { start, end }: ScoredRun,
): ScoredCompletion {
  const sum = (values: Float64Array) => values.subarray(start, end).reduce((a, b) => a + b, 0);
  return {
    logProb: sum(logProbs),
    reference: reference ? sum(reference) : 0,
    tokens: end - start,
  };
}
