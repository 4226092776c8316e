// lowrank/browser: fine-tuning inside a web page. What a page imports; docs/BROWSER.md tells how. All work is done in a
// worker, on WebGPU where there is one. Not here: the package for Node (src/index.ts).

export type { StepEvent, TrainEvent, TrainSummary } from "../train/events.ts";
export { BugError, DivergedError, UsageError, UserError } from "../util/errors.ts";
export {
  type AnswerOptions,
  BrowserModel,
  type BrowserRun,
  type ModelSource,
  type OpenOptions,
  openModel,
  type Rows,
  type TrainOptions,
} from "./model.ts";
export type {
  Answer,
  AttachOptions,
  DeviceInfo,
  ModelInfo,
  ProgressEvent,
  RunInfo,
  RunOptions,
} from "./protocol.ts";
export { filesOfDrop, type NamedFiles } from "./sources.ts";
export { removeModel, type StoredModel, storedModels } from "./stored.ts";
