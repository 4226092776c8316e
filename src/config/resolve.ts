// Turns what a user gave into a command's options: defaults < YAML < flags, or the properties of an object given in
// TypeScript; every value checked once, the result frozen. Complaints say where the value stands, what was expected
// and what was found. Not here: reading argv (cli/command-line.ts) or YAML (yaml.ts).

import { nearestName, shownValue, UsageError } from "../util/errors.ts";
import type { Field, OptionsDefinition } from "./define.ts";
import type { ConfigFile } from "./yaml.ts";

/** What the command line gave: keys in camelCase; words still as text, switches as booleans. */
export type FlagValues = Readonly<Record<string, unknown>>;

/** learningRate -> --learning-rate */
export function flagName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** The checked, frozen options. Throws UsageError on an unknown key or a wrong value, with the nearest right one. */
export function resolveOptions<Options>(
  definition: OptionsDefinition<Options>,
  flags: FlagValues,
  file?: ConfigFile,
): Readonly<Options> {
  const { fields } = definition;
  const given = new Map<string, unknown>();
  for (const [key, value] of Object.entries(file?.values ?? {})) {
    if (!Object.hasOwn(fields, key)) throw unknownKey(definition, key, file!);
    given.set(key, value);
  }
  for (const [key, value] of Object.entries(flags)) {
    if (value !== undefined) given.set(key, fromFlag(fields[key], value));
  }

  for (const pair of definition.alternatives) {
    if (!pair.every((key) => given.has(key))) continue;
    const flagged = pair.filter((key) => flags[key] !== undefined);
    if (flagged.length !== 1) {
      throw new UsageError(
        `${flagName(pair[0])} and ${flagName(pair[1])} exclude each other: give one of them.`,
      );
    }
    given.delete(pair.find((key) => key !== flagged[0])!);
  }

  const parsed = definition.schema.safeParse(Object.fromEntries(given));
  if (!parsed.success) {
    const keys = [...new Set(parsed.error.issues.map((issue) => String(issue.path[0] ?? "")))];
    const complaints = keys.map((key) => complaint(definition, key, given, flags, file));
    throw new UsageError(complaints.join("\n"));
  }
  return Object.freeze(definition.finish(parsed.data as Record<string, unknown>));
}

/**
 * The same for an object given to a function of the library, whose name begins the complaints. Properties that are
 * undefined count as left out.
 */
export function resolveInput<Options>(
  definition: OptionsDefinition<Options>,
  input: object,
  caller: string,
): Readonly<Options> {
  const given = new Map(Object.entries(input).filter(([, value]) => value !== undefined));
  for (const key of given.keys()) {
    if (Object.hasOwn(definition.fields, key)) continue;
    const near = nearestName(key, Object.keys(definition.fields));
    const hint = near ? `Did you mean "${near}"?` : `There are ${Object.keys(definition.fields).join(", ")}.`;
    throw new UsageError(`${caller}: unknown option "${key}". ${hint}`);
  }
  for (const [one, other] of definition.alternatives) {
    if (given.has(one) && given.has(other))
      throw new UsageError(`${caller}: "${one}" and "${other}" exclude each other: give one of them.`);
  }
  const parsed = definition.schema.safeParse(Object.fromEntries(given));
  if (!parsed.success) {
    const keys = [...new Set(parsed.error.issues.map((issue) => String(issue.path[0] ?? "")))];
    const complaints = keys.map((key) => {
      const field = definition.fields[key]!;
      return given.has(key)
        ? `${key}: expected ${field.expected}; got ${shownValue(given.get(key))}.${nearChoice(field, given.get(key))}`
        : `"${key}" is missing: ${field.description}.`;
    });
    throw new UsageError(`${caller}: ${complaints.join("\n")}`);
  }
  try {
    return Object.freeze(definition.finish(parsed.data as Record<string, unknown>));
  } catch (error) {
    // Rules between fields are written in flags.
    if (error instanceof UsageError) throw new UsageError(`${caller}: ${inKeys(error.message)}`);
    throw error;
  }
}

/** --eval-every -> evalEvery, in running text. */
function inKeys(text: string): string {
  return text.replace(/--([a-z][a-z0-9-]*)/g, (_, flag: string) =>
    flag.replace(/-([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase()),
  );
}

/** A flag's word as its field's kind; a word that is no number stays text, for the schema to refuse. */
function fromFlag(field: Field<unknown> | undefined, value: unknown): unknown {
  if (field?.kind !== "number" || typeof value !== "string") return value;
  return value.trim() === "" || Number.isNaN(Number(value)) ? value : Number(value);
}

function unknownKey(definition: OptionsDefinition<unknown>, key: string, file: ConfigFile): UsageError {
  const near = nearestName(key, Object.keys(definition.fields));
  const hint = near
    ? `Did you mean "${near}"?`
    : `\`lowrank ${definition.command} --help\` lists what there is.`;
  return new UsageError(`${place(key, file)}unknown key "${key}" for lowrank ${definition.command}. ${hint}`);
}

function complaint(
  definition: OptionsDefinition<unknown>,
  key: string,
  given: ReadonlyMap<string, unknown>,
  flags: FlagValues,
  file: ConfigFile | undefined,
): string {
  const field = definition.fields[key];
  if (!field) return `lowrank ${definition.command}: unknown option "${key}".`;
  if (!given.has(key)) {
    const how = `${flagName(key)} ${field.placeholder}`;
    return `lowrank ${definition.command} needs ${how} (or "${key}:" in a YAML file): ${field.description}.`;
  }
  const fromCommandLine = flags[key] !== undefined || !file;
  const where = fromCommandLine ? `${flagName(key)}: ` : `${place(key, file)}${key}: `;
  const value = given.get(key);
  return `${where}expected ${field.expected}; got ${shownValue(value)}.${nearChoice(field, value)}`;
}

function nearChoice(field: Field<unknown>, value: unknown): string {
  const near = field.choices && typeof value === "string" ? nearestName(value, field.choices) : undefined;
  return near ? ` Did you mean ${near}?` : "";
}

function place(key: string, file: ConfigFile): string {
  const line = file.lines[key];
  return line === undefined ? `${file.name}: ` : `${file.name} line ${line}: `;
}
