// The library: fine-tuning from TypeScript. Verbs that do what the commands do (the command line is a user of them), an
// open model with sessions for training loops of one's own, and the types of what they take and give. Not here: the
// rooms that do the work; what is not exported may change.

export type { LedgerReport, MemoryCategory, Precision } from "./backend/backend.ts";
export type { Comparison } from "./compare/compare.ts";
export type { ComparedRow } from "./compare/row.ts";
export type { MetricName } from "./config/eval-options.ts";
export type { Batch } from "./data/assemble.ts";
export type { Dataset, DatasetReport, LengthBucket } from "./data/dataset-report.ts";
export type { Finding, PreflightReport, ShownRow, ShownToken } from "./data/preflight.ts";
export type { Sample } from "./data/render.ts";
export type { RowId } from "./data/row.ts";
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
  type Hooks,
  type MergeInput,
  merge,
  type QuantizeInput,
  quantize,
} from "./library/publish.ts";
export type { Reward, RewardFunction } from "./library/rewards.ts";
export type { MixedRows, Rows } from "./library/rows.ts";
export type { BatchesInput, ModelSession, SessionInput } from "./library/session.ts";
export { type TrainInput, type TrainRun, train } from "./library/train.ts";
export type { TextPrediction } from "./measure/evaluate-text.ts";
export type { MeasureHooks } from "./measure/measure.ts";
export type { MemoryCheck } from "./memory/fit-memory.ts";
export type { MemoryPrediction } from "./memory/predict-memory.ts";
export type { ExplainedLine } from "./plan/explain.ts";
export type { MemoryVariant, MethodPlan } from "./plan/memory-plan.ts";
export type { ProbeResult } from "./plan/probe.ts";
export type { TrainableRow } from "./plan/shape.ts";
export type { Estimate } from "./plan/time-cost.ts";
export type { ExportReport } from "./publish/export-gguf.ts";
export type { MergeReport } from "./publish/merge-folder.ts";
export type { FolderReport, LayerReport } from "./publish/quantize-folder.ts";
export type { GradientResult, UpdateResult } from "./session/session.ts";
export type { ChatMessage } from "./text/chat-template.ts";
export type { CheckReport } from "./train/check-report.ts";
export type {
  DataEvent,
  EvalEvent,
  ModelEvent,
  StepEvent,
  TrainEvent,
  TrainSummary,
} from "./train/events.ts";
export type { ErrorLine, ProgressLine, ResultLine, StartLine } from "./train/progress-lines.ts";
export { BugError, UsageError, UserError } from "./util/errors.ts";
