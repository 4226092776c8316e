// `lowrank bench`: prints how fast training steps run here, against the device's measured peak. The timing is
// train/bench.ts's.

import { benchDefinition } from "../config/bench-options.ts";
import { defineCommand } from "./command.ts";
import { formatBytes } from "./format.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(benchDefinition, async (options, terminal) => {
  const { runBench } = await import("../train/bench.ts");
  const result = await runBench(options, (message) => terminal.note(message));
  if (terminal.json) {
    terminal.document(result);
    return exitCodes.done;
  }
  const { best, median } = result.tokensPerSecond;
  const fraction =
    result.peakFraction === null
      ? ""
      : `, ${(100 * result.peakFraction).toFixed(1)}% of the measured peak of ${result.peakGflops!.toFixed(0)}`;
  terminal.print(
    [
      `${result.method}, ${result.precision}, ${result.batchSize} x ${result.sequenceLength} tokens on ${result.device}`,
      `  ${best.toFixed(1)} tokens/s at best, ${median.toFixed(1)} in the middle; ${result.stepMs.toFixed(1)} ms a step`,
      `  ${result.gflops.toFixed(1)} GFLOP/s of products${fraction}`,
      `  ${formatBytes(result.peakBytes)} on the device at most, ${formatBytes(result.peakRssBytes)} of the process`,
    ].join("\n"),
  );
  return exitCodes.done;
});
