// `lowrank train`: starts the run on its own thread, tells its events, and ends with where things lie and what to do
// next. First Ctrl-C: finish the step and save; second: stop at once. Not here: training (train/run.ts).

import { basename, dirname, resolve } from "node:path";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { sourcesOf } from "../data/data-source.ts";
import type {
  DataEvent,
  EvalEvent,
  Forgotten,
  ModelEvent,
  TrainEvent,
  TrainSummary,
} from "../train/events.ts";
import {
  type ErrorLine,
  progressLine,
  progressProtocol,
  type ResultLine,
  type StartLine,
} from "../train/progress-lines.ts";
import { lowrankVersion } from "../train/run-record.ts";
import { startTraining, type TrainingRun } from "../train/worker.ts";
import { preflightLines } from "./check.ts";
import { defineCommand } from "./command.ts";
import { formatBytes, formatCount, formatDuration, formatLoss, formatRate, shellQuote } from "./format.ts";
import type { Point } from "./plot.ts";
import { type Progress, trackProgress } from "./progress.ts";
import { onRanks } from "./ranks.ts";
import { onStop } from "./signals.ts";
import { describeError, type ExitCode, exitCodes, exitNow, type Terminal } from "./terminal.ts";
import type { OpenPage } from "./ui.ts";

export const command = defineCommand(trainDefinition, (options, terminal) =>
  onRanks(options, terminal, (own) => trainAndTell(options, own)),
);

/** Trains, telling all of it. `engine` as in startTraining. */
export async function trainAndTell(
  options: TrainOptions,
  terminal: Terminal,
  engine?: string,
): Promise<ExitCode> {
  const losses: Point[] = [];
  const tell = eventTeller(terminal, losses);
  const hear = (event: TrainEvent) => {
    tell(event);
    const line = terminal.json ? progressLine(event) : undefined;
    if (line) terminal.document(line);
  };
  if (terminal.json) terminal.document(startLine(options.out));
  const run = startTraining(options, hear, engine, {
    onRequest: (request) => terminal.note(requestText[request]),
  });
  const stopListening = interruptOnSignals(run, terminal);
  const page = options.ui ? pageBeside(options, terminal) : undefined;
  const ended = run.finished.finally(async () => {
    stopListening();
    terminal.status("");
    await (await page)?.close();
  });
  const summary = await ended.catch((error: unknown) => {
    if (terminal.json) terminal.document(errorLine(error));
    throw error;
  });
  if (terminal.json) terminal.document({ type: "result", ...summary } satisfies ResultLine);
  else await tellSummary(options, summary, losses, terminal);
  return summary.status === "interrupted" ? exitCodes.interrupted : exitCodes.done;
}

function startLine(out: string): StartLine {
  const about = { protocol: progressProtocol, lowrank: lowrankVersion(), command: "train" } as const;
  return { type: "start", ...about, out, pid: process.pid };
}

function errorLine(error: unknown): ErrorLine {
  return { type: "error", ...describeError(error) };
}

/** That the page cannot be opened is no reason not to train. */
async function pageBeside(options: TrainOptions, terminal: Terminal): Promise<OpenPage | undefined> {
  const { openPage } = await import("./ui.ts");
  const out = resolve(options.out);
  try {
    const page = await openPage(
      {
        ...{ folder: dirname(out), beside: basename(out), host: "127.0.0.1", port: options.uiPort },
        ...{ apiKey: undefined, read: undefined },
      },
      terminal,
    );
    terminal.note(`page: ${page.address}`);
    return page;
  } catch (error) {
    terminal.warn(`no page: ${describeError(error).message}`);
    return undefined;
  }
}

function interruptOnSignals(run: TrainingRun, terminal: Terminal): () => void {
  const first = () => {
    run.interrupt();
    terminal.note("Stopping: finishing this step and saving. Once more to stop at once, unsaved.");
  };
  return onStop(first, () => exitNow(exitCodes.interrupted));
}

const requestText = {
  pause: "Asked to pause: finishing this step and saving.",
  end: "Asked to end: this step is the run's last.",
} as const;

