// What one token of a run costs in operations, for its record: what its speed is held against a device's peak with. By the
// rows' mean length, since attention costs more in longer ones. The counting is models/flops.ts's.

import { stepFlops } from "../models/flops.ts";
import type { RunParts } from "./run-parts.ts";

/** Completions that the model is yet to write are not counted. */
export function flopsPerToken({ data, trainable }: RunParts, checkpointing: boolean): number {
  const { rows, samples, tokens, targetTokens } = data.report;
  const count = Math.max(1, samples || rows);
  const sequenceLength = Math.max(1, Math.round(tokens / count));
  const flops = stepFlops(trainable.model.config, {
    ...{ sequences: 1, sequenceLength, targetTokens: targetTokens / count },
    adapterParameters: trainable.adapter ? trainable.parameters.count : 0,
    full: trainable.adapter === undefined,
    checkpointing,
  });
  return Math.round(flops / sequenceLength);
}
