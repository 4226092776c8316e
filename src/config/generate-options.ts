// The options of `lowrank generate`: one prompt in, one continuation out. Not here: how a token is drawn
// (generate/sampler.ts).

import { defineOptions, type OptionsOf, real, text } from "./define.ts";
import { deviceFields, maxNewTokens, modelFields } from "./fields.ts";

/** How tokens are drawn; `chat` and `serve` share it. */
export const samplingFields = {
  maxNewTokens,
  temperature: real("randomness of sampling; 0 always takes the likeliest token", { min: 0, default: 0 }),
  topP: real("sample among the likeliest tokens that hold this much probability", {
    min: 0,
    max: 1,
    default: 1,
  }),
};

export const generateDefinition = defineOptions({
  command: "generate",
  summary: "Continue a prompt.",
  groups: {
    Model: modelFields,
    Sampling: {
      prompt: text("text to continue", { required: true }),
      ...samplingFields,
    },
    "Device and output": deviceFields,
  },
  examples: ['lowrank generate --model tiny --adapter runs/first --prompt "Once upon a time"'],
});

export type GenerateOptions = OptionsOf<typeof generateDefinition>;
