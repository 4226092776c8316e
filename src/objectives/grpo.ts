// Group relative policy optimisation (Shao et al. 2024) on completions that the model wrote itself: how much likelier than
// when they were written they may become follows from their advantages (advantages.ts), within a clipped range (Schulman et
// al. 2017), beside a penalty on the divergence from the reference. As TRL 1.16's GRPOTrainer has it, with its defaults.
// loss types: dapo, a mean over the step's tokens (Yu et al. 2025); grpo, of each completion's mean; bnpo, a mean over a
// micro-batch's tokens; dr_grpo, a sum over a constant (Liu et al. 2025). Ratios are of tokens, or of whole completions as
// GSPO has them (Zheng et al. 2025). Where completions and rewards come from: rollouts/.

import type { Sample } from "../data/render.ts";
import { BugError, UsageError } from "../util/errors.ts";
import type { Objective, ObjectiveKind, Rollout, ScoredPass, Scoring } from "./objective.ts";

export const ratioLevels = ["token", "sequence"] as const;

export const grpo: ObjectiveKind = {
  about: "answers of its own, by rewards that your functions give them",
  rows: "prompts",
  defaults: {
    lossType: "dapo",
    beta: 0,
    clipEpsilon: 0.2,
    clipEpsilonHigh: undefined,
    ratios: "token",
    maxNewTokens: 128,
  },
  lossTypes: ["dapo", "grpo", "bnpo", "dr_grpo"],
  make(options): Objective {
    const { clipEpsilon = 0, beta = 0 } = options;
    if (clipEpsilon >= 1)
      throw new UsageError(
        `--clip-epsilon ${clipEpsilon}: expected less than 1, or nothing is clipped below.`,
      );
    const rollouts = new WeakMap<Sample, Rollout>();
    const known = (sample: Sample) => {
      const rollout = rollouts.get(sample);
      if (!rollout) throw new BugError("a sample without its rollout");
      return rollout;
    };
    return {
      rollouts: { set: (sample, rollout) => void rollouts.set(sample, rollout), of: known },
      scoring: scoringOf(options, beta !== 0, known),
    };
  },
};

type GrpoOptions = Parameters<ObjectiveKind["make"]>[0];

/** What the tokens of one completion come to, before they are weighted. */
interface CompletionLoss {
  readonly losses: Float64Array;
  /** Of the completion's loss, weighted by `weight` a token, by each token's log-probability. */
  readonly gradients: Float64Array;
  readonly divergence: number;
  readonly clipped: number;
  /** Ratios that may be clipped: tokens, or one. */
  readonly ratios: number;
}

function scoringOf(
  options: GrpoOptions,
  reference: boolean,
  rolloutOf: (sample: Sample) => Rollout,
): Scoring {
  return {
    reference,
    begin(batches) {
      const tokens = batches.reduce((sum, { targetTokens }) => sum + targetTokens, 0);
      const completions = batches.reduce((sum, { scored }) => sum + scored!.runs.length, 0);
      return (micro) => {
        const { batch } = micro;
        const { runs, samples } = batch.scored!;
        const weightOf = (length: number) => {
          switch (options.lossType) {
            case "grpo":
              return 1 / (completions * length);
            case "bnpo":
              return 1 / (batches.length * batch.targetTokens);
            case "dr_grpo":
              return 1 / (completions * options.maxNewTokens!);
            default:
              return 1 / tokens;
          }
        };
        const gradients = new Float64Array(micro.logProbs.length);
        const sums = { loss: 0, divergence: 0, clipped: 0, ratios: 0 };
        for (const [sample, first] of firstRuns(runs)) {
          const rollout = rolloutOf(samples[sample]!);
          const own = runs.filter((run) => run.sample === sample);
          const [start, end] = [first.start, own.at(-1)!.end];
          // The first time a rollout is learnt from, the model is still the one that wrote it.
          rollout.old ??= micro.logProbs.slice(start, end);
          for (const run of own) {
            const old = rollout.old.subarray(run.start - start, run.end - start);
            const advantage = rollout.advantages[run.completion as number]!;
            const weight = weightOf(run.end - run.start);
            const judged = lossOf(options, sliced(micro, run.start, run.end), old, advantage, weight);
            gradients.set(judged.gradients, run.start);
            for (const loss of judged.losses) sums.loss += weight * loss;
            sums.divergence += judged.divergence;
            sums.clipped += judged.clipped;
            sums.ratios += judged.ratios;
          }
        }
        return {
          loss: sums.loss,
          gradients,
          metrics: {
            clipRatio: [sums.clipped, sums.ratios],
            ...(reference ? { kl: [sums.divergence, batch.targetTokens] as const } : {}),
          },
        };
      };
    },
  };
}

function firstRuns<Run extends { readonly sample: number }>(runs: readonly Run[]): Map<number, Run> {
  const first = new Map<number, Run>();
  for (const run of runs) if (!first.has(run.sample)) first.set(run.sample, run);
  return first;
}

function sliced({ logProbs, reference }: ScoredPass, start: number, end: number) {
  return { logProbs: logProbs.subarray(start, end), reference: reference?.subarray(start, end) };
}

function lossOf(
  { beta = 0, clipEpsilon = 0, clipEpsilonHigh = clipEpsilon, ratios }: GrpoOptions,
  { logProbs, reference }: { logProbs: Float64Array; reference: Float64Array | undefined },
  old: Float64Array,
  advantage: number,
  weight: number,
): CompletionLoss {
  const count = logProbs.length;
  const whole = ratios === "sequence";
  const differences = logProbs.map((logProb, i) => logProb - old[i]!);
  const shared = differences.reduce((sum, difference) => sum + difference, 0) / count;
  const losses = new Float64Array(count);
  const gradients = new Float64Array(count);
  let divergence = 0;
  let clippedTokens = 0;
  /** Derivative by the completion's one ratio, where it has one. */
  let byRatio = 0;
  for (let i = 0; i < count; i++) {
    const ratio = Math.exp(whole ? shared : differences[i]!);
    const outside =
      (ratio > 1 + clipEpsilonHigh && advantage > 0) || (ratio < 1 - clipEpsilon && advantage < 0);
    const bound = ratio > 1 ? 1 + clipEpsilonHigh : 1 - clipEpsilon;
    if (outside) clippedTokens++;
    losses[i] = -advantage * (outside ? bound : ratio);
    let ofRatio = outside ? 0 : -advantage;
    if (reference) {
      // exp(d) - d - 1 with d = reference - model (Schulman's k3), times the ratio that corrects its bias.
      const d = reference[i]! - logProbs[i]!;
      const k3 = Math.exp(d) - d - 1;
      losses[i]! += beta * ratio * k3;
      divergence += ratio * k3;
      gradients[i] = weight * beta * ratio * (1 - Math.exp(d));
      ofRatio += beta * k3;
    }
    if (whole) byRatio += weight * ofRatio * ratio;
    else gradients[i]! += weight * ofRatio * ratio;
  }
  if (whole) for (let i = 0; i < count; i++) gradients[i]! += byRatio / count;
  return {
    ...{ losses, gradients, divergence },
    clipped: whole ? Number(clippedTokens > 0) : clippedTokens,
    ratios: whole ? 1 : count,
  };
}
