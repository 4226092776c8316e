// The command line of one command, derived from its options' definition: flags, --help, and what argv gave. An
// unknown flag is refused with the nearest right one. Not here: the table of commands (main.ts), values' checking
// (config/resolve.ts).

import { Command, CommanderError, Option } from "commander";
import type { Field, OptionsDefinition } from "../config/define.ts";
import { type FlagValues, flagName } from "../config/resolve.ts";
import { nearestName, UsageError } from "../util/errors.ts";
import { formatExample, helpLayout } from "./help-text.ts";

/** What argv asks for. */
export type CommandLine =
  | { readonly kind: "run"; readonly configFile?: string; readonly flags: FlagValues }
  | { readonly kind: "help"; readonly text: string }
  | { readonly kind: "schema" };

/** Reads the words after the command's name. Throws UsageError. */
export function parseCommandLine(
  definition: OptionsDefinition<unknown>,
  argv: readonly string[],
): CommandLine {
  const command = buildCommand(definition);
  if (argv.some((word) => word === "--help" || word === "-h"))
    return { kind: "help", text: helpText(command) };
  try {
    command.parse(argv, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) throw wrongUsage(definition, error, argv);
    throw error;
  }
  const { printSchema, ...flags } = command.opts() as FlagValues & { printSchema?: true };
  if (printSchema) return { kind: "schema" };

  const [configFile, ...more] = command.args;
  if (more.length > 0 || (configFile !== undefined && !/\.ya?ml$/i.test(configFile))) {
    const word = more[0] ?? configFile;
    throw new UsageError(
      `lowrank ${definition.command}: unexpected "${word}": besides flags, only one config.yaml may be given.`,
    );
  }
  return { kind: "run", configFile, flags };
}

function buildCommand(definition: OptionsDefinition<unknown>): Command {
  const command = new Command(`lowrank ${definition.command}`)
    .description(definition.summary)
    .argument("[config.yaml]", "options as YAML: the flags' names in camelCase; flags win")
    .allowExcessArguments()
    .exitOverride()
    .configureOutput({ writeOut: () => {}, writeErr: () => {}, outputError: () => {} })
    .configureHelp(helpLayout)
    .helpOption(false);
  for (const [heading, fields] of Object.entries(definition.groups)) {
    for (const [key, field] of Object.entries(fields)) {
      for (const option of optionsOf(key, field)) command.addOption(option.helpGroup(`${heading}:`));
    }
  }
  command.addOption(
    new Option("--print-schema", "print the JSON Schema of the YAML file").helpGroup("Help:"),
  );
  command.addOption(new Option("-h, --help", "print this").helpGroup("Help:"));
  if (definition.examples.length > 0) {
    command.addHelpText("after", `\nExamples:\n${definition.examples.map(formatExample).join("\n")}`);
  }
  return command;
}

/** --name <N>; or, for a switch, --name and --no-name, of which help shows the one that changes the default. */
function optionsOf(key: string, field: Field<unknown>): Option[] {
  const flag = flagName(key);
  const description = describe(field);
  if (field.kind === "switch") {
    const on = new Option(flag, description).hideHelp(field.defaultOn);
    const off = new Option(flag.replace("--", "--no-"), `do not ${description}`).hideHelp(!field.defaultOn);
    return [on, off];
  }
  const option = new Option(`${flag} <${field.placeholder}${field.variadic ? "..." : ""}>`, description);
  if (field.kind === "list" && !field.variadic) {
    option.argParser((word: string, before: readonly string[] = []) => [...before, word]);
  }
  return [option];
}

function describe(field: Field<unknown>): string {
  if (field.required) return `${field.description} (required)`;
  return field.defaultText === undefined
    ? field.description
    : `${field.description} (default: ${field.defaultText})`;
}

function helpText(command: Command): string {
  let text = "";
  command.configureOutput({ writeOut: (part) => void (text += part) });
  command.outputHelp();
  return text.trimEnd();
}

function wrongUsage(
  definition: OptionsDefinition<unknown>,
  error: CommanderError,
  argv: readonly string[],
): UsageError {
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? "";
  if (error.code === "commander.unknownOption") {
    const given = quoted.split("=")[0]!;
    const known = Object.entries(definition.fields).flatMap(([key, field]) =>
      field.kind === "switch" ? [flagName(key), flagName(key).replace("--", "--no-")] : [flagName(key)],
    );
    // With a value behind "=", which a switch does not take.
    if (known.includes(given)) {
      const other = given.startsWith("--no-") ? given.replace("--no-", "--") : given.replace("--", "--no-");
      return new UsageError(
        `lowrank ${definition.command}: ${given} takes no value; write ${given} or ${other}.`,
      );
    }
    const near = nearestName(given, known);
    const hint = near
      ? `Did you mean ${near}?`
      : `\`lowrank ${definition.command} --help\` lists what there is.`;
    return new UsageError(`unknown flag ${given} for lowrank ${definition.command}. ${hint}`);
  }
  if (error.code === "commander.optionMissingArgument") {
    return new UsageError(`lowrank ${definition.command}: ${quoted} needs a value, and the line ends there.`);
  }
  const reason = error.message.replace(/^error: /, "");
  return new UsageError(`lowrank ${definition.command}: ${reason} (given: ${argv.join(" ")})`);
}
