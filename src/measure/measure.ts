// Measures an open model on the rows of a file: perplexity from losses (evaluate.ts), the other metrics from greedy
// answers (evaluate-text.ts). What `eval` prints and `compare` tabulates. Not here: opening models, printing.

import type { EvalOptions } from "../config/eval-options.ts";
import { sampleCache } from "../data/cache-folder.node.ts";
import { type DataChoice, namedSources, renamed } from "../data/data-source.ts";
import { loadDataset, refuseWithoutTargets } from "../data/dataset.node.ts";
import { warningsOf } from "../data/dataset-report.ts";
import { toExamples } from "../data/index.ts";
import { openDataFile } from "../data/read-rows.node.ts";
import { type Rendering, type Sample, targetTokensOf } from "../data/render.ts";
import { type Example, type Row, type RowsWanted, rowLabel } from "../data/row.ts";
import type { Collective } from "../distributed/collective.ts";
import type { TextMetricName } from "../metrics/index.ts";
import { perplexityOf } from "../metrics/perplexity.ts";
import type { OpenedModel } from "../models/open-model.ts";
import { evaluate } from "../session/evaluate.ts";
import type { ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import {
  groupPrompts,
  predictTexts,
  scoreTexts,
  type TextPrediction,
  type TextPrompt,
} from "./evaluate-text.ts";

export type MeasureOptions = Pick<
  EvalOptions,
  "data" | "metrics" | "maxNewTokens" | "trainOn" | "overLength" | "batchSize" | "sequenceLength"
> & {
  /** Generate answers even when no metric asks for them. */
  readonly wantsPredictions?: boolean;
};

export interface Measurement {
  /** Rows measured, and their target tokens. */
  readonly rows: number;
  readonly tokens: number;
  /** By name: perplexity, exactMatch, rouge1, ... */
  readonly scores: Readonly<Record<string, number>>;
  /** Of each row: summed loss in nats and target tokens; absent when perplexity was not asked for. */
  readonly losses?: readonly { readonly lossSum: number; readonly targetTokens: number }[];
  /** One a prompt, in the order of the data; absent when nothing was generated. */
  readonly predictions?: readonly TextPrediction[];
}

export interface MeasureHooks {
  readonly warn?: (message: string) => void;
  /** The ranks that share the work; this process alone when absent. All get the whole measurement. */
  readonly collective?: Collective;
  readonly progress?: (what: "loss" | "answers", done: number, total: number) => void;
}

/** UserError when the data cannot be measured with these metrics. */
export async function measure(
  model: OpenedModel,
  options: MeasureOptions,
  hooks: MeasureHooks = {},
): Promise<Measurement> {
  const { tokenizer, template } = model.text;
  const rendering = { tokenizer, template, trainOn: options.trainOn };
  const loaded = await loadDataset(options.data, {
    ...rendering,
    sequenceLength: options.sequenceLength,
    overLength: options.overLength,
    ...sampleCache(hooks.warn),
  });
  const { report } = loaded;
  // Each row has an answer and a loss in the result, so all are in memory.
  const samples = [...loaded.samples];
  refuseWithoutTargets(report);
  for (const warning of warningsOf(report)) hooks.warn?.(warning);
  const textNames = options.metrics.filter((name): name is TextMetricName => name !== "perplexity");
  const scores: Record<string, number> = {};
  let losses: Measurement["losses"];
  if (options.metrics.includes("perplexity")) {
    const measured = await measureLoss(model, samples, options, hooks);
    Object.assign(scores, measured.scores);
    losses = measured.losses;
  }
  let predictions: TextPrediction[] | undefined;
  if (textNames.length > 0 || options.wantsPredictions) {
    predictions = await answer(model, samples, rendering, options, hooks);
    Object.assign(scores, scoreTexts(textNames, predictions));
  }
  return { rows: samples.length, tokens: report.targetTokens, scores, losses, predictions };
}

async function measureLoss(
  model: OpenedModel,
  samples: readonly Sample[],
  options: MeasureOptions,
  hooks: MeasureHooks,
): Promise<{ scores: Record<string, number>; losses: NonNullable<Measurement["losses"]> }> {
  const evaluation = await evaluate(model.loaded.decoder, samples, {
    tokensPerPass: options.batchSize * options.sequenceLength,
    collective: hooks.collective,
    onProgress: (done) => hooks.progress?.("loss", done, samples.length),
  });
  const { perplexity, bytePerplexity, loss } = perplexityOf({
    lossSum: evaluation.loss * evaluation.targetTokens,
    targetTokens: evaluation.targetTokens,
    targetBytes: countTargetBytes(model.tokenizer, samples),
  });
  const scores = { perplexity, ...(bytePerplexity === undefined ? {} : { bytePerplexity }), loss };
  const losses = samples.map((sample, i) => ({
    lossSum: evaluation.sampleLosses[i]!,
    targetTokens: targetTokensOf(sample),
  }));
  return { scores, losses };
}

/** UTF-8 bytes of the text that the target tokens spell; special tokens spell none. */
function countTargetBytes(tokenizer: Tokenizer, samples: readonly Sample[]): number {
  const encoder = new TextEncoder();
  let bytes = 0;
  for (const { ids, targetMask } of samples) {
    const targets = [...ids].filter((_, i) => targetMask[i] === 1);
    bytes += encoder.encode(tokenizer.decode(targets, { skipSpecialTokens: true })).byteLength;
  }
  return bytes;
}

async function answer(
  model: OpenedModel,
  samples: readonly Sample[],
  rendering: Rendering,
  options: MeasureOptions,
  hooks: MeasureHooks,
): Promise<TextPrediction[]> {
  const prompts = await promptsOf(options.data, samples, rendering, hooks.warn);
  refuseWithoutPrompts(options.data, prompts);
  warnOfLength(prompts, options.maxNewTokens, model.config.maxPositions, hooks.warn);
  return predictTexts(model.loaded.decoder, model.tokenizer, prompts, {
    maxNewTokens: options.maxNewTokens,
    collective: hooks.collective,
    onProgress: (done, total) => hooks.progress?.("answers", done, total),
  });
}

/**
 * The prompts of the rows of data that these samples were made of: without those that were dropped for their length, or
 * held back. Of preferences the chosen answers are the references.
 */
export async function promptsOf(
  data: DataChoice,
  samples: Iterable<Sample>,
  rendering: Rendering,
  warn?: (message: string) => void,
  wanted?: RowsWanted,
  templateOf?: (name: string) => Promise<ChatTemplate | undefined>,
): Promise<TextPrompt[]> {
  const kept = new Set<string>();
  for (const { rowId } of samples) kept.add(rowLabel(rowId));
  const prompts: TextPrompt[] = [];
  let withoutAnswer = 0;
  for (const { path, wholeName, columns, chatTemplate } of namedSources(data)) {
    const rows: Row[] = [];
    for await (const piece of (await openDataFile(path, wholeName)).rows())
      for (const row of piece)
        if (kept.has(rowLabel(row.id))) rows.push(columns ? renamed(row, columns) : row);
    if (rows.length === 0) continue;
    const template = chatTemplate === undefined ? rendering.template : await templateOf?.(chatTemplate);
    const grouped = groupPrompts(
      toExamples(rows, wanted).rows.filter(({ example }) => !isBad(example)),
      { ...rendering, template },
    );
    prompts.push(...grouped.prompts);
    withoutAnswer += grouped.withoutAnswer;
  }
  if (withoutAnswer > 0 && prompts.length > 0)
    warn?.(`${withoutAnswer} rows have no prompt to answer and were left out of the text metrics.`);
  return prompts;
}

/** An answer rated bad is no reference. */
function isBad(example: Example): boolean {
  return example.kind === "alternatives" && example.label === false;
}

export function refuseWithoutPrompts(file: string, prompts: readonly TextPrompt[]): void {
  if (prompts.length > 0) return;
  throw new UserError(
    `${file}: no row has a prompt to answer, so only perplexity can be measured; other metrics need rows such as {"prompt", "completion"} or {"messages"}`,
  );
}

/** Says where answers go beyond what the model was trained for. */
export function warnOfLength(
  prompts: readonly TextPrompt[],
  maxNewTokens: number,
  maxPositions: number,
  warn?: (message: string) => void,
): void {
  const long = prompts.filter(({ ids }) => ids.length + maxNewTokens > maxPositions).length;
  if (long === 0) return;
  warn?.(
    `${long} prompts with ${maxNewTokens} new tokens go beyond the ${maxPositions} positions the model was trained for.`,
  );
}
