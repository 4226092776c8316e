// `lowrank check`: shows what a run would train on, token by token, and what speaks against it. Exit code 1 when the run
// would be refused. Not here: the checks themselves (data/preflight.ts, train/check.ts).

import { checkGgufDefinition } from "../config/check-gguf-options.ts";
import { checkDefinition } from "../config/check-options.ts";
import type { PreflightReport, ShownRow } from "../data/preflight.ts";
import { locateModel } from "../formats/locate-model.ts";
import { checkGgufWith } from "../library/publish.ts";
import { capacityText } from "../train/capacity.ts";
import type { CheckReport, LearningRateSweep } from "../train/check-report.ts";
import type { TrainEvent } from "../train/events.ts";
import { type CliCommand, defineCommand } from "./command.ts";
import { formatBytes, formatCount } from "./format.ts";
import { receiptLines } from "./gguf-receipt-lines.ts";
import { exitCodes, type Terminal } from "./terminal.ts";

const checkRow = defineCommand(checkDefinition, async (options, terminal) => {
  const { checkRun } = await import("../train/check.ts");
  const tell = (event: TrainEvent) => {
    if (event.type === "warning") terminal.warn(event.message);
    if (event.type === "info") terminal.note(event.message);
  };
  const report = await checkRun(options, tell, options.findLearningRate ? options.findSteps : undefined);
  if (terminal.json) terminal.document(report);
  else {
    tellReport(report, terminal);
    if (report.learningRate) await tellLearningRate(report.learningRate, terminal);
  }
  return report.refused.length > 0 ? exitCodes.userError : exitCodes.done;
});

const checkFile = defineCommand(checkGgufDefinition, async (options, terminal) => {
  const { file, model } = options;
  const receipt = await checkGgufWith({ ...options, model: model && locateModel(model) });
  if (terminal.json) terminal.document(receipt);
  else {
    terminal.print(file);
    for (const line of receiptLines(receipt)) terminal.print(line);
  }
  return receipt.passed ? exitCodes.done : exitCodes.userError;
});

/** Of rows of data and a run; or of a GGUF file, where one is named first. */
export const command: CliCommand = {
  definition: checkDefinition,
  main(argv) {
    const at = argv.findIndex((word, i) => /\.gguf$/i.test(word) && standsAlone(word, argv[i - 1]));
    if (at === -1) return checkRow.main(argv);
    const before = argv[at - 1] === "--file" ? [] : ["--file"];
    return checkFile.main([...argv.slice(0, at), ...before, ...argv.slice(at)]);
  },
};

/** Whether a word is what is checked, and not the value of the flag before it. */
function standsAlone(word: string, before: string | undefined): boolean {
  if (word.startsWith("-")) return false;
  return before === undefined || !before.startsWith("-") || before.includes("=") || alone.has(before);
}

const alone = new Set(["--json", "--no-json", "--file"]);

async function tellLearningRate(
  { suggestion, lowest, stopped, curve }: LearningRateSweep,
  terminal: Terminal,
): Promise<void> {
  const { ratePlot } = await import("./plot.ts");
  terminal.print("");
  const plot = ratePlot(curve, terminal.columns);
  if (plot) terminal.print(plot);
  const end = stopped ? `; the loss went up for good at ${curve.at(-1)!.learningRate.toPrecision(2)}` : "";
  terminal.print(
    `${terminal.style("bold", `--learning-rate ${suggestion}`)}: there the loss falls most steeply. It is lowest at ${lowest}${end}. A sweep of ${curve.length} steps; a whole run may bear less.`,
  );
}

function tellReport(report: CheckReport, terminal: Terminal): void {
  const bold = (text: string) => terminal.style("bold", text);
  terminal.print(
    `${bold(report.file)}: ${report.rows} rows (${report.format}, rendered ${report.rendering}, training on ${report.trainOn})`,
  );
  terminal.print(
    `${bold("Rows as they are trained")}: ${terminal.style("green", "targets")}, ${terminal.style("dim", "context")}`,
  );
  for (const row of report.shown) terminal.print(shownRow(row, terminal));
  terminal.print(`\n${bold("Lengths in tokens")}`);
  for (const line of histogramLines(report)) terminal.print(line);
  terminal.print("");
  for (const line of preflightLines(report)) terminal.print(line);
  const { atPeak } = report.memory.prediction.ledger;
  const parts = Object.entries(atPeak).filter(([, bytes]) => bytes > 0);
  terminal.print(
    `  memory by category: ${parts.map(([name, bytes]) => `${name} ${formatBytes(bytes)}`).join(", ")}`,
  );
  terminal.print("");
  for (const { level, code, message, rows } of report.findings) {
    const stops = report.refused.some((one) => one.code === code);
    const label = stops
      ? terminal.style("red", "refused")
      : terminal.style("yellow", level === "refuse" ? "allowed" : "warning");
    terminal.print(
      `${label} ${code}: ${message}.${rows.length > 0 ? ` For example: ${rows.join(", ")}.` : ""}`,
    );
  }
  if (report.refused.length > 0) {
    const codes = report.refused.map(({ code }) => code).join(",");
    terminal.print(`train would refuse this run; --allow ${codes} runs it in spite of that.`);
  } else if (report.findings.length === 0)
    terminal.print(terminal.style("green", "Nothing speaks against this run."));
}

