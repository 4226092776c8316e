#!/usr/bin/env node
// The entry of the command line: a table of commands, each loaded only when it runs, so that help is instant. To
// add a command, write a file beside this one that exports `command`, and add its line here. Not here: what the
// commands do, or exit codes (terminal.ts).

import { readFileSync } from "node:fs";
import { nearestName, UsageError } from "../util/errors.ts";
import type { CliCommand } from "./command.ts";
import { createTerminal, type ExitCode, exitCodes, runToExit } from "./terminal.ts";

interface Entry {
  readonly summary: string;
  readonly load: () => Promise<{ readonly command: CliCommand }>;
}

const commands: Readonly<Record<string, Entry>> = {
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
  push: { summary: "upload an adapter to the hub", load: () => import("./push.ts") },
  quantize: { summary: "write a model in 4 bits", load: () => import("./quantize.ts") },
  compare: { summary: "full, LoRA and QLoRA on your data, side by side", load: () => import("./compare.ts") },
  spectrum: { summary: "ranks that hold what training changed", load: () => import("./spectrum.ts") },
  bench: {
    summary: "time training steps against the device's measured peak",
    load: () => import("./bench.ts"),
  },
  devices: { summary: "list what can compute here", load: () => import("./devices.ts") },
};

async function main(argv: readonly string[]): Promise<ExitCode> {
  const [name, ...rest] = argv;
  if (name === undefined) {
    throw new UsageError(
      `expected a command: ${Object.keys(commands).join(", ")}. \`lowrank --help\` says more.`,
    );
  }
  if (name === "--version" || name === "-V") return say(version());
  if (name === "--help" || name === "-h") return say(overview());
  if (name === "help") return rest[0] === undefined ? say(overview()) : main([rest[0], "--help"]);
  const entry = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!entry) throw unknownCommand(name);
  const { command } = await entry.load();
  return command.main(rest);
}

function say(text: string): ExitCode {
  createTerminal(false).print(text);
  return exitCodes.done;
}

function unknownCommand(name: string): UsageError {
  const near = nearestName(name, Object.keys(commands));
  const what = name.startsWith("-") ? `a command before ${name}` : `a command; "${name}" is none`;
  return new UsageError(
    `expected ${what}. ${near ? `Did you mean "${near}"?` : "`lowrank --help` lists the commands."}`,
  );
}

function version(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`);
  return [
    "Usage: lowrank <command> [config.yaml] [flags]",
    "",
    "Fine-tune language models with LoRA, QLoRA or in full: on a GPU or a plain CPU, without Python.",
    "",
    "Commands:",
    ...lines,
    "",
    "`lowrank <command> --help` lists a command's flags. YAML keys are the flags in camelCase; flags win.",
    "`--json` prints one JSON document on stdout. `lowrank --version` prints the version.",
  ].join("\n");
}

await runToExit(() => main(process.argv.slice(2)));
