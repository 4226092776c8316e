// What the local page and its server say to each other: every route of `lowrank ui`, its request, its response and the
// events of its stream. Types only, and they import nothing else, so that the page's build takes them as
// they are; what is looked at on demand is api-views.ts. Not here: who answers (ui-server.ts) or what is shown.
//
// Every route lies under /api and answers JSON, but for /api/events. `:id` is a run's or a comparison's id as it stands
// in its summary, as one path segment (encodeURIComponent). A request with a body is "application/json". Where the server
// listens on other addresses than loopback, every request to /api carries "Authorization: Bearer KEY"; the address that
// the command prints ends in #key=KEY, which no browser sends to anyone.
//
//   GET  /api/server                                ServerInfo
//   GET  /api/runs                                  RunList
//   POST /api/runs                                  StartRequest -> RunSummary     (201)
//   GET  /api/runs/:id                              RunDetail
//   GET  /api/runs/:id/metrics?from=&to=&points=    RunMetrics
//   POST /api/runs/:id/pause | resume | end         {} -> RunSummary               (202)
//   GET  /api/runs/:id/rows?set=&from=&count=       RowsView         on demand, may take a minute
//   POST /api/runs/:id/samples                      SamplesRequest -> SamplesView  on demand, may take a minute
//   GET  /api/runs/:id/layers?step=                 LayersView       on demand
//   GET  /api/runs/:id/memory                       MemoryView       on demand
//   GET  /api/compares/:id                          CompareView      (the list of them is in RunList)
//   GET  /api/options                               FormOptions
//   POST /api/plan                                  PlanRequest -> PlanView        on demand
//   POST /api/peak                                  {} -> MachinePeak              measures, a few seconds
//   GET  /api/events?runs=ID,ID                     text/event-stream of LiveEvent
//
// Whatever fails answers ErrorBody with its status: 400 what was asked, 401 key, 403 guard, 404 unknown, 409 not in this
// state, 413 too long, 429 too many at work, 503 short of memory or closing, 504 took too long, 500 a fault of lowrank.

import type { CompareSummary, MemoryByCategory } from "./api-views.ts";

export type * from "./api-views.ts";

export interface ErrorBody {
  readonly error: {
    /** For people: what, where, what was expected, what to do. */
    readonly message: string;
    /** Of a form: the option at fault, by its key in FormOptions, where one is. */
    readonly field?: string;
  };
}

// ---- The server ----

export interface ServerInfo {
  readonly version: string;
  /** The folder whose runs are shown, as it was given. */
  readonly folder: string;
  /** The id of the run that this server was opened beside (`train --ui`). */
  readonly beside?: string;
  /** False where runs can only be looked at. */
  readonly canStart: boolean;
  readonly machine: {
    readonly cores: number;
    readonly memoryBytes: number;
    /** What new processes may take now, by the system and its control groups. */
    readonly availableBytes: number;
    readonly peak?: MachinePeak;
  };
}

/** The rate of the engine's best matrix products on this machine, measured as `lowrank bench` does. */
export interface MachinePeak {
  /** The device's own words, as in RunDetail.device. */
  readonly device: string;
  readonly precision: string;
  readonly flopsPerSecond: number;
  /** Epoch milliseconds. */
  readonly measuredMs: number;
}

// ---- Runs ----

/**
 * starting: its process has been started and has no record yet; running; pausing and ending: asked to, finishing its step;
 * paused: stopped in order, with a checkpoint to go on from; stopped: its process is gone without an orderly end, and it
 * can be resumed from its newest checkpoint, or from its first step; failed: its process ended with an error; done.
 */
export type RunState =
  | "starting"
  | "running"
  | "pausing"
  | "ending"
  | "paused"
  | "stopped"
  | "failed"
  | "done";

export interface RunSummary {
  /** Path below the folder, with "/" between its parts; "." for the folder itself. */
  readonly id: string;
  readonly state: RunState;
  /** The last step that metrics.jsonl speaks of; 0 before the first. */
  readonly step: number;
  readonly totalSteps?: number;
  readonly model?: string;
  readonly method?: string;
  readonly adapter?: string;
  readonly rank?: number;
  readonly objective?: string;
  readonly learningRate?: number;
  readonly firstLoss?: number;
  readonly loss?: number;
  readonly evalLoss?: number;
  readonly tokensPerSecond?: number;
  /** Time spent in training so far, by the metrics. */
  readonly elapsedMs?: number;
  /** Epoch milliseconds. */
  readonly changedMs: number;
  /** The last words of a failed run's process, or why the folder cannot be read. */
  readonly error?: string;
  /** What may be asked of it now. */
  readonly can: { readonly pause: boolean; readonly resume: boolean; readonly end: boolean };
}

export interface RunList {
  /** Newest first. */
  readonly runs: readonly RunSummary[];
  readonly compares: readonly CompareSummary[];
  /** There are more folders than are looked at. */
  readonly truncated: boolean;
}

