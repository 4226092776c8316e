// A run whose objective learns from completions that the model writes: its reward functions, the rounds behind its steps,
// their reference, and what is told of them. Undefined for every other run. Rounds themselves: rollouts/rollouts.ts.

import { rewardSpecs } from "../config/rollout-fields.ts";
import type { Sample } from "../data/render.ts";
import type { RewardPort } from "../rollouts/judging.ts";
import { Rewards } from "../rollouts/rewards.node.ts";
import { Rollouts, type RoundState } from "../rollouts/rollouts.ts";
import { UserError } from "../util/errors.ts";
import type { RunParts } from "./run-parts.ts";

export interface RunRollouts {
  /** Samples of a step by micro-batch, and metrics where a round was written for it; `take` gives the next prompts. */
  next(
    step: number,
    take: () => readonly (readonly number[])[],
  ): Promise<{
    readonly samples: readonly (readonly Sample[])[];
    readonly metrics: Readonly<Record<string, number>>;
  }>;
  /** What a checkpoint after the step holds of them. */
  stateAfter(step: number): RoundState | undefined;
  resume(state: RoundState | undefined): Promise<void>;
  close(): Promise<void>;
}

export async function openRollouts(
  { options, data, session, trainable, collective, emit }: RunParts,
  ports: readonly (RewardPort | undefined)[] = [],
): Promise<RunRollouts | undefined> {
  const { rollouts: known } = session.objective;
  if (!known || !data.prompts) return undefined;
  if (collective.size > 1) {
    throw new UserError(
      "--objective grpo runs in one process: several ranks cannot share the writing of completions yet; start it without mpirun",
    );
  }
  const { groupSize, maxNewTokens, iterations, scaleRewards, seed, rewardTimeout, sequenceLength } = options;
  const rewards = await Rewards.open(rewardSpecs(options.reward!), rewardTimeout!, ports);
  const { loaded, tokenizer } = trainable.model;
  const rollouts = new Rollouts(
    { decoder: loaded.decoder, tokenizer },
    data.prompts,
    rewards,
    { rollouts: known },
    {
      ...{ groupSize: groupSize!, maxNewTokens: maxNewTokens!, iterations: iterations! },
      ...{ scaleRewards: scaleRewards!, seed },
    },
  );
  /** The base's log-probabilities, where the loss has a divergence from it. */
  const refer = async (samples: readonly Sample[]) => {
    if (session.objective.scoring!.reference)
      await session.refer(samples, options.batchSize * sequenceLength, true);
  };
  return {
    async next(step, take) {
      const { samples, news } = await rollouts.next(step, take);
      if (!news) return { samples, metrics: {} };
      await refer(samples.flat());
      emit({ type: "rollout", step, ...news.shown });
      return { samples, metrics: news.metrics };
    },
    stateAfter: (step) => rollouts.stateAfter(step),
    async resume(state) {
      if (state) await refer(rollouts.resume(state));
    },
    close: () => rewards.close(),
  };
}