/** The figures of a preflight in a few lines; train prints them before its first step. */
export function preflightLines(report: CheckReport): string[] {
  const { lengths, memory, overlap } = report;
  const count = (number: number, what: string) => `${number} ${what}`;
  const limit = memory.limit ? ` of ${formatBytes(memory.limit.bytes)} (${memory.limit.source})` : "";
  const needed = memory.neededBytes;
  const process = memory.rssBytes === undefined ? "" : `, ${formatBytes(memory.rssBytes)} of the process`;
  return [
    `preflight: ${report.samples} samples, ${formatCount(report.targetTokens)} target tokens of ${formatCount(report.tokens)}; lengths ${lengths.median} in the middle, ${lengths.p95} at 95%, longest ${lengths.longest}`,
    `  ${[
      count(report.dropped, "rows dropped"),
      count(report.cut, "cut"),
      count(report.withoutTargets, "without targets"),
      count(report.withoutEos, "without an end"),
      count(report.promptMismatches, "with another prompt than generation's"),
      ...(report.unknownText > 0 ? [count(report.unknownText, "with text the tokenizer does not know")] : []),
      count(report.duplicates, "duplicates"),
      ...(report.nearDuplicates ? [count(report.nearDuplicates, "near duplicates")] : []),
      ...(overlap === undefined ? [] : [count(overlap, "evaluation samples trained on")]),
      ...(report.nearOverlap ? [count(report.nearOverlap, "nearly trained on")] : []),
    ].join(", ")}`,
    ...(report.mix.length > 1 ? report.mix.map(mixLine) : []),
    `  memory at the peak: ${formatBytes(needed)} on the device${process}${limit}`,
    ...(report.capacity ? [`  capacity: ${capacityText(report.capacity)} [${report.capacity.source}]`] : []),
  ];
}

/** What a source gives to an epoch. */
function mixLine(part: PreflightReport["mix"][number]): string {
  const { data, samples, tokens, targetTokens, weight, share, tokenShare, targetShare, passes } = part;
  const percent = (of: number) => `${(100 * of).toFixed(1)}%`;
  const weighted = weight === undefined ? "" : `, weight ${weight}, each ${passes.toFixed(2)} times an epoch`;
  return `  ${data}: ${samples} samples, ${formatCount(targetTokens)} target tokens of ${formatCount(tokens)}; ${percent(share)} of an epoch's samples, ${percent(tokenShare)} of its tokens, ${percent(targetShare)} of its targets${weighted}`;
}

/** Tokens in colour; without colour, targets stand in double brackets. */
function shownRow({ row, tokens, more }: ShownRow, terminal: Terminal): string {
  const colored = terminal.style("green", "x") !== "x";
  let text = "";
  for (let i = 0; i < tokens.length; ) {
    let end = i + 1;
    while (end < tokens.length && tokens[end]!.target === tokens[i]!.target) end++;
    const { target } = tokens[i]!;
    const parts = tokens.slice(i, end).map((token) => visible(token.text));
    if (!colored) text += target ? `[[${parts.join("|")}]]` : parts.join("|");
    else text += parts.map((part) => terminal.style(target ? "green" : "dim", part)).join("|");
    i = end;
  }
  return `  ${terminal.style("bold", row)}: ${text}${more > 0 ? ` ... ${more} more tokens` : ""}`;
}

/** Rows come from files that anyone may have written: nothing of them may steer the terminal. */
function visible(text: string): string {
  return text
    .replace(/\n/g, "\\n")
    .replace(/\r/g, "\\r")
    .replace(/\t/g, "\\t")
    .replace(/[\p{Cc}\p{Cf}]/gu, (found) => `\\u{${found.codePointAt(0)!.toString(16)}}`);
}

const barWidth = 40;

function histogramLines({ histogram }: CheckReport): string[] {
  const most = Math.max(1, ...histogram.map(({ count }) => count));
  return histogram.map(({ upTo, count }) => {
    const bar = "█".repeat(Math.max(count > 0 ? 1 : 0, Math.round((count / most) * barWidth)));
    return `  <= ${String(upTo).padStart(6)}  ${String(count).padStart(7)}  ${bar}`;
  });
}
