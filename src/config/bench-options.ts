// The options of `lowrank bench`: the speed of training steps on a model, or on random weights of a bare
// config.json's shape. Not here: what is measured and how (cli/bench.ts).

import { defineOptions, modelName, type OptionsOf, whole } from "./define.ts";
import {
  adapterFields,
  batchFields,
  deviceFields,
  gradientCheckpointing,
  optimizer,
  paged,
  pagedBudget,
  quantType,
} from "./fields.ts";

export const benchDefinition = defineOptions({
  command: "bench",
  summary: "Time training steps and compare them with what the device can do.",
  groups: {
    "Model and adapter": {
      model: modelName("model as everywhere, or a bare config.json for random weights of that shape", {
        required: true,
      }),
      ...adapterFields,
      quantType,
    },
    Steps: {
      ...batchFields,
      steps: whole("steps to time", { min: 1, max: 2 ** 24, default: 10 }),
      warmup: whole("steps to run before timing", { max: 2 ** 24, default: 2 }),
      optimizer,
      gradientCheckpointing,
      paged,
      pagedBudget,
    },
    "Device and output": deviceFields,
  },
  examples: [
    "lowrank bench --model config.json --method qlora --batch-size 1 --sequence-length 512 --steps 5",
  ],
});

export type BenchOptions = OptionsOf<typeof benchDefinition>;
