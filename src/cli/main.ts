#!/usr/bin/env node
// The entry of the command line: from argv to one of the commands (commands.ts), which loads only then, so that help is
// instant. Not here: what the commands do, or exit codes (terminal.ts).

import { readFileSync } from "node:fs";
import { nearestName, UsageError } from "../util/errors.ts";
import { wrapWords } from "./columns.ts";
import { commands } from "./commands.ts";
import { formatItem, HELP_COLUMNS } from "./help-text.ts";
import { createTerminal, type ExitCode, exitCodes, runToExit } from "./terminal.ts";

async function main(argv: readonly string[]): Promise<ExitCode> {
  const [name, ...rest] = argv;
  if (name === undefined) return say(overview());
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
  const wrapped = (text: string) => wrapWords(text, HELP_COLUMNS).join("\n");
  return [
    "Usage: lowrank <command> [config.yaml] [flags]",
    "",
    wrapped(
      "Fine-tune language models with LoRA, QLoRA or in full: on a GPU or a plain CPU, without Python.",
    ),
    "",
    "Commands:",
    ...Object.entries(commands).map(([name, { summary }]) => formatItem(name, summary, width)),
    "",
    wrapped(
      "`lowrank <command> --help` lists a command's flags. YAML keys are the flags in camelCase; flags win. `--json` prints one JSON document on stdout, and for train a line an event. `lowrank --version` prints the version.",
    ),
    "",
    "Try it: lowrank generate --model tiny --prompt 'Once upon a time'",
  ].join("\n");
}

await runToExit(() => main(process.argv.slice(2)));
