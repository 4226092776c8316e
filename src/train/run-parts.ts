// What the parts of a run share: the run's loop (run.ts), its evaluations (run-evaluation.ts) and its checkpoints
// (run-saves.ts) all work on one model, session and set of options. Plain references; nothing here acts.

import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import type { Collective } from "../distributed/collective.ts";
import type { Session } from "../session/session.ts";
import type { TrainEvent } from "./events.ts";
import type { TrainableModel } from "./setup.ts";
import type { TrainingData } from "./training-data.ts";

export interface RunParts {
  readonly collective: Collective;
  readonly backend: Backend;
  readonly options: TrainOptions;
  readonly trainable: TrainableModel;
  readonly data: TrainingData;
  readonly session: Session;
  /** Logits that exist at a time, in bytes. */
  readonly logitsChunkBytes: number;
  readonly emit: (event: TrainEvent) => void;
  readonly warn: (message: string) => void;
}
