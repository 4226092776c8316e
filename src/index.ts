// The public API of the package: re-exports only. The command line (cli/) is a user of the same functions.

export type { Backend, BackendOptions, Precision } from "./backend/backend.ts";
export { openBackend } from "./backend/index.ts";
export { resolveOptions } from "./config/resolve.ts";
export type { TrainOptions } from "./config/train-options.ts";
export { trainDefinition } from "./config/train-options.ts";
export { loadDataset } from "./data/dataset.ts";
export { openModelFolder } from "./formats/model-folder.ts";
export { readAdapter, writeAdapter } from "./formats/peft.ts";
export { generateBatch } from "./generate/generate.ts";
export { type OpenedModel, openModel } from "./models/open-model.ts";
export { loadTokenizer } from "./text/load-tokenizer.ts";
export { Tokenizer } from "./text/tokenizer.ts";
export { evaluate } from "./train/evaluate.ts";
export type { TrainEvent, TrainSummary } from "./train/events.ts";
export { runTraining } from "./train/run.ts";
export { startTraining, type TrainingRun } from "./train/worker.ts";
export { BugError, UsageError, UserError } from "./util/errors.ts";