/** Tells each event on stderr, and collects the losses for the plot. */
export function eventTeller(terminal: Terminal, losses: Point[]): (event: TrainEvent) => void {
  let progress: Progress | undefined;
  let rolloutIsDue = (_step: number) => true;
  return (event) => {
    switch (event.type) {
      case "info":
        return terminal.note(event.message);
      case "warning":
        return terminal.warn(event.message);
      case "model":
        return terminal.note(modelLine(event));
      case "data":
        progress = trackProgress(terminal, event.firstStep, event.totalSteps);
        rolloutIsDue = everyTenth(event);
        return terminal.note(dataLine(event));
      case "preflight":
        for (const line of preflightLines(event.report)) terminal.note(line);
        for (const { code, level, message } of event.report.findings) {
          if (level === "warn") terminal.warn(`${code}: ${message}`);
        }
        return;
      case "train":
        losses.push({ step: event.step, loss: event.loss });
        return progress?.update(event);
      case "eval":
        terminal.note(evaluationLine(event));
        if (event.router) terminal.note(routerLine(event.router));
        return;
      case "forget":
        return terminal.note(`step ${event.step}: of --forget's rows, ${forgottenText(event)}`);
      case "rollout":
        if (rolloutIsDue(event.step)) for (const line of rolloutLines(event)) terminal.note(line);
        return;
      case "sample":
        return terminal.note(
          `step ${event.step}: ${JSON.stringify(event.prompt)} -> ${JSON.stringify(event.text)}`,
        );
      case "checkpoint":
        return terminal.note(`step ${event.step}: saved ${event.path}`);
      case "done":
        return progress?.end();
    }
  };
}

/** What the model wrote is shown about ten times in a run. */
function everyTenth({ firstStep, totalSteps }: DataEvent): (step: number) => boolean {
  const stride = Math.max(1, Math.ceil((totalSteps - firstStep + 1) / 10));
  let next = firstStep;
  return (step) => {
    if (step < next) return false;
    next = step + stride;
    return true;
  };
}

