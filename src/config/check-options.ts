// The options of `lowrank check`: those of train, so that a run's own YAML and flags can be checked as they stand. Only
// --out is optional, because nothing is written.

import { defineOptions, type OptionsDefinition, text } from "./define.ts";
import { type TrainOptions, trainDefinition } from "./train-options.ts";

const out = text("accepted and not used: nothing is written", { default: "unused", defaultText: "" });

export const checkDefinition: OptionsDefinition<TrainOptions> = defineOptions({
  command: "check",
  summary: "Look at a run's data and memory before it starts; nothing is trained or written.",
  groups: Object.fromEntries(
    Object.entries(trainDefinition.groups).map(([heading, fields]) => [
      heading,
      "out" in fields ? { ...fields, out } : fields,
    ]),
  ),
  alternatives: trainDefinition.alternatives as never,
  finish: (values) => trainDefinition.finish(values as Readonly<Record<string, unknown>>),
  examples: [
    "lowrank check --model tiny --data rows.jsonl",
    "lowrank check train.yaml --eval-data test.jsonl --json",
  ],
});
