// `lowrank eval`: measures a model on rows and prints the scores; with --predictions, also what it wrote. Not here:
// how anything is measured (measure/measure.ts).

import { open } from "node:fs/promises";
import { type EvalOptions, evalDefinition } from "../config/eval-options.ts";
import { joinRanks } from "../distributed/join.node.ts";
import { writeAtomically } from "../formats/atomic-file.ts";
import type { TextPrediction } from "../measure/evaluate-text.ts";
import { type Measurement, measure } from "../measure/measure.ts";
import { backendOfRank } from "../train/ranks.ts";
import { UserError } from "../util/errors.ts";
import { defineCommand } from "./command.ts";
import { formatDuration, formatTable } from "./format.ts";
import { withModel } from "./open-for.ts";
import { onRanks } from "./ranks.ts";
import { type ExitCode, exitCodes, type Terminal } from "./terminal.ts";

export const command = defineCommand(evalDefinition, (options, terminal) =>
  onRanks(options, terminal, (own) => evaluateAndTell(options, own)),
);

async function evaluateAndTell(options: EvalOptions, terminal: Terminal): Promise<ExitCode> {
  const startedAt = performance.now();
  const collective = await joinRanks(options);
  const writes = options.predictions !== undefined && collective.rank === 0;
  if (writes) await refuseUnwritable(options.predictions!);
  const device = await backendOfRank(collective, options, terminal.note, terminal.warn);
  return withModel({ ...options, ...device }, terminal, async (model, backend) => {
    terminal.note(`model: ${model.config.modelType} on ${backend.description}`);
    const measurement = await measure(
      model,
      { ...options, wantsPredictions: options.predictions !== undefined },
      { warn: terminal.warn, progress: tellProgress(terminal), collective },
    ).finally(() => terminal.status(""));
    if (writes) await writePredictions(options.predictions!, measurement.predictions ?? []);
    tell(measurement, performance.now() - startedAt, terminal);
    return exitCodes.done;
  });
}

function tell({ rows, tokens, scores, predictions }: Measurement, elapsedMs: number, terminal: Terminal) {
  const generated = predictions && {
    prompts: predictions.length,
    generatedTokens: predictions.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
  };
  if (terminal.json) {
    terminal.document({ ...scores, rows, tokens, ...generated, elapsedMs: Math.round(elapsedMs) });
    return;
  }
  const lines = Object.entries(scores).map(([name, score]) => [name, score.toFixed(4)]);
  terminal.print(formatTable(["metric", "score"], lines));
  const answers = generated ? `, ${generated.prompts} prompts answered` : "";
  terminal.print(`\n${rows} rows, ${tokens} target tokens${answers}; ${formatDuration(elapsedMs)}`);
}

/** A live line where a person watches; elsewhere a line at each tenth. */
function tellProgress(terminal: Terminal) {
  let told = "";
  return (what: "loss" | "answers", done: number, total: number) => {
    const line = `${what === "loss" ? "loss of rows" : "answers"}: ${done}/${total}`;
    if (terminal.live) return terminal.status(line);
    const tenth = `${what} ${Math.floor((10 * done) / total)}`;
    if (tenth !== told && total >= 100) terminal.note(line);
    told = tenth;
  };
}

/** Finds out before hours of work, not after. An existing file is left as it is. */
async function refuseUnwritable(path: string): Promise<void> {
  try {
    await (await open(path, "a")).close();
  } catch (error) {
    throw new UserError(`--predictions ${path}: cannot be written: ${(error as Error).message}`);
  }
}

/** One JSON object a line for each prompt that was scored; `rows` where several rows share the prompt. */
async function writePredictions(path: string, predictions: readonly TextPrediction[]): Promise<void> {
  const encoder = new TextEncoder();
  await writeAtomically(path, async (append) => {
    for (const { text, prediction, references, rows, finishReason } of predictions) {
      const numbers = rows.map(({ line }) => line);
      const shared = numbers.length > 1 ? { rows: numbers } : {};
      const line = { prompt: text, prediction, references, row: numbers[0], ...shared, finishReason };
      await append(encoder.encode(`${JSON.stringify(line)}\n`));
    }
  });
}
