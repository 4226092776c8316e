// A run's samples: all its sources rendered, without copies where that is asked for, a part set aside for evaluation, and
// what an epoch draws of each source. Messages about the data are emitted here, and data that teach nothing are refused.

import type { TrainOptions } from "../config/train-options.ts";
import { sampleCache } from "../data/cache-folder.node.ts";
import { dataName, namedSources } from "../data/data-source.ts";
import { type DatasetReport, warningsOf } from "../data/dataset-report.ts";
import { DistinctHashes, sampleHash } from "../data/distinct-samples.ts";
import { joinedReport, type LoadedData, loadSources } from "../data/load-sources.node.ts";
import { MixedEpochs } from "../data/mix.ts";
import type { MixedSource } from "../data/mix-report.ts";
import { nearDuplicates } from "../data/near-duplicates.ts";
import { loadPrompts, type PromptRow } from "../data/prompts.node.ts";
import type { Sample } from "../data/render.ts";
import { ChosenSamples, type Samples } from "../data/samples.ts";
import { splitEval } from "../data/split-eval.ts";
import { objectives } from "../objectives/index.ts";
import { type OpenedText, openTemplate } from "../text/open-text.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import type { TrainEvent } from "./events.ts";

export interface TrainingData {
  readonly train: Samples;
  readonly evaluation: Samples;
  readonly report: DatasetReport;
  readonly evalReport?: DatasetReport;
  /** Where the training samples come from, in their order. */
  readonly sources: readonly MixedSource[];
  /** What an epoch has, where sources are weighted; else every sample once. */
  readonly draw?: MixedEpochs;
  /** Where the objective learns from completions that the model writes; `train` then has the prompts alone. */
  readonly prompts?: readonly PromptRow[];
}

/** Near copies are looked for among so many samples at most; among more, equal ones alone. */
export const NEAR_SAMPLES = 200_000;

type Emit = (event: TrainEvent) => void;

/** Reads and renders the data; refuses what would make a run pointless. What else speaks against it the preflight tells. */
export async function loadTrainingData(
  text: Pick<OpenedText, "tokenizer" | "template" | "templates">,
  options: TrainOptions,
  emit: Emit,
): Promise<TrainingData> {
  const { tokenizer, template } = text;
  if (objectives[options.objective].rows === "prompts") return loadPromptData(text, options);
  const load = (data: TrainOptions["data"], limit?: number) =>
    loadSources(
      data,
      {
        ...{ tokenizer, template, trainOn: options.trainOn, limit },
        rows: objectives[options.objective].rows,
        sequenceLength: options.sequenceLength,
        overLength: options.overLength,
        ...sampleCache((message) => emit({ type: "warning", message })),
      },
      (name) => openTemplate(name, text),
    );
  const main = await load(options.data, options.dataLimit);
  const kept = options.deduplicate ? withoutCopies(main.samples, tokenizer, emit) : undefined;
  const samples = kept ? new ChosenSamples(main.samples, kept) : main.samples;
  const owners = kept ?? main.samples.length;
  if (options.evalData !== undefined) {
    refuseWeights(options.evalData);
    const evaluation = await load(options.evalData);
    for (const message of warningsOf(evaluation.report)) emit({ type: "warning", message });
    return {
      ...{
        train: samples,
        evaluation: evaluation.samples,
        report: main.report,
        evalReport: evaluation.report,
      },
      ...mixed(main.sources, owners, options),
    };
  }
  if (options.evalFraction !== undefined) {
    const { train, evaluation } = splitEval(samples, options.evalFraction, options.seed);
    const left = kept ? train.map((index) => kept[index]!) : train;
    return {
      train: new ChosenSamples(main.samples, left),
      evaluation: new ChosenSamples(samples, evaluation),
      report: main.report,
      ...mixed(main.sources, left, options),
    };
  }
  return { train: samples, evaluation: [], report: main.report, ...mixed(main.sources, owners, options) };
}

