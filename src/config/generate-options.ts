// The options of `lowrank generate`: one prompt in, one continuation out. Not here: how a token is drawn
// (generate/sampler.ts).

import { UsageError } from "../util/errors.ts";
import { defineOptions, type OptionsOf, real, text, toggle, whole } from "./define.ts";
import { chatTemplate, deviceFields, maxNewTokens, modelFields } from "./fields.ts";

/** How tokens are drawn; `chat` and `serve` share it. */
export const samplingFields = {
  maxNewTokens,
  temperature: real("randomness of sampling; 0 always takes the likeliest token", { min: 0, default: 0 }),
  topP: real("sample among the likeliest tokens that hold this much probability", {
    min: 0,
    max: 1,
    default: 1,
  }),
  topK: whole("sample among this many of the likeliest tokens; 0 is all", { default: 0 }),
  minP: real("sample among tokens at least this likely relative to the likeliest; 0 is all", {
    min: 0,
    max: 1,
    default: 0,
  }),
  repetitionPenalty: real("divides the likelihood of tokens seen before; 1 does nothing", {
    min: 0,
    open: true,
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
      chat: toggle("give the prompt as a user's message through the chat template", false),
      chatTemplate,
      stop: text("end before this text appears"),
      ...samplingFields,
    },
    "Device and output": deviceFields,
  },
  examples: ['lowrank generate --model tiny --adapter runs/first --prompt "Once upon a time"'],
  finish(values) {
    if (values.chatTemplate !== undefined && !values.chat) {
      throw new UsageError("--chat-template needs --chat: without it the prompt is continued as it stands.");
    }
    return values;
  },
});

export type GenerateOptions = OptionsOf<typeof generateDefinition>;
