// `lowrank quantize`: writes the 4-bit folder and prints what quantisation did to each layer. The work is
// publish/quantize-folder.ts's.

import { quantizeDefinition } from "../config/quantize-options.ts";
import { quantizeWith } from "../library/publish.ts";
import type { FolderReport, LayerReport } from "../publish/quantize-folder.ts";
import { combineReports } from "../quant/combine-reports.ts";
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
  for (const note of report.notes) terminal.note(note);
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
  const rows = togetherByLayer(report.layers).map(({ name, values, report: of }) => row(name, values, of));
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

/** The report's lines: experts of one layer are one, for a mixture has thousands of them. */
function togetherByLayer(layers: FolderReport["layers"]) {
  const lines = new Map<string, LayerReport[]>();
  for (const layer of layers) {
    const name = layer.name.replace(/\.weight$/, "").replace(/\.experts\.\d+\./, ".experts.*.");
    const line = lines.get(name);
    if (line) line.push(layer);
    else lines.set(name, [layer]);
  }
  return [...lines].map(([name, members]) => {
    const [only] = members as [LayerReport];
    const values = members.reduce((sum, layer) => sum + layer.values, 0);
    const all = combineReports(members.map((layer) => ({ report: layer, values: layer.values })));
    return { name, values, report: members.length === 1 ? only : (all ?? only) };
  });
}

function percentOf(a: number, b: number): string {
  return b > 0 ? `${((100 * a) / b).toFixed(1)}%` : "0%";
}
