// What a run came to, of its state and its parts: what `train --json` prints and run.json ends with. Not here: the file
// itself (run-record.ts).

import type { RunState } from "./checkpoint.ts";
import type { Forgetting, TrainSummary } from "./events.ts";
import type { ForgettingState } from "./forgetting.ts";
import type { RunParts } from "./run-parts.ts";
import { peakRssBytes } from "./run-record.ts";

export function summaryOf(
  { options, trainable, backend, collective, session }: RunParts,
  status: TrainSummary["status"],
  state: RunState,
  measured: Pick<
    TrainSummary,
    "elapsedMs" | "tokensPerSecond" | "checkpoint" | "stoppedEarly" | "toldToEnd"
  > & {
    readonly averagedSteps: readonly number[];
  },
): TrainSummary {
  const trained = trainable.parameters.count;
  const { elapsedMs, tokensPerSecond, checkpoint, stoppedEarly, toldToEnd, averagedSteps } = measured;
  const best = state.watched?.best;
  // Of the result, which an unfinished run has not chosen yet.
  const evalLoss = status === "done" && best ? best.scores.loss : state.evalLoss;
  const forgetting = state.forgetting && forgettingOf(state.forgetting);
  return {
    status,
    out: options.out,
    steps: state.step,
    firstLoss: state.firstLoss,
    finalLoss: state.lastLoss,
    evalLoss,
    perplexity: evalLoss === undefined || session.objective.scoring ? undefined : Math.exp(evalLoss),
    ...(best && { best }),
    ...(stoppedEarly && { stoppedEarly }),
    ...(toldToEnd && { toldToEnd }),
    ...(averagedSteps.length > 1 && { averagedSteps }),
    ...(forgetting && { forgetting }),
    trainableParameters: trained,
    totalParameters: trainable.model.loaded.totalParameters + (trainable.adapter ? trained : 0),
    tokens: state.tokens,
    tokensPerSecond,
    elapsedMs,
    device: backend.description,
    peakBytes: backend.peakBytes,
    peakRssBytes: peakRssBytes(),
    ranks: collective.traffic && {
      ...{ size: collective.size, description: collective.description },
      ...collective.traffic(),
    },
    checkpoint,
  };
}

function forgettingOf({ before, after }: ForgettingState): Forgetting {
  return { before, ...(after && { after }) };
}
