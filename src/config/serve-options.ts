// The options of `lowrank serve`. What they do is serve/.

import { UsageError } from "../util/errors.ts";
import { defineOptions, list, type OptionsOf, size, text, whole } from "./define.ts";
import { cacheFields, chatTemplate, deviceFields, modelFields } from "./fields.ts";

const { seed: _, ...device } = deviceFields;

export const serveDefinition = defineOptions({
  command: "serve",
  summary: "Answer OpenAI's API over HTTP: chat and completions, adapters by name over one base.",
  groups: {
    Model: {
      model: modelFields.model,
      name: text("what the base is called in requests", { defaultText: "the last part of --model" }),
      adapter: list("an adapter and what it is called in requests; may be repeated", {
        placeholder: "NAME=DIR",
      }),
      adapterFolder: text("folder whose subfolders may be loaded as adapters while running", {
        placeholder: "DIR",
      }),
      chatTemplate,
      context: whole("most tokens of a sequence, prompt and answer", {
        min: 2,
        defaultText: "the model's own, at most 4096",
      }),
      slots: whole("requests that run at the same time", { min: 1, max: 1024, default: 8 }),
      ...cacheFields,
    },
    Server: {
      host: text("address to listen on; any but loopback needs --api-key", {
        default: "127.0.0.1",
        placeholder: "ADDRESS",
      }),
      port: whole("port to listen on; 0 takes any free one", { max: 65535, default: 8000 }),
      apiKey: text("key that clients must send; also read from LOWRANK_API_KEY", { placeholder: "K" }),
      maxTokens: whole("most new tokens of an answer", { min: 1, default: 4096 }),
      maxRequests: whole("requests at work or waiting at one time; more are refused", {
        min: 1,
        default: 256,
      }),
      maxBody: size("largest body of a request", { default: 4_000_000, defaultText: "4MB" }),
      timeout: whole("seconds an answer may take", { min: 1, max: 86400, default: 300 }),
      grace: whole("seconds that requests at work get when the server is told to end", { default: 30 }),
    },
    "Device and output": device,
  },
  examples: [
    "lowrank serve --model tiny --adapter poet=runs/first",
    "LOWRANK_API_KEY=secret lowrank serve --model tiny --host 0.0.0.0",
  ],
  finish(values) {
    const adapters: Record<string, string> = {};
    for (const each of values.adapter ?? []) {
      const match = /^([A-Za-z0-9][\w.-]{0,127})=(.+)$/.exec(each);
      if (!match) {
        throw new UsageError(
          `--adapter ${each}: expected NAME=DIR, the name plain letters, digits, dots, dashes and underscores.`,
        );
      }
      if (Object.hasOwn(adapters, match[1]!)) throw new UsageError(`--adapter ${match[1]} is given twice.`);
      adapters[match[1]!] = match[2]!;
    }
    return { ...values, adapters };
  },
});

export type ServeOptions = OptionsOf<typeof serveDefinition>;
