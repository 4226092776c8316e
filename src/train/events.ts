// What a training run tells the world while it goes: plain data, so that events cross a thread's port, a socket or
// a file unchanged. "train" and "eval" events are the lines of metrics.jsonl as they stand. Not here: who prints
// them (cli/train.ts) or stores them (run.ts).

import type { Traffic } from "../distributed/collective.ts";
import type { RouterBalance } from "../models/router-balance.ts";
import type { CheckReport } from "./check-report.ts";

export type TrainEvent =
  | { readonly type: "info" | "warning"; readonly message: string }
  | ModelEvent
  | DataEvent
  | { readonly type: "preflight"; readonly report: CheckReport }
  | StepEvent
  | EvalEvent
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

/** One optimizer step; a line of metrics.jsonl. */
export interface StepEvent {
  readonly type: "train";
  readonly step: number;
  /** Mean over the step's target tokens, in nats. */
  readonly loss: number;
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradNorm: number;
  readonly targetTokens: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly elapsedMs: number;
}

/** One evaluation; a line of metrics.jsonl. */
export interface EvalEvent {
  readonly type: "eval";
  readonly step: number;
  readonly loss: number;
  readonly perplexity: number;
  /** Of a mixture of experts: how its routers spread the tokens. */
  readonly router?: RouterBalance;
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
  /** The newest checkpoint, where there is one. */
  /** Of several ranks, this one's figures of exchanging. */
  readonly ranks?: { readonly size: number; readonly description: string } & Traffic;
  readonly checkpoint?: string;
}
