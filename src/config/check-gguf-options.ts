// The options of `lowrank check F.gguf`. What they do is publish/gguf-receipt.ts.

import { UsageError } from "../util/errors.ts";
import { defineOptions, modelName, type OptionsOf, real, text } from "./define.ts";
import { chatTemplate, deviceFields } from "./fields.ts";

export const checkGgufDefinition = defineOptions({
  command: "check",
  summary:
    "Read a GGUF file as a model, and hold it against what it was made of and against llama.cpp where node-llama-cpp is installed.",
  groups: {
    File: {
      file: text("the GGUF file, which may stand before the flags", {
        required: true,
        placeholder: "F.gguf",
      }),
      model: modelName("what it was made of: a folder or a name on the hub"),
      adapter: text("the adapter that was merged into it", { placeholder: "DIR" }),
      chatTemplate,
      bound: real("the most that the mean KL divergence from what it was made of may be, in nats", {
        defaultText: "by the file's type: from 0.0001 of f32 to 0.4 of 4 bits",
        min: 0,
      }),
    },
    "Device and output": deviceFields,
  },
  examples: ["lowrank check first.gguf --model tiny --adapter runs/first"],
  finish(values) {
    const { model, adapter, chatTemplate: template } = values;
    if (model === undefined && (adapter !== undefined || template !== undefined)) {
      throw new UsageError(
        `${adapter === undefined ? "--chat-template" : "--adapter"} needs --model: what the file was made of.`,
      );
    }
    return values;
  },
});

export type CheckGgufOptions = OptionsOf<typeof checkGgufDefinition>;
