// `lowrank quantize`: writes the 4-bit folder and prints what quantisation did to each layer. The work is
// publish/quantize-folder.ts's.

import { quantizeDefinition } from "../config/quantize-options.ts";
import { quantizeWith } from "../library/publish.ts";
import type { QuantizationReport } from "../quant/report.ts";
import { peakRssBytes } from "../train/run-record.ts";
import { defineCommand } from "./command.ts";
import { formatBytes, formatCount, formatDuration, formatTable, shellQuote } from "./format.ts";
import { exitOnStop } from "./signals.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(quantizeDefinition, async (options, terminal) => {
  exitOnStop();
  const startedAt = performance.now();
  const hooks = { onWarning: terminal.warn, onNote: terminal.note };
  const report = await quantizeWith(options, hooks, (done, total, name) =>
    terminal.status(`${done} of ${total} tensors: ${name}`),
  );
  terminal.status("");
  const elapsedMs = performance.now() - startedAt;
  const rss = peakRssBytes();
  const { quantType, blockSize, doubleQuant, out } = options;
  if (terminal.json) {
    terminal.document({
      ...{ model: options.model, out, quantType, blockSize, doubleQuant, elapsedMs, peakRssBytes: rss },
      ...report,
    });
    return exitCodes.done;
  }
  const heading = ["layer", "values", "NF4", "FP4", "INT4", "skewness", "excess kurtosis", "KS distance"];
  const row = (name: string, values: number, of: QuantizationReport) => [
    name,
    formatCount(values),
    ...["nf4", "fp4", "int4"].map((key) => `${(100 * of.errors[key]!.relativeRms).toFixed(2)}%`),
    of.normality.skewness.toFixed(3),
    of.normality.excessKurtosis.toFixed(2),
    of.normality.ksDistance.toFixed(4),
  ];
  const rows = report.layers.map((layer) => row(layer.name.replace(/\.weight$/, ""), layer.values, layer));
  const { overall } = report;
  const nf4 = overall.errors.nf4!.relativeRms;
  const sampled = report.layers.some((layer) => layer.count < layer.values);
  terminal.print(
    [
      formatTable(heading, [...rows, row("all", overall.count, overall)]),
      "",
      "NF4, FP4, INT4: root mean square error on these weights, in % of their root mean square, scales in 32 bits.",
      `Skewness, excess kurtosis and KS distance are 0 for normal weights, which NF4 is made for.${sampled ? " Large layers were sampled." : ""}`,
      `On these weights NF4's error is ${percentOf(nf4, overall.errors.fp4!.relativeRms)} of FP4's and ${percentOf(nf4, overall.errors.int4!.relativeRms)} of INT4's.`,
      "",
      `${report.quantizedWeights} weights (${formatCount(report.quantizedParameters)} parameters) in ${quantType.toUpperCase()}, ${formatCount(report.keptParameters)} parameters as they were: ${formatBytes(report.sourceBytes)} -> ${formatBytes(report.outBytes)} in ${formatDuration(elapsedMs)}, ${formatBytes(rss)} of memory at most.`,
      "",
      "Next:",
      `  npx lowrank train --method qlora --model ${shellQuote(out)} --data rows.jsonl --out runs/first`,
    ].join("\n"),
  );
  return exitCodes.done;
});

function percentOf(a: number, b: number): string {
  return b > 0 ? `${((100 * a) / b).toFixed(1)}%` : "0%";
}
