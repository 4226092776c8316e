// Kahneman-Tversky optimisation (Ethayarajh et al. 2024): completions that are rated each for itself. How much more likely
// than under the reference one became is held against an estimate of the divergence from the reference, which comes from
// completions behind prompts that are not theirs. Those are the neighbours' within a micro-batch's worth of rows, as TRL
// pairs them, so a sample's is the same in every epoch; the estimate is a micro-batch's own, whoever computes it.

import type { Sample } from "../data/render.ts";
import { sigmoid } from "./logistic.ts";
import type { Objective, ObjectiveKind, ScoredPass, Scoring } from "./objective.ts";
import { completionOf } from "./pairs.ts";

export const kto: ObjectiveKind = {
  about: "answers rated good or bad, against the model as it was",
  rows: "ratings",
  defaults: { beta: 0.1, desirableWeight: 1, undesirableWeight: 1 },
  make(options): Objective {
    const mismatched = new WeakMap<Sample, Sample>();
    return {
      prepare(samples, { batchSize, sequenceLength }) {
        for (const [i, sample] of samples.entries()) {
          const block = i - (i % batchSize);
          const last = Math.min(samples.length, block + batchSize) - 1;
          const other = samples[i === block ? last : i - 1]!;
          mismatched.set(sample, withCompletionOf(sample, other, sequenceLength));
        }
      },
      scoring: scoringOf(options, (sample) => mismatched.get(sample) ?? sample),
    };
  },
};

type KtoOptions = Parameters<ObjectiveKind["make"]>[0];

function scoringOf(
  { beta = 0, desirableWeight = 0, undesirableWeight = 0 }: KtoOptions,
  mismatchOf: (sample: Sample) => Sample,
): Scoring {
  return {
    reference: true,
    ahead: (samples) => samples.map(mismatchOf),
    derived({ rewardsChosen, rewardsRejected }): Record<string, number> {
      if (rewardsChosen === undefined || rewardsRejected === undefined) return {};
      return { rewardMargin: rewardsChosen - rewardsRejected };
    },
    begin(batches) {
      const rows = batches.reduce((sum, { scored }) => sum + scored!.samples.length, 0);
      return (micro) => {
        const { runs, samples } = micro.batch.scored!;
        const divergence = Math.max(0, meanRatio(micro.ahead!));
        const gradients = new Float64Array(micro.logProbs.length);
        const sums = { loss: 0, wanted: 0, unwanted: 0, good: 0, right: 0 };
        for (const run of runs) {
          const { logProb, reference } = completionOf(micro, run);
          const reward = beta * (logProb - reference);
          const wanted = samples[run.sample]!.label === true;
          // Wanted ones lose 1 - sigmoid(reward - beta divergence), the others the mirror image.
          const kept = wanted ? sigmoid(reward - beta * divergence) : sigmoid(beta * divergence - reward);
          const weight = wanted ? desirableWeight : undesirableWeight;
          sums.loss += (weight * (1 - kept)) / rows;
          const slope = (weight * kept * (1 - kept) * beta) / rows;
          gradients.fill(wanted ? -slope : slope, run.start, run.end);
          if (wanted) sums.good++;
          if (kept > 0.5) sums.right++;
          sums[wanted ? "wanted" : "unwanted"] += reward;
        }
        const bad = runs.length - sums.good;
        return {
          loss: sums.loss,
          gradients,
          metrics: {
            rewardsChosen: [sums.wanted, sums.good],
            rewardsRejected: [sums.unwanted, bad],
            rewardAccuracy: [sums.right, runs.length],
            kl: [divergence * samples.length, samples.length],
          },
        };
      };
    },
  };
}

/** Mean over a pass's completions of how much more likely than under the reference they are. */
function meanRatio(pass: ScoredPass): number {
  const { runs } = pass.batch.scored!;
  const ratios = runs
    .map((run) => completionOf(pass, run))
    .map(({ logProb, reference }) => logProb - reference);
  return ratios.reduce((a, b) => a + b, 0) / ratios.length;
}

/** A sample's prompt with another's completion, as far as it goes. */
function withCompletionOf(sample: Sample, other: Sample, most: number): Sample {
  const [prompt, before] = [sample.fork!.prompt, other.fork!.prompt];
  const completion = Math.min(other.ids.length - before, most - prompt);
  const ids = new Int32Array(prompt + completion);
  ids.set(sample.ids.subarray(0, prompt));
  ids.set(other.ids.subarray(before, before + completion), prompt);
  const targetMask = new Uint8Array(ids.length);
  targetMask.set(other.targetMask.subarray(before, before + completion), prompt);
  return { ids, targetMask, rowId: sample.rowId, fork: { prompt, completions: [completion] } };
}
