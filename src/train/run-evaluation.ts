// An evaluation during a run: the loss on the rows held back, and a sample. It changes nothing of the run's course. All
// ranks share the work, and all get the numbers. Not here: when it happens (run.ts), metrics of `eval` (measure/).

import { generateBatch } from "../generate/generate.ts";
import { greedy } from "../generate/sampler.ts";
import type { EvalEvent } from "./events.ts";
import type { Metrics } from "./metrics-log.ts";
import type { RunParts } from "./run-parts.ts";

/** Evaluates after `step`, tells and notes it. Undefined when there are no rows to evaluate on. */
export async function evaluateRun(
  parts: RunParts,
  step: number,
  log: Metrics,
): Promise<EvalEvent | undefined> {
  const event = await measureLoss(parts, step);
  if (event) {
    parts.emit(event);
    await log.append(event);
  }
  await tellSample(parts, step);
  return event;
}

async function measureLoss(
  { options, data, session }: RunParts,
  step: number,
): Promise<EvalEvent | undefined> {
  if (data.evaluation.length === 0) return undefined;
  const tokensPerPass = options.batchSize * options.sequenceLength;
  const { loss, router } = await session.evaluate(data.evaluation, tokensPerPass);
  return { type: "eval", step, loss, perplexity: Math.exp(loss), ...(router && { router }) };
}

async function tellSample({ options, trainable, collective, emit }: RunParts, step: number): Promise<void> {
  if (options.sample === undefined || collective.rank !== 0) return;
  const { tokenizer, loaded } = trainable.model;
  const promptIds = tokenizer.encode(options.sample);
  const [result] = await generateBatch(loaded.decoder, [
    { promptIds, maxNewTokens: 64, stopIds: tokenizer.eosIds, sampling: greedy },
  ]);
  const text = tokenizer.decode(result!.tokenIds, { skipSpecialTokens: true });
  emit({ type: "sample", step, prompt: options.sample, text });
}
