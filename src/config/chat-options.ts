// The options of `lowrank chat`. What it does is cli/chat.ts.

import { UsageError } from "../util/errors.ts";
import { defineOptions, list, type OptionsOf, text, whole } from "./define.ts";
import { chatTemplate, deviceFields, modelFields } from "./fields.ts";
import { samplingFields } from "./generate-options.ts";

export const chatDefinition = defineOptions({
  command: "chat",
  summary: "Talk with a model and its adapters in the terminal.",
  groups: {
    Model: {
      model: modelFields.model,
      adapter: list("an adapter, and what to call it; may be repeated", { placeholder: "[NAME=]DIR" }),
      chatTemplate,
      system: text("system message at the beginning"),
      context: whole("most tokens of the conversation", {
        min: 16,
        defaultText: "the model's own, at most 4096",
      }),
    },
    Sampling: samplingFields,
    Device: deviceFields,
  },
  examples: ["lowrank chat --model tiny --adapter poet=runs/first"],
  finish(values) {
    if (values.json) throw new UsageError("chat is for people; for --json use lowrank generate or serve.");
    const adapters: Record<string, string> = {};
    for (const each of values.adapter ?? []) {
      const match = /^([A-Za-z0-9][\w.-]{0,127})=(.+)$/.exec(each);
      const path = match?.[2] ?? each;
      const name =
        match?.[1] ??
        path
          .replace(/[\\/]+$/, "")
          .split(/[\\/]/)
          .at(-1)!;
      if (name === "base" || Object.hasOwn(adapters, name))
        throw new UsageError(`--adapter ${each}: the name ${name} is taken; write NAME=${path}.`);
      adapters[name] = path;
    }
    return { ...values, adapters };
  },
});

export type ChatOptions = OptionsOf<typeof chatDefinition>;
