// `lowrank compare`: runs a comparison, and prints its table. Ctrl-C saves the run that is going on; the same command
// continues. Not here: the runs, scores and files (compare/).

import type { Comparison } from "../compare/compare.ts";
import type { Interruption } from "../compare/train-one.ts";
import { type CompareOptions, compareDefinition } from "../config/compare-options.ts";
import type { TrainEvent } from "../train/events.ts";
import { defineCommand } from "./command.ts";
import { formatTable } from "./format.ts";
import { type Progress, trackProgress } from "./progress.ts";
import { onRanks } from "./ranks.ts";
import { onStop } from "./signals.ts";
import { type ExitCode, exitCodes, exitNow, type Terminal } from "./terminal.ts";

export const command = defineCommand(compareDefinition, (options, terminal) =>
  onRanks(options, terminal, (own) => compareAndTell(options, own)),
);

async function compareAndTell(options: CompareOptions, terminal: Terminal): Promise<ExitCode> {
  const { compareWith } = await import("../library/estimate.ts");
  const interruption: Interruption = { requested: false };
  const first = () => {
    interruption.requested = true;
    interruption.current?.interrupt();
    terminal.note("Stopping: finishing this step and saving. Once more to stop at once.");
  };
  const stopListening = onStop(first, () => exitNow(exitCodes.interrupted));
  try {
    const { comparison, files } = await compareWith(options, interruption, {
      tell: (message) => terminal.note(message),
      event: eventTeller(terminal),
    });
    if (terminal.json) terminal.document(comparison);
    else await tell(comparison, files, terminal);
    return comparison.status === "interrupted" ? exitCodes.interrupted : exitCodes.done;
  } finally {
    terminal.status("");
    stopListening();
  }
}

/** Of each run only its progress and its warnings; the comparison says the rest. */
function eventTeller(terminal: Terminal): (event: TrainEvent) => void {
  let progress: Progress | undefined;
  const told = new Set<string>();
  const warn = (message: string) => {
    if (!told.has(message)) terminal.warn(message);
    told.add(message);
  };
  return (event) => {
    if (event.type === "data") progress = trackProgress(terminal, event.firstStep, event.totalSteps);
    else if (event.type === "train" && terminal.live) progress?.update(event);
    else if (event.type === "done") progress?.end();
    else if (event.type === "warning") warn(event.message);
    else if (event.type === "preflight") {
      for (const { level, code, message } of event.report.findings)
        if (level === "warn") warn(`${code}: ${message}`);
    }
  };
}

async function tell(comparison: Comparison, files: readonly string[], terminal: Terminal): Promise<void> {
  const { edgeNote, errorsText, keepText, tableOf } = await import("../compare/report.ts");
  const { heading, cells } = tableOf(comparison);
  terminal.print(formatTable(heading, cells));
  terminal.print(errorsText(comparison));
  if (comparison.rows.some(({ atEdge }) => atEdge)) terminal.print(edgeNote);
  if (comparison.keep) terminal.print(`\n${keepText(comparison.keep)}`);
  if (comparison.status === "interrupted")
    terminal.print("\nInterrupted: the same command continues where it stopped.");
  terminal.print(`\n${files.map((file) => `  ${file}`).join("\n")}`);
}
