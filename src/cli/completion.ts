// `lowrank completion bash|zsh|fish`: prints a script that completes commands, flags and the values of those with a
// few. What it knows comes from the commands' own definitions; the shells' languages are completion-scripts.ts.

import type { Field } from "../config/define.ts";
import { flagName } from "../config/resolve.ts";
import { nearestName, UsageError } from "../util/errors.ts";
import type { CliCommand } from "./command.ts";
import { type CompletedCommand, type CompletedFlag, scripts } from "./completion-scripts.ts";
import { createTerminal, exitCodes } from "./terminal.ts";

const shells = Object.keys(scripts);

const help = `Usage: lowrank completion <${shells.join("|")}>

Prints a script that completes lowrank's commands and flags in that shell.

Set it up:
  bash  lowrank completion bash >> ~/.bash_completion
  zsh   lowrank completion zsh > ~/.zfunc/_lowrank
        with \`fpath+=~/.zfunc; autoload -Uz compinit; compinit\` in ~/.zshrc
  fish  lowrank completion fish > ~/.config/fish/completions/lowrank.fish`;

export const command: CliCommand = {
  async main(argv) {
    const terminal = createTerminal(false);
    if (argv.some((word) => word === "--help" || word === "-h")) {
      terminal.print(help);
      return exitCodes.done;
    }
    const [shell, ...more] = argv;
    const script = shell !== undefined && Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
    if (!script || more.length > 0) {
      const near = shell === undefined ? undefined : nearestName(shell, shells);
      const found = shell === undefined ? "nothing" : argv.join(" ");
      throw new UsageError(
        `lowrank completion: expected one of ${shells.join(", ")}, found ${found}.${near && !script ? ` Did you mean ${near}?` : ""}`,
      );
    }
    terminal.print(script(await describeCommands()));
    return exitCodes.done;
  },
};

async function describeCommands(): Promise<CompletedCommand[]> {
  const { commands } = await import("./commands.ts");
  const described = Object.entries(commands).map(async ([name, { summary, load }]) => {
    const { definition } = (await load()).command;
    const flags = Object.entries(definition?.fields ?? {}).flatMap(([key, field]) =>
      describeFlags(key, field),
    );
    return {
      name,
      summary,
      flags,
      words: name === "completion" ? shells : [],
      takesYaml: definition !== undefined,
    };
  });
  return Promise.all(described);
}

/** The flags of a field: two of a switch, of which the one that changes nothing is left out. */
function describeFlags(key: string, field: Field<unknown>): CompletedFlag[] {
  const { description } = field;
  const flag = flagName(key);
  if (field.kind === "switch") {
    return [
      field.defaultOn
        ? { flag: flag.replace("--", "--no-"), description: `do not ${description}`, value: "none" }
        : { flag, description, value: "none" },
    ];
  }
  const choices = field.choices ?? (key === "model" ? ["tiny"] : []);
  return [{ flag, description, value: kindOfValue(field), choices }];
}

/** Paths are told by what help calls them. */
function kindOfValue({ placeholder, choices }: Field<unknown>): CompletedFlag["value"] {
  if (choices) return "choice";
  if (placeholder === "DIR") return "folder";
  return /^(?:M|F|FILE|F\..*)$|DIR$/.test(placeholder) ? "path" : "text";
}
