// The library: fine-tuning from TypeScript. Verbs that do what the commands do (the command line is a user of them), an
// open model with sessions for training loops of one's own, and the types of what they take and give. Not here: the
// rooms that do the work; what is not exported may change.

export type { MetricName } from "./config/eval-options.ts";
export type { Batch } from "./data/assemble.ts";
export type { Dataset, DatasetReport } from "./data/dataset.ts";
export {
  type CompareInput,
  compare,
  type ExplainedPlan,
  type PlanInput,
  plan,
} from "./library/estimate.ts";
export {
  type Answer,
  type ChatInput,
  type Evaluated,
  type EvaluateInput,
  type GenerateInput,
  type Model,
  type OpenInput,
  open,
  type Scores,
} from "./library/open.ts";
export {
  type ExportInput,
  exportGguf,
  type MergeInput,
  merge,
  type QuantizeInput,
  quantize,
} from "./library/publish.ts";
export type { Rows } from "./library/rows.ts";
export type { BatchesInput, ModelSession, SessionInput } from "./library/session.ts";
export { type TrainInput, type TrainRun, train } from "./library/train.ts";
export type { ChatMessage } from "./text/chat-template.ts";
export type { StepEvent, TrainEvent, TrainSummary } from "./train/events.ts";
export type { GradientResult, UpdateResult } from "./train/session.ts";
export { BugError, UsageError, UserError } from "./util/errors.ts";
