// The table of commands, each loaded only when it runs. To add a command, write a file beside this one that exports
// `command`, and add its line here. Not here: how argv reaches one of them (main.ts).

import type { CliCommand } from "./command.ts";

export interface CommandEntry {
  readonly summary: string;
  readonly load: () => Promise<{ readonly command: CliCommand }>;
}

export const commands: Readonly<Record<string, CommandEntry>> = {
  train: { summary: "fine-tune a model with LoRA, QLoRA or in full", load: () => import("./train.ts") },
  eval: { summary: "measure a model on rows of data", load: () => import("./eval.ts") },
  generate: { summary: "continue a prompt", load: () => import("./generate.ts") },
  chat: { summary: "talk with a model and its adapters", load: () => import("./chat.ts") },
  check: { summary: "look at a run's data and memory before it starts", load: () => import("./check.ts") },
  plan: { summary: "count memory, time and cost before paying", load: () => import("./plan.ts") },
  merge: {
    summary: "add an adapter to its base model, with a receipt",
    load: () => import("./merge.ts"),
  },
  export: { summary: "write a model or an adapter as GGUF for llama.cpp", load: () => import("./export.ts") },
  serve: { summary: "answer OpenAI's API over HTTP", load: () => import("./serve.ts") },
  ui: { summary: "show, start and steer runs in a local page", load: () => import("./ui.ts") },
  verify: {
    summary: "check a result back to its data and base, step by step",
    load: () => import("./verify.ts"),
  },
  push: { summary: "upload an adapter to the hub", load: () => import("./push.ts") },
  quantize: { summary: "write a model in 4 bits", load: () => import("./quantize.ts") },
  compare: { summary: "full, LoRA and QLoRA on your data, side by side", load: () => import("./compare.ts") },
  spectrum: { summary: "ranks that hold what training changed", load: () => import("./spectrum.ts") },
  bench: {
    summary: "time training steps against the device's measured peak",
    load: () => import("./bench.ts"),
  },
  completion: {
    summary: "print completions for bash, zsh or fish",
    load: () => import("./completion.ts"),
  },
  devices: { summary: "list what can compute here", load: () => import("./devices.ts") },
};
