// What an objective wants before a run's first step, of the rows that it trains and evaluates on: a look at all of them, and
// the reference's log-probabilities. These are taken of the model as it begins, before a checkpoint is restored, so that a
// resumed run has the same; with a given adapter, of the base without it unless the run says otherwise. All ranks share the
// passes.

import type { RunParts } from "./run-parts.ts";
import { packTokens } from "./setup.ts";

type Parts = Pick<RunParts, "options" | "data" | "session" | "emit">;

export async function prepareObjective({ options, data, session, emit }: Parts): Promise<void> {
  const { objective } = session;
  const { batchSize, sequenceLength, packing, initAdapter, reference } = options;
  // Rows that are scored are in memory, where each sample is one object.
  if (!objective.scoring && !objective.prepare) return;
  const [train, evaluation] = [[...data.train], [...data.evaluation]];
  for (const samples of [train, evaluation]) objective.prepare?.(samples, { batchSize, sequenceLength });
  // Completions that the model writes have theirs taken when they are there (run-rollouts.ts).
  if (!objective.scoring?.reference || objective.rollouts) return;
  const samples = [...train, ...evaluation];
  const withoutAdapter = initAdapter !== undefined && reference !== "start";
  const whose = withoutAdapter
    ? "the base without the adapter"
    : initAdapter === undefined
      ? "the model as it is"
      : "the model with the adapter as it begins";
  emit({
    type: "info",
    message: `reference: ${whose}; its log-probabilities of ${samples.length} rows are taken ahead of the first step`,
  });
  // As many at a time as a step has, so that no more memory is needed.
  const longest = train.reduce((most, sample) => Math.max(most, session.lengthOf(sample)), 1);
  const together = batchSize * (packing ? packTokens(options) : longest);
  await session.refer(samples, together, withoutAdapter);
}