export interface RunDetail {
  readonly summary: RunSummary;
  /** The options that the run was started with, as run.json has them; empty while there is none. */
  readonly recipe: Readonly<Record<string, unknown>>;
  /** The same as a command line. */
  readonly command: string;
  readonly device?: string;
  readonly backend?: string;
  readonly precision?: string;
  readonly lowrank?: string;
  readonly trainableParameters?: number;
  readonly totalParameters?: number;
  /** Floating-point operations that one token costs in training. */
  readonly flopsPerToken?: number;
  /** Tokens a second if every operation ran at the machine's measured peak; absent until that is measured. */
  readonly peakTokensPerSecond?: number;
  readonly data?: DataSummary;
  readonly evalData?: DataSummary;
  readonly best?: { readonly metric: string; readonly step: number; readonly value: number };
  /** The run ended before its last step, by --patience or because it was told to. */
  readonly stoppedEarly?: boolean;
  /** The latter. */
  readonly toldToEnd?: boolean;
  /** Steps of the checkpoints that are there, ascending. */
  readonly checkpoints: readonly number[];
  /** The last lines that the run's process told, where this server started it. */
  readonly log: readonly string[];
}

export interface DataSummary {
  readonly file: string;
  readonly rows: number;
  readonly tokens: number;
  readonly targetTokens: number;
}

// ---- Metrics ----

/**
 * Columns of metrics.jsonl. Where there are more steps than `points`, neighbours are joined: `mean` is their mean, `min` and
 * `max` their extremes, `step` the last of them. `null` where a line has no such number.
 */
export interface RunMetrics {
  readonly id: string;
  /** Lines of steps in the asked range, before joining. */
  readonly steps: number;
  /** 1 where nothing is joined. */
  readonly stepsPerPoint: number;
  readonly train: SeriesTable;
  /** Never joined: loss, lossStandardError (of the mean over rows), perplexity, exactMatch, ... */
  readonly eval: SeriesTable;
  /** What is still known of --forget's rows: loss, perplexity, ... */
  readonly forget: SeriesTable;
  /** Steps of evaluations marked as the best so far; the last is the result's. */
  readonly best: readonly number[];
  /** Lines that could not be read and are left out. */
  readonly badLines: number;
}

export interface SeriesTable {
  readonly step: readonly number[];
  /** By the name that metrics.jsonl has: loss, learningRate, gradNorm, tokensPerSecond, elapsedMs, tokens, reward, ... */
  readonly series: Readonly<Record<string, Series>>;
}

export interface Series {
  readonly mean: readonly (number | null)[];
  /** Absent where nothing is joined. */
  readonly min?: readonly (number | null)[];
  readonly max?: readonly (number | null)[];
}

// ---- Starting ----

export interface StartRequest {
  /** Where the run's folder lies below the server's folder: plain names joined by "/". Must be absent or empty. */
  readonly id: string;
  /** By the keys of FormOptions, with values as YAML has them; those left out take their defaults. */
  readonly values: Readonly<Record<string, unknown>>;
}

export interface FormOptions {
  readonly command: "train";
  readonly groups: readonly { readonly title: string; readonly fields: readonly FormField[] }[];
  /** Pairs of keys of which at most one may be given. */
  readonly alternatives: readonly (readonly [string, string])[];
}

export interface FormField {
  readonly key: string;
  /** "--learning-rate". */
  readonly flag: string;
  readonly kind: "text" | "number" | "switch" | "choice" | "list" | "size";
  readonly description: string;
  /** What a value must be: "a whole number of at least 1". */
  readonly expected: string;
  readonly placeholder: string;
  readonly required: boolean;
  readonly defaultText?: string;
  /** Of a switch. */
  readonly defaultOn: boolean;
  readonly choices?: readonly string[];
  /** Of a number. */
  readonly min?: number;
  readonly max?: number;
  readonly whole?: boolean;
}

export interface PlanRequest {
  readonly values: Readonly<Record<string, unknown>>;
}

export interface PlanView {
  readonly model: {
    readonly name: string;
    readonly modelType: string;
    readonly parameters: number;
    readonly layers: number;
    readonly width: number;
  };
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly rank: number;
  /** What this machine has for it. */
  readonly availableBytes: number;
  /** One of each method that `lowrank plan` knows; `chosen` is the form's. */
  readonly methods: readonly {
    readonly name: string;
    readonly title: string;
    readonly chosen: boolean;
    readonly trainableParameters: number;
    /** At the peak of a step. */
    readonly peakBytes: number;
    readonly atPeak: MemoryByCategory;
    readonly fits: boolean;
  }[];
  readonly flopsPerToken?: number;
  /** At the machine's measured peak, which no run reaches; absent until that is measured. */
  readonly peakTokensPerSecond?: number;
  readonly notes: readonly string[];
}

// ---- The stream ----

/**
 * Server-sent events: "event:" is the type, "data:" the JSON below, "id:" a text to be sent back as Last-Event-ID (or as
 * ?after=ID) to miss nothing. Changes of all runs are told; "metrics" and "rewind" only of those that ?runs= names. A comment
 * line comes at least every 15 s.
 */
export type LiveEvent =
  /** First on every stream. `resumed` false: what was missed is not known any more, so everything is to be asked for anew. */
  | { readonly type: "hello"; readonly resumed: boolean }
  /** A run is new or has changed. */
  | { readonly type: "run"; readonly run: RunSummary }
  | { readonly type: "removed"; readonly id: string }
  | { readonly type: "compare"; readonly compare: CompareSummary }
  /** New lines of a run, never joined. */
  | {
      readonly type: "metrics";
      readonly id: string;
      readonly train: SeriesTable;
      readonly eval: SeriesTable;
      readonly forget: SeriesTable;
    }
  /** A resumed run has taken back what came after this step: points beyond it are no longer true. */
  | { readonly type: "rewind"; readonly id: string; readonly step: number };
