// The options of `lowrank merge`. What they do is publish/merge-folder.ts.

import {
  choice,
  dataFile,
  defineOptions,
  modelName,
  type OptionsOf,
  real,
  text,
  toggle,
  whole,
} from "./define.ts";
import { chatTemplate, deviceFields, modelFields } from "./fields.ts";

export const mergeDefinition = defineOptions({
  command: "merge",
  summary:
    "Add an adapter to its base model's weights, and measure what came out against the adapter on the base.",
  groups: {
    Merge: {
      model: modelFields.model,
      adapter: text("folder of a LoRA adapter in PEFT layout", { required: true, placeholder: "DIR" }),
      base: modelName("the original, full-precision model to merge into, where --model is stored in 4 bits"),
      chatTemplate,
      out: text("folder to write; must be new or empty", { required: true, placeholder: "DIR" }),
      dtype: choice(
        ["auto", "f32", "f16", "bf16"],
        "dtype of the merged weights; auto is the base's own, bf16 of a quantised one",
        {
          default: "auto",
        },
      ),
    },
    Receipt: {
      sampleData: dataFile("rows to compare the models on, in place of the built-in text"),
      sampleTokens: whole("most tokens of sample text", { min: 2, max: 65536, default: 512 }),
      maxKl: real("largest mean KL divergence, in nats a token, from the adapter on its base", {
        min: 0,
        default: 0.01,
      }),
      maxKlQuantized: real("the same from the adapter on the 4-bit base it was trained on", {
        min: 0,
        default: 0.5,
      }),
      force: toggle("keep the merged model even when it is above the bound", false),
    },
    "Device and output": {
      ...deviceFields,
      precision: choice(["auto", "fp32"], "arithmetic of products; a merge is always fp32", {
        default: "auto",
      }),
    },
  },
  examples: ["lowrank merge --model tiny --adapter runs/first --out runs/first-merged"],
});

export type MergeCommandOptions = OptionsOf<typeof mergeDefinition>;
