// An evaluation during a run: the loss on the rows held back, scores of answers to them, what is left of --forget's rows,
// and a sample. It changes nothing of the run's course. All ranks share the work, and all get the numbers. Not here: when
// it happens (run.ts), which step is the best (best-step.ts), metrics of whole files (measure/).

import { dataName } from "../data/data-source.ts";
import { generateBatch } from "../generate/generate.ts";
import { greedy } from "../generate/sampler.ts";
import { predictTexts, scoreTexts, type TextPrompt } from "../measure/evaluate-text.ts";
import { promptsOf, refuseWithoutPrompts, warnOfLength } from "../measure/measure.ts";
import { objectives } from "../objectives/index.ts";
import { openTemplate } from "../text/open-text.ts";
import { judge, watchRuleOf } from "./best-step.ts";
import type { RunState } from "./checkpoint.ts";
import type { AnswerScores, EvalEvent, ForgetEvent } from "./events.ts";
import { type ForgetRows, loadForgetRows, measureForgetting } from "./forgetting.ts";
import type { Metrics } from "./metrics-log.ts";
import type { RunParts } from "./run-parts.ts";

type EvaluatedState = Pick<RunState, "evalLoss" | "watched" | "forgetting">;

export class RunEvaluation {
  private constructor(
    private readonly parts: RunParts,
    /** What answers are scored on; none when no score of answers is asked for. */
    private readonly prompts: readonly TextPrompt[],
    private readonly forget: ForgetRows | undefined,
  ) {}

  /** Reads what the run will be measured on. UserError when it cannot be. */
  static async prepare(parts: RunParts): Promise<RunEvaluation> {
    return new RunEvaluation(parts, await loadPrompts(parts), await loadForgetRows(parts));
  }

  /** Before the first step: what the model knows that it may forget. */
  async begin(state: RunState, log: Metrics): Promise<EvaluatedState> {
    if (!this.forget || state.forgetting) return state;
    const { event, state: forgetting } = await measureForgetting(this.parts, this.forget, 0, undefined);
    await this.tell(event, log);
    return { ...state, forgetting };
  }

  /** Evaluates after a step, tells and notes it. Returns what of the state is new. */
  async after(state: RunState, log: Metrics): Promise<EvaluatedState> {
    const { parts, forget } = this;
    const { step } = state;
    let { evalLoss, watched, forgetting } = state;
    const rule = watchRuleOf(parts.options);
    const measured = await this.measure(step);
    if (measured) {
      if (rule) watched = judge(rule, watched, measured);
      const best = watched?.best?.step === step ? ({ best: true } as const) : undefined;
      await this.tell({ ...measured, ...best }, log);
      evalLoss = measured.loss;
    }
    if (forget) {
      const found = await measureForgetting(parts, forget, step, forgetting);
      await this.tell(found.event, log);
      // What counts in the end is what the result has forgotten.
      if (!rule || watched?.best?.step === step || !forgetting?.after) forgetting = found.state;
    }
    await tellSample(parts, step);
    return { evalLoss, watched, forgetting };
  }

  /** Undefined when there are no rows to evaluate on. */
  async measure(step: number): Promise<EvalEvent | undefined> {
    const { options, data, session, trainable, collective } = this.parts;
    if (data.evaluation.length === 0) return undefined;
    const tokensPerPass = options.batchSize * options.sequenceLength;
    const { loss, standardError, router, metrics } = await session.evaluate(data.evaluation, tokensPerPass);
    let scores: AnswerScores = {};
    if (this.prompts.length > 0) {
      const { loaded, tokenizer } = trainable.model;
      const { maxNewTokens } = options;
      const asked = { maxNewTokens, collective };
      const answers = await predictTexts(loaded.decoder, tokenizer, this.prompts, asked);
      scores = scoreTexts(options.evalMetrics ?? [], answers);
    }
    return {
      type: "eval",
      step,
      loss,
      ...(standardError !== undefined && { lossStandardError: standardError }),
      // What an objective makes of log-probabilities is no cross-entropy.
      ...(session.objective.scoring ? metrics : { perplexity: Math.exp(loss) }),
      ...scores,
      ...(router && { router }),
    };
  }

  private async tell(event: EvalEvent | ForgetEvent, log: Metrics): Promise<void> {
    this.parts.emit(event);
    await log.append(event);
  }
}

async function loadPrompts({ options, data, trainable, warn }: RunParts): Promise<readonly TextPrompt[]> {
  if (options.evalMetrics === undefined || data.evaluation.length === 0) return [];
  const { tokenizer, template } = trainable.model.text;
  const file = options.evalData ?? options.data;
  const rendering = { tokenizer, template, trainOn: options.trainOn };
  const { rows } = objectives[options.objective];
  const prompts = await promptsOf(file, data.evaluation, rendering, warn, rows, (name) =>
    openTemplate(name, trainable.model.text),
  );
  refuseWithoutPrompts(dataName(file), prompts);
  warnOfLength(prompts, options.maxNewTokens, trainable.model.config.maxPositions, warn);
  return prompts;
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
