// What training makes a model forget: --forget's rows are measured before the first step and at every evaluation. Beside
// the perplexity, every prompt among them is answered greedily, and right is an answer that a row has, as the metric
// exact-match compares them; what was right before and is wrong now is lost. Which prompts were right before lies in
// checkpoints, so that a resumed run compares with the same. Not here: when it happens (run-evaluation.ts).

import { sampleCache } from "../data/cache-folder.node.ts";
import { loadDataset, refuseWithoutTargets } from "../data/dataset.node.ts";
import { warningsOf } from "../data/dataset-report.ts";
import type { Sample } from "../data/render.ts";
import { predictTexts, type TextPrompt } from "../measure/evaluate-text.ts";
import { promptsOf, warnOfLength } from "../measure/measure.ts";
import { isExactMatch } from "../metrics/exact-match.ts";
import { evaluate } from "../session/evaluate.ts";
import type { ForgetEvent, Forgetting, Forgotten } from "./events.ts";
import type { RunParts } from "./run-parts.ts";

/** What a checkpoint holds of it. */
export interface ForgettingState extends Forgetting {
  /** One character a prompt: 1 was right before training. */
  readonly rightBefore?: string;
}

export interface ForgetRows {
  readonly samples: readonly Sample[];
  readonly prompts: readonly TextPrompt[];
}

/** UserError when there is nothing in the file to measure. */
export async function loadForgetRows(parts: RunParts): Promise<ForgetRows | undefined> {
  const { options, trainable, warn } = parts;
  const { forget, sequenceLength, overLength, trainOn, maxNewTokens } = options;
  if (forget === undefined) return undefined;
  const { tokenizer, template } = trainable.model.text;
  const rendering = { tokenizer, template, trainOn };
  const loaded = await loadDataset(forget, {
    ...rendering,
    sequenceLength,
    overLength,
    ...sampleCache(warn),
  });
  refuseWithoutTargets(loaded.report);
  for (const message of warningsOf(loaded.report)) warn(message);
  // Rows of plain text have a perplexity alone.
  // Every row is measured and answered.
  const samples = [...loaded.samples];
  const prompts = await promptsOf(forget, samples, rendering, warn);
  warnOfLength(prompts, maxNewTokens, trainable.model.config.maxPositions, warn);
  return { samples, prompts };
}

/** Measures now; `state` is what is known of before training, undefined for that very measurement. */
export async function measureForgetting(
  parts: RunParts,
  rows: ForgetRows,
  step: number,
  state: ForgettingState | undefined,
): Promise<{ readonly event: ForgetEvent; readonly state: ForgettingState }> {
  const { options, session, trainable, collective } = parts;
  const tokensPerPass = options.batchSize * options.sequenceLength;
  await session.adapter?.initialize();
  // Whatever the run's objective is, this is the cross-entropy of the rows.
  const { decoder } = trainable.model.loaded;
  const { loss } = await evaluate(decoder, rows.samples, {
    ...{ tokensPerPass, collective },
    logitsChunkBytes: parts.logitsChunkBytes,
  });
  let now: Forgotten = { loss, perplexity: Math.exp(loss) };
  let right: string | undefined;
  if (rows.prompts.length > 0) {
    const { tokenizer } = trainable.model;
    const { maxNewTokens } = options;
    const answers = await predictTexts(decoder, tokenizer, rows.prompts, { maxNewTokens, collective });
    right = answers.map((one) => (isExactMatch(one.prediction, one.references) ? "1" : "0")).join("");
    const before = state?.rightBefore;
    now = {
      ...now,
      prompts: right.length,
      right: countOf(right, "1"),
      ...(before !== undefined && {
        lost: pairsOf(before, right, "1", "0"),
        gained: pairsOf(before, right, "0", "1"),
      }),
    };
  }
  const event: ForgetEvent = { type: "forget", step, ...now };
  if (!state) return { event, state: { before: now, ...(right !== undefined && { rightBefore: right }) } };
  return { event, state: { ...state, after: { step, ...now } } };
}

function countOf(marks: string, mark: string): number {
  return [...marks].filter((one) => one === mark).length;
}

function pairsOf(before: string, now: string, was: string, is: string): number {
  return [...before].filter((mark, i) => mark === was && now[i] === is).length;
}
