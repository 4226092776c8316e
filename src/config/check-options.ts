// The options of `lowrank check`: those of train, so that a run's own YAML and flags can be checked as they stand, and a
// sweep for its learning rate. Only --out is optional, because nothing is written.

import { defineOptions, type OptionsDefinition, text, toggle, whole } from "./define.ts";
import { type TrainOptions, trainDefinition } from "./train-options.ts";

const out = text("accepted and not used: nothing is written", { default: "unused", defaultText: "" });

const sweepFields = {
  findLearningRate: toggle(
    "load the model and train a few steps at rising rates, to suggest a learning rate",
    false,
  ),
  findSteps: whole("steps of --find-learning-rate", { min: 20, max: 100_000, default: 100 }),
};

export type CheckOptions = TrainOptions & {
  readonly findLearningRate: boolean;
  readonly findSteps: number;
};

export const checkDefinition: OptionsDefinition<CheckOptions> = defineOptions({
  command: "check",
  summary: "Look at a run's data and memory before it starts; nothing is written.",
  groups: {
    ...Object.fromEntries(
      Object.entries(trainDefinition.groups).map(([heading, fields]) => [
        heading,
        "out" in fields ? { ...fields, out } : fields,
      ]),
    ),
    "A learning rate": sweepFields,
  },
  alternatives: trainDefinition.alternatives as never,
  finish: (values) => trainDefinition.finish(values as Readonly<Record<string, unknown>>) as CheckOptions,
  examples: [
    "lowrank check --model tiny --data rows.jsonl",
    "lowrank check train.yaml --eval-data test.jsonl --json",
    "lowrank check train.yaml --find-learning-rate",
    "lowrank check first.gguf --model tiny --adapter runs/first",
  ],
});
