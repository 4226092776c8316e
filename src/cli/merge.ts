// `lowrank merge`: writes the merged model and prints its receipt. The merge itself is publish/merge-folder.ts.

import { mergeDefinition } from "../config/merge-options.ts";
import { mergeWith } from "../library/publish.ts";
import { defineCommand } from "./command.ts";
import { formatTable } from "./format.ts";
import { exitOnStop } from "./signals.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(mergeDefinition, async (options, terminal) => {
  exitOnStop();
  const report = await mergeWith(options, { onNote: terminal.note, onWarning: terminal.warn });
  if (report.forced) terminal.warn("the merged model is above the bound and was kept because of --force");
  if (terminal.json) {
    terminal.document({ ...report, out: options.out });
    return exitCodes.done;
  }
  terminal.print(
    formatTable(
      ["merged against", "mean KL", "max KL", "same top token", "perplexity", "merged"],
      report.comparisons.map((c) => [
        c.reference,
        c.meanKl.toExponential(2),
        c.maxKl.toExponential(2),
        `${(100 * c.sameTopToken).toFixed(1)}%`,
        c.perplexityReference.toFixed(3),
        c.perplexityMerged.toFixed(3),
      ]),
    ),
  );
  const tokens = report.comparisons[0]?.tokens ?? 0;
  terminal.print(
    `\n${report.mergedWeights} weights merged into ${options.out} (${report.dtype}); compared on ${tokens} tokens of ${report.sample}`,
  );
  return exitCodes.done;
});
