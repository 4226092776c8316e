// What a file in this folder exports: a command, made of its options' definition and the function that runs it.
// The way from argv to frozen options is here, once for all commands. Not here: the table of commands (main.ts).

import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { jsonSchemaOf, type OptionsDefinition } from "../config/define.ts";
import { resolveOptions } from "../config/resolve.ts";
import { type ConfigFile, maxConfigBytes, parseConfig } from "../config/yaml.ts";
import { READ_WITHOUT_WAITING } from "../formats/disk.ts";
import { fetchOptions, inGivenNames } from "../library/fetch-options.ts";
import { UserError } from "../util/errors.ts";
import { parseCommandLine } from "./command-line.ts";
import { formatBytes } from "./format.ts";
import { createTerminal, type ExitCode, exitCodes, type Terminal } from "./terminal.ts";

export interface CliCommand {
  /** Runs the words after the command's name. */
  main(argv: readonly string[]): Promise<ExitCode>;
  /** What its flags are, for completion. */
  readonly definition?: OptionsDefinition<unknown>;
}

/** Joins options and action. */
export function defineCommand<Options extends { readonly json?: boolean }>(
  definition: OptionsDefinition<Options>,
  run: (options: Readonly<Options>, terminal: Terminal) => Promise<ExitCode>,
): CliCommand {
  return {
    definition,
    async main(argv) {
      const line = parseCommandLine(definition, argv);
      if (line.kind === "help") {
        createTerminal(false).print(line.text);
        return exitCodes.done;
      }
      if (line.kind === "schema") {
        createTerminal(false).print(JSON.stringify(jsonSchemaOf(definition), null, 2));
        return exitCodes.done;
      }
      const file = line.configFile === undefined ? undefined : readConfigFile(line.configFile);
      const options = resolveOptions(definition, line.flags, file);
      const terminal = createTerminal(options.json === true);
      const hooks = {
        warn: terminal.warn,
        note: terminal.note,
        progress: (path: string, done: number, total: number) =>
          terminal.status(`${path}: ${formatBytes(done)}${total > 0 ? ` of ${formatBytes(total)}` : ""}`),
      };
      await fetchOptions(definition, options, hooks).finally(() => terminal.status(""));
      return run(options, terminal).catch((error: unknown) => {
        throw inGivenNames(definition, options, error);
      });
    },
  };
}

function readConfigFile(path: string): ConfigFile {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, READ_WITHOUT_WAITING);
    const status = fstatSync(descriptor);
    if (!status.isFile()) throw new UserError(`${path}: expected a YAML file.`);
    if (status.size > maxConfigBytes) {
      throw new UserError(`${path}: expected a YAML configuration of at most ${maxConfigBytes} bytes.`);
    }
    return parseConfig(path, readFileSync(descriptor, "utf8"));
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${path}: the configuration cannot be read: ${(error as Error).message}.`);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
