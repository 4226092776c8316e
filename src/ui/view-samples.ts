// Answers of the base and of what was trained to the same prompts, side by side, both greedy. In the analysing process only.

import { beginText } from "../data/render.ts";
import { type GenerationRequest, generateBatch } from "../generate/generate.ts";
import { greedy } from "../generate/sampler.ts";
import { promptsOf } from "../measure/measure.ts";
import type { OpenedModel } from "../models/open-model.ts";
import { objectives } from "../objectives/index.ts";
import { openTemplate } from "../text/open-text.ts";
import { loadTrainingData } from "../train/training-data.ts";
import type { SamplesView } from "./api.ts";
import { type LookedAtRun, notShown, type RunJob, withRun } from "./open-run.ts";

export interface SamplesJob extends RunJob {
  /** Those of rows when absent. */
  readonly prompts?: readonly string[];
  readonly maxNewTokens: number;
}

interface AskedPrompt {
  readonly text: string;
  readonly ids: readonly number[];
  readonly expected?: string;
}

/** Of rows. */
const usualPrompts = 4;

export function viewSamples(job: SamplesJob): Promise<SamplesView> {
  return withRun(job, async (run) => {
    const { model } = run;
    const asked: readonly AskedPrompt[] = job.prompts
      ? job.prompts.map((text) => ({ text, ids: beginText(model.tokenizer, text) }))
      : await rowPrompts(run);
    const answer = (opened: OpenedModel) => answers(opened, asked, job.maxNewTokens);
    const base = await run.before(answer);
    const tuned = await run.after(answer);
    return {
      step: run.step,
      samples: asked.map(({ text, expected }, i) => ({
        ...{ prompt: text, base: base[i]! },
        ...(tuned && { tuned: tuned[i]! }),
        ...(expected !== undefined && { expected }),
      })),
    };
  });
}

/** The prompt that the run samples, and the first of its rows for evaluation, or for training. */
async function rowPrompts({ options, model }: LookedAtRun): Promise<AskedPrompt[]> {
  const data = await loadTrainingData(model.text, options, () => {});
  const held = data.evaluation.length > 0;
  const samples = held ? data.evaluation : data.train;
  const chosen = Array.from({ length: Math.min(usualPrompts, samples.length) }, (_, i) => samples.at(i)!);
  const { tokenizer, template } = model.text;
  const rendering = { tokenizer, template, trainOn: options.trainOn };
  const file = held ? (options.evalData ?? options.data) : options.data;
  const { rows } = objectives[options.objective];
  const found = await promptsOf(file, chosen, rendering, undefined, rows, (name) =>
    openTemplate(name, model.text),
  );
  const own = options.sample;
  const prompts = [
    ...(own === undefined ? [] : [{ text: own, ids: tokenizer.encode(own) }]),
    ...found.map(({ text, ids, references }) => ({ text, ids, expected: references[0] })),
  ];
  if (prompts.length === 0) throw notShown("the rows have no prompts to answer: give one");
  return prompts;
}

async function answers(
  { loaded, tokenizer, config }: OpenedModel,
  asked: readonly AskedPrompt[],
  maxNewTokens: number,
): Promise<string[]> {
  const requests = asked.map(({ ids }): GenerationRequest => {
    const room = config.maxPositions - ids.length;
    if (room < 1)
      throw notShown(`a prompt of ${ids.length} tokens leaves no room in ${config.maxPositions} positions`);
    return {
      promptIds: ids,
      maxNewTokens: Math.min(maxNewTokens, room),
      stopIds: tokenizer.eosIds,
      sampling: greedy,
    };
  });
  const results = await generateBatch(loaded.decoder, requests);
  return results.map(({ tokenIds }) => tokenizer.decode(tokenIds, { skipSpecialTokens: true }));
}