/** Rows as prompts, from all sources. */
async function loadPromptData(
  text: Pick<OpenedText, "tokenizer" | "template" | "templates">,
  options: TrainOptions,
): Promise<TrainingData> {
  const { data, dataLimit, sequenceLength, overLength, maxNewTokens = 0 } = options;
  if (options.deduplicate)
    throw new UserError(
      `--deduplicate does not go with --objective ${options.objective}, which may well come to a prompt often.`,
    );
  const prompts: PromptRow[] = [];
  const sources: LoadedData["sources"][number][] = [];
  for (const { limit = dataLimit, chatTemplate, columns, wholeName, ...source } of namedSources(data)) {
    const template = chatTemplate === undefined ? text.template : await openTemplate(chatTemplate, text);
    const { rows, report } = await loadPrompts(source.path, {
      ...{ tokenizer: text.tokenizer, template, sequenceLength, overLength, maxNewTokens },
      ...{ limit, columns, wholeName },
    });
    sources.push({ source, report, first: prompts.length, count: rows.length });
    for (const row of rows) prompts.push(row);
  }
  const report = await joinedReport(
    data,
    sources.map((each) => each.report),
  );
  const train = prompts.map(({ id, ids }): Sample => {
    return { ids: Int32Array.from(ids), targetMask: new Uint8Array(ids.length), rowId: id };
  });
  return { train, evaluation: [], report, prompts, ...mixed(sources, train.length, options) };
}

function refuseWeights(data: TrainOptions["data"]): void {
  if (typeof data === "string" || data.every(({ weight }) => weight === undefined)) return;
  throw new UserError("--eval-data: every row is evaluated once, so weights belong to --data alone.");
}

/** The indices of samples that equal no earlier one and are near none. */
function withoutCopies(samples: Samples, tokenizer: Tokenizer, emit: Emit): Uint32Array {
  const seen = new DistinctHashes();
  const distinct: number[] = [];
  let index = 0;
  for (const sample of samples) {
    if (seen.add(sampleHash(sample, true)) === distinct.length) distinct.push(index);
    index++;
  }
  const equal = samples.length - distinct.length;
  let near = 0;
  let left = distinct;
  // Answers to one prompt, each with its rating, are near each other by nature.
  const rated = samples.at(0)?.label !== undefined;
  if (distinct.length <= NEAR_SAMPLES && !rated) {
    const pairs = nearDuplicates(new ChosenSamples(samples, distinct), tokenizer);
    const dropped = new Set(pairs.map(({ sample }) => sample));
    left = distinct.filter((_, i) => !dropped.has(i));
    near = pairs.length;
  }
  const searched =
    distinct.length <= NEAR_SAMPLES
      ? ""
      : `; among more than ${NEAR_SAMPLES} samples near ones are not looked for`;
  emit({
    type: "info",
    message: `deduplicated: of ${samples.length} samples ${equal} equal an earlier one and ${near} nearly do; ${left.length} are left${searched}`,
  });
  return Uint32Array.from(left);
}

/** Sources by the samples that are left of them, which are still in their order: `left` are the indices, or all. */
function mixed(
  sources: LoadedData["sources"],
  left: ArrayLike<number> | number,
  options: TrainOptions,
): Pick<TrainingData, "sources" | "draw"> {
  const count = typeof left === "number" ? left : left.length;
  const starts = sources.map(({ first }) => (typeof left === "number" ? first : firstAtLeast(left, first)));
  const weighted = sources.some(({ source }) => source.weight !== undefined);
  const parts = sources.map(({ source, report }, i) => ({
    data: source.path,
    rows: report.rows,
    ...(weighted && { weight: source.weight ?? 1 }),
    first: starts[i]!,
    count: (starts[i + 1] ?? count) - starts[i]!,
  }));
  const empty = parts.find(({ count }) => count === 0);
  if (empty)
    throw new UserError(
      `${empty.data}: no sample of it is left after what was set aside or left out as copies; take it out of ${dataName(options.data)}.`,
    );
  if (!weighted || parts.length === 1) return { sources: parts };
  const draw = new MixedEpochs(
    parts.map(({ first, count, weight = 1 }) => ({ first, count, weight })),
    options,
  );
  return { sources: parts.map((part, i) => ({ ...part, samplesPerEpoch: draw.shares[i]! })), draw };
}

function firstAtLeast(sorted: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
