// The options of `lowrank spectrum`: whose update, and what share of it a proposed rank must hold.

import { UsageError } from "../util/errors.ts";
import { defineOptions, modelName, type OptionsOf, real, text, toggle, whole } from "./define.ts";

export const spectrumDefinition = defineOptions({
  command: "spectrum",
  summary: "Singular values of what training changed, and the ranks that would have held it.",
  groups: {
    "The update": {
      base: modelName("the model before training"),
      tuned: modelName("the model after full fine-tuning", { placeholder: "M2" }),
      adapter: text("a LoRA adapter, in place of --base and --tuned", { placeholder: "DIR" }),
    },
    Proposal: {
      share: real("part of each update's energy that a proposed rank must hold", {
        min: 0,
        max: 1,
        open: true,
        default: 0.95,
      }),
      maxRank: whole("largest rank to propose", { min: 1, max: 4096, default: 64 }),
    },
    Output: {
      values: whole("singular values of each module in the JSON document", { min: 1, default: 64 }),
      json: toggle("print one JSON document on stdout and nothing else there", false),
    },
  },
  examples: [
    "lowrank spectrum --base tiny --tuned runs/full",
    "lowrank spectrum --adapter runs/first --json",
  ],
  finish(values) {
    const pair = values.base !== undefined && values.tuned !== undefined;
    if (pair === (values.adapter !== undefined)) {
      throw new UsageError("lowrank spectrum needs either --base M and --tuned M2, or --adapter DIR.");
    }
    return values;
  },
});

export type SpectrumCommandOptions = OptionsOf<typeof spectrumDefinition>;
