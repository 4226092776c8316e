// What a run came to, of its state and its parts: what `train --json` prints and run.json ends with. Not here: the file
// itself (run-record.ts).

import type { RunState } from "./checkpoint.ts";
import type { TrainSummary } from "./events.ts";
import type { RunParts } from "./run-parts.ts";
import { peakRssBytes } from "./run-record.ts";

export function summaryOf(
  { options, trainable, backend, collective }: RunParts,
  status: TrainSummary["status"],
  state: RunState,
  measured: Pick<TrainSummary, "elapsedMs" | "tokensPerSecond" | "checkpoint">,
): TrainSummary {
  const trained = trainable.parameters.count;
  const { elapsedMs, tokensPerSecond, checkpoint } = measured;
  return {
    status,
    out: options.out,
    steps: state.step,
    firstLoss: state.firstLoss,
    finalLoss: state.lastLoss,
    evalLoss: state.evalLoss,
    perplexity: state.evalLoss === undefined ? undefined : Math.exp(state.evalLoss),
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
