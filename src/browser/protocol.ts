// What the page and its worker say to each other: requests with an id, and to each any number of events and one reply. Types
// only; the page's side is connection.ts, the worker's host/host.ts.

import type { InputOf } from "../config/define.ts";
import type { generateDefinition } from "../config/generate-options.ts";
import type { trainDefinition } from "../config/train-options.ts";
import type { EvalEvent, ForgetEvent, StepEvent, TrainEvent, TrainSummary } from "../train/events.ts";
import type { ErrorData } from "../util/errors.ts";

type TrainInput = InputOf<typeof trainDefinition>;

/** What says what trains, as `lowrank train` has it in camelCase. */
export type AttachOptions = Pick<
  TrainInput,
  | "adapter"
  | "alpha"
  | "alphaPattern"
  | "dropout"
  | "exclude"
  | "init"
  | "layers"
  | "loraPlusRatio"
  | "modulesToSave"
  | "quantType"
  | "rank"
  | "rankPattern"
  | "rslora"
  | "targets"
> & { readonly method?: "lora" | "qlora" };

/** The options of `lowrank train` in camelCase that mean something in a browser. */
export type RunOptions = Omit<
  TrainInput,
  | keyof AttachOptions
  | ("model" | "out" | "data" | "evalData" | "forget" | "json" | "resume" | "backend" | "threads")
  | ("reward" | "initAdapter" | "addTokens" | "distributed" | "collectiveTimeout" | "shardOptimizer")
> & {
  /** The run's name among those of its model; the next free "run-N" unless given. */
  readonly run?: string;
};

export type GenerateInput = Omit<
  InputOf<typeof generateDefinition>,
  "model" | "adapter" | "prompt" | "chat" | "chatTemplate" | "stop" | "json" | "backend" | "threads"
> & {
  /** A text, or texts, before which the answer ends. */
  readonly stop?: string | readonly string[];
  /** Give each prompt as a user's message through the chat template. */
  readonly chat?: boolean;
  /** false: the base alone; true: the newest finished run's adapter; a name: that run's. True where there is one. */
  readonly adapter?: boolean | string;
};

export interface Answer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly finishReason: "stop" | "length";
}

/** Rows for training: the bytes of a file as `--data` takes it, named so that its ending tells the format. */
export interface RowsFile {
  readonly name: string;
  readonly content: Blob;
}

export type WireSource =
  | { readonly kind: "files"; readonly files: readonly RowsFile[]; readonly keep: boolean }
  | { readonly kind: "url"; readonly url: string }
  | { readonly kind: "hub"; readonly repo: string; readonly revision: string; readonly endpoint: string }
  | { readonly kind: "stored" };

export interface OpenRequest {
  readonly name: string;
  readonly source: WireSource;
  readonly backend: "auto" | "webgpu" | "reference";
  readonly precision?: "auto" | "fp32" | "fp16";
}

export interface ModelInfo {
  readonly name: string;
  /** config.json's model_type. */
  readonly architecture: string;
  readonly parameters: number;
  readonly hasChatTemplate: boolean;
  readonly device: DeviceInfo;
  /** False: this page has no storage that outlives it, and why. */
  readonly storage: { readonly kept: boolean; readonly reason?: string };
}

export interface DeviceInfo {
  readonly backend: "webgpu" | "reference";
  readonly name: string;
  /** A program on the CPU that poses as a GPU. */
  readonly software: boolean;
  /** What to expect of its speed, where that is a warning. */
  readonly word: string;
}

export interface RunInfo {
  readonly name: string;
  /**
   * "cut": the page was closed in the middle; resume() goes on. "paused": somebody asked it to stop. "failed": it ended with
   * `error`, and would again unless something else is changed.
   */
  readonly status: "running" | "cut" | "paused" | "failed" | "done";
  readonly error?: string;
  /** Steps that are written down. */
  readonly step: number;
  readonly totalSteps?: number;
  readonly startedMs: number;
  readonly options: Readonly<Record<string, unknown>>;
  readonly metrics: readonly (StepEvent | EvalEvent | ForgetEvent)[];
  readonly summary?: TrainSummary;
}

export type ProgressEvent = {
  readonly type: "progress";
  readonly file: string;
  readonly doneBytes: number;
  /** Of all files, where known. */
  readonly totalBytes?: number;
};

/** What each method takes and gives, and the events on the way. */
export interface Methods {
  open: { args: OpenRequest; result: ModelInfo; event: ProgressEvent | { type: "warning"; message: string } };
  attach: { args: AttachOptions; result: undefined; event: never };
  train: {
    args: { options: RunOptions; rows: RowsFile; evalRows?: RowsFile; forgetRows?: RowsFile };
    result: TrainSummary;
    event: TrainEvent;
  };
  resume: { args: { run?: string; options?: RunOptions }; result: TrainSummary; event: TrainEvent };
  pause: { args: undefined; result: undefined; event: never };
  runs: { args: undefined; result: RunInfo[]; event: never };
  removeRun: { args: { run: string }; result: undefined; event: never };
  generate: {
    args: { prompts: readonly string[]; options: GenerateInput };
    result: Answer[];
    event: { type: "text"; index: number; piece: string };
  };
  adapter: { args: { run?: string }; result: RowsFile[]; event: never };
}
export type Method = keyof Methods;

export type Request = { readonly id: number; readonly method: Method; readonly args: unknown };
export type Reply =
  | { readonly id: number; readonly kind: "event"; readonly event: unknown }
  | { readonly id: number; readonly kind: "result"; readonly result: unknown }
  | { readonly id: number; readonly kind: "error"; readonly error: ErrorData };
