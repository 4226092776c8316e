// What a training run tells the world while it goes: plain data, so that events cross a thread's port, a socket or
// a file unchanged. "train" and "eval" events are the lines of metrics.jsonl as they stand. Not here: who prints
// them (cli/train.ts) or stores them (run.ts).

import type { Traffic } from "../distributed/collective.ts";
import type { RouterBalance } from "../models/router-balance.ts";
import type { ShownGroup } from "../rollouts/rollouts.ts";
import type { CheckReport } from "./check-report.ts";

export type TrainEvent =
  | { readonly type: "info" | "warning"; readonly message: string }
  | ModelEvent
  | DataEvent
  | { readonly type: "preflight"; readonly report: CheckReport }
  | StepEvent
  | EvalEvent
  | ForgetEvent
  | ({ readonly type: "rollout"; readonly step: number } & ShownGroup)
  | { readonly type: "sample"; readonly step: number; readonly prompt: string; readonly text: string }
  | { readonly type: "checkpoint"; readonly step: number; readonly path: string }
  | { readonly type: "done"; readonly summary: TrainSummary };

/** The model stands on the device, with what trains marked. */
export interface ModelEvent {
  readonly type: "model";
  readonly architecture: string;
  /** The backend's own description: device, instruction set, precision. */
  readonly device: string;
  readonly trainableParameters: number;
  readonly totalParameters: number;
  /** Device memory after loading. */
  readonly liveBytes: number;
}

/** The rows are read, rendered and checked. */
export interface DataEvent {
  readonly type: "data";
  readonly rows: number;
  readonly evalRows: number;
  readonly tokens: number;
  readonly targetTokens: number;
  readonly stepsPerEpoch: number;
  readonly totalSteps: number;
  /** The first step of this run: 1, or later after --resume. */
  readonly firstStep: number;
}

/** Of objectives on preferences: means over the completions of a step, or of an evaluation. */
export interface PreferenceMetrics {
  /** beta times how much likelier completions are than under the reference, or than nothing where there is none. */
  readonly rewardsChosen?: number;
  readonly rewardsRejected?: number;
  /** Share of pairs whose chosen completion has the larger one. */
  readonly rewardAccuracy?: number;
  readonly rewardMargin?: number;
  /** The divergence from the reference: KTO's estimate, or grpo's mean over tokens. */
  readonly kl?: number;
  /** Cross-entropy of chosen completions, where it is a part of the loss. */
  readonly chosenLoss?: number;
}

/** Of grpo: of the completions that were written for the step, and of the step. */
export interface RolloutMetrics {
  /** Weighted sum of the rewards, its mean and deviation; beside them "reward.NAME.mean" and "reward.NAME.std" of each. */
  readonly reward?: number;
  readonly rewardStd?: number;
  /** Share of groups whose completions all have the same reward, so that they teach nothing. */
  readonly sameRewardShare?: number;
  /** Tokens, ends included. */
  readonly completionLength?: number;
  readonly completionLengthMin?: number;
  readonly completionLengthMax?: number;
  /** Share of completions that were cut at --max-new-tokens. */
  readonly cutShare?: number;
  /** Share of ratios of probabilities that the loss clipped. */
  readonly clipRatio?: number;
}

/** One optimizer step; a line of metrics.jsonl. */
export interface StepEvent extends PreferenceMetrics, RolloutMetrics {
  readonly type: "train";
  readonly step: number;
  /** Mean over the step's target tokens, in nats; or the objective's. */
  readonly loss: number;
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradNorm: number;
  readonly targetTokens: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly elapsedMs: number;
}

/** Scores of answers that --eval-metrics asks for. */
export interface AnswerScores {
  readonly exactMatch?: number;
  readonly rouge1?: number;
  readonly rouge2?: number;
  readonly rougeL?: number;
  readonly bleu?: number;
  readonly chrf?: number;
  readonly jsonValid?: number;
}

/** One evaluation; a line of metrics.jsonl. */
export interface EvalEvent extends AnswerScores, PreferenceMetrics {
  readonly type: "eval";
  readonly step: number;
  readonly loss: number;
  /** Of the loss, over rows: what other rows of the kind would differ by. Absent for one row, and on preferences. */
  readonly lossStandardError?: number;
  /** Absent where the loss is an objective's on preferences. */
  readonly perplexity?: number;
  /** Of a mixture of experts: how its routers spread the tokens. */
  readonly router?: RouterBalance;
  /** With --keep-best: the best so far, so the last one marked is the step of the result. */
  readonly best?: true;
  /** Of the average of so many checkpoints, which is the result. */
  readonly averagedCheckpoints?: number;
}

/** What is still known of --forget's rows; a line of metrics.jsonl. Step 0: before training. */
export interface ForgetEvent extends Forgotten {
  readonly type: "forget";
  readonly step: number;
}

export interface Forgotten {
  /** Mean over the rows' target tokens, in nats. */
  readonly loss: number;
  readonly perplexity: number;
  /** Prompts, and how many were answered exactly as a row has it; absent where no row has a prompt. */
  readonly prompts?: number;
  readonly right?: number;
  /** Answered right before training and wrong now, and the other way round. */
  readonly lost?: number;
  readonly gained?: number;
}

/** The best evaluation so far, by --keep-best. */
export interface BestStep {
  /** The score's name in reports. */
  readonly metric: string;
  readonly step: number;
  readonly value: number;
  /** All scores of that evaluation. */
  readonly scores: Readonly<Record<string, number>>;
}

/** Of a run, in its checkpoints and its record. */
export interface Forgetting {
  readonly before: Forgotten;
  /** The last measurement, or with --keep-best the one of the result. */
  readonly after?: Forgotten & { readonly step: number };
}

/** What a run came to; `train --json` prints it. */
export interface TrainSummary {
  /** "interrupted": stopped after a finished step with a checkpoint to resume from. */
  readonly status: "done" | "interrupted";
  readonly out: string;
  /** Optimizer steps behind the result, those before --resume included. */
  readonly steps: number;
  readonly firstLoss?: number;
  readonly finalLoss?: number;
  readonly evalLoss?: number;
  readonly perplexity?: number;
  readonly trainableParameters: number;
  readonly totalParameters: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly elapsedMs: number;
  readonly device: string;
  readonly peakBytes: number;
  readonly peakRssBytes: number;
  /** With --keep-best: the step whose weights are the result, and the evaluation that chose it. */
  readonly best?: BestStep;
  /** The run ended before its last step: by --patience, or because it was told to. */
  readonly stoppedEarly?: boolean;
  /** It was told to, in the page of `lowrank ui`. */
  readonly toldToEnd?: boolean;
  /** The steps whose checkpoints' average is the result. */
  readonly averagedSteps?: readonly number[];
  readonly forgetting?: Forgetting;
  /** Of several ranks, this one's figures of exchanging. */
  readonly ranks?: { readonly size: number; readonly description: string } & Traffic;
  /** The newest checkpoint, where there is one. */
  readonly checkpoint?: string;
}