/** The best and the worst of a prompt's completions. */
function rolloutLines({
  step,
  row,
  prompt,
  completions,
}: Extract<TrainEvent, { type: "rollout" }>): string[] {
  const shown = (text: string) => JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}...` : text);
  const judged = ({ text, reward }: (typeof completions)[number]) =>
    `  reward ${reward === null ? "none" : Number(reward.toPrecision(4))}: ${shown(text)}`;
  const worst = completions.length > 1 ? [judged(completions.at(-1)!)] : [];
  return [`step ${step}: ${row}, ${shown(prompt.slice(-200))}`, judged(completions[0]!), ...worst];
}

function evaluationLine(event: EvalEvent): string {
  const { step, loss, perplexity, best, averagedCheckpoints, lossStandardError: error } = event;
  const scores = scoresOf(event);
  const likely = perplexity === undefined ? "" : `, perplexity ${perplexity.toFixed(2)}`;
  const others = Object.entries(scores).map(([name, value]) => `, ${name} ${Number(value).toFixed(4)}`);
  const of = averagedCheckpoints === undefined ? "" : ` of the mean of ${averagedCheckpoints} checkpoints`;
  return `step ${step}: evaluation loss${of} ${formatLoss(loss)}${error === undefined ? "" : ` ± ${formatLoss(error)}`}${likely}${others.join("")}${best ? " (the best so far)" : ""}`;
}

/** Of answers, and of preferences. */
function scoresOf(event: EvalEvent): Readonly<Record<string, number>> {
  const { type, step, loss, lossStandardError, perplexity, best, averagedCheckpoints, router, ...scores } =
    event;
  return scores;
}

/** "perplexity 7.10; 12 of 20 prompts answered right, 3 of them newly wrong": what is left of what the model could. */
function forgottenText({ perplexity, prompts, right, lost, gained }: Forgotten): string {
  const answers =
    prompts === undefined
      ? ""
      : `; ${right} of ${prompts} prompts answered right${lost === undefined ? "" : `, ${lost} lost and ${gained} gained since before training`}`;
  return `perplexity ${perplexity.toFixed(2)}${answers}`;
}

/** How evenly a mixture's routers spread the rows' tokens, and where they do it worst. */
function routerLine({ layers, entropy, busiest, idle }: NonNullable<EvalEvent["router"]>): string {
  const worst = layers.find((layer) => layer.busiest === busiest)!;
  return (
    `router balance: ${(100 * entropy).toFixed(1)}% of even (entropy), the busiest expert has ` +
    `${busiest.toFixed(2)} times its even share (layer ${worst.layer}), ${idle} experts idle`
  );
}

function modelLine(event: ModelEvent): string {
  const part = (100 * event.trainableParameters) / event.totalParameters;
  return (
    `model: ${event.architecture}, ${formatCount(event.totalParameters)} parameters, ` +
    `${formatCount(event.trainableParameters)} of them train (${part.toPrecision(3)}%); ` +
    `${formatBytes(event.liveBytes)} on ${event.device}`
  );
}

function dataLine(event: DataEvent): string {
  const held = event.evalRows > 0 ? `, ${event.evalRows} rows for evaluation` : "";
  const from = event.firstStep > 1 ? `, continuing at step ${event.firstStep}` : "";
  return (
    `data: ${event.rows} rows, ${formatCount(event.tokens)} tokens, ` +
    `${formatCount(event.targetTokens)} of them targets${held}; ${event.totalSteps} steps${from}`
  );
}

async function tellSummary(
  options: TrainOptions,
  summary: TrainSummary,
  losses: readonly Point[],
  terminal: Terminal,
): Promise<void> {
  const { lossPlot } = await import("./plot.ts");
  const plot = lossPlot(losses, terminal.columns);
  if (plot) terminal.print(`${plot}\n`);
  for (const line of summaryLines(options, summary)) terminal.print(line);
}

/** The last words of a run: figures, files, next commands. */
export function summaryLines(options: TrainOptions, summary: TrainSummary): string[] {
  const { out } = summary;
  const course = [summary.firstLoss, summary.finalLoss].filter((loss) => loss !== undefined).map(formatLoss);
  const figures = [
    `${summary.steps} steps in ${formatDuration(summary.elapsedMs)}`,
    ...(course.length > 0 ? [`loss ${course.join(" -> ")}`] : []),
    ...(summary.evalLoss === undefined
      ? []
      : [
          `evaluation loss ${formatLoss(summary.evalLoss)}${summary.perplexity === undefined ? "" : ` (perplexity ${summary.perplexity.toFixed(2)})`}`,
        ]),
    `${formatRate(summary.tokensPerSecond)} tokens/s`,
  ];
  const { best, forgetting, averagedSteps } = summary;
  const result = [
    ...(best
      ? [`The result is step ${best.step}'s: ${best.metric} ${Number(best.value.toPrecision(4))}.`]
      : []),
    ...(summary.stoppedEarly
      ? [
          summary.toldToEnd
            ? `Ended at step ${summary.steps}, as it was told to.`
            : `Stopped early: --patience ${options.patience} evaluations were no better.`,
        ]
      : []),
    ...(averagedSteps ? [`The result is the mean of steps ${averagedSteps.join(", ")}.`] : []),
    ...(forgetting?.after
      ? [
          `Of --forget's rows: perplexity ${forgetting.before.perplexity.toFixed(2)} before; ${forgottenText(forgetting.after)}.`,
        ]
      : []),
  ];
  const memory = `Peak memory: ${formatBytes(summary.peakBytes)} on ${summary.device}, ${formatBytes(summary.peakRssBytes)} of the process.`;
  if (summary.status === "interrupted") {
    const where = summary.checkpoint ?? `${out}/checkpoints`;
    return [
      `Interrupted: ${figures.join(", ")}.`,
      memory,
      `Saved in ${where}. The same command with --resume continues from there.`,
    ];
  }
  const full = options.method === "full";
  const asModel = full
    ? `--model ${shellQuote(out)}`
    : `--model ${shellQuote(options.model)} --adapter ${shellQuote(out)}`;
  const evalData = shellQuote(sourcesOf(options.evalData ?? options.data)[0]!.path);
  return [
    `Done: ${figures.join(", ")}.`,
    ...result,
    memory,
    "",
    full ? `  model    ${out}/` : `  adapter  ${out}/adapter_model.safetensors (and adapter_config.json)`,
    `  metrics  ${out}/metrics.jsonl`,
    `  record   ${out}/run.json`,
    "",
    "Next:",
    `  npx lowrank generate ${asModel} --prompt ${shellQuote(options.sample ?? "your prompt")}`,
    // eval measures answers, not which of two is preferred.
    ...(options.objective === "sft"
      ? [`  npx lowrank eval ${asModel} --data ${evalData} --metrics perplexity`]
      : []),
  ];
}
