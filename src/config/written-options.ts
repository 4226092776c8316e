// A command's options back from what they came to: the values that would give them again, as YAML has them and as a
// command line. What is the default is left out. The way there is resolve.ts.

import type { OptionsDefinition } from "./define.ts";
import { flagName } from "./resolve.ts";

/** What would have to be given. Keys that the command does not have are passed over. */
export function givenValues(
  definition: OptionsDefinition<unknown>,
  options: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(definition.fields)) {
    const value = Object.hasOwn(options, key) ? options[key] : undefined;
    if (value === undefined || value === null) continue;
    const absent = field.schema.safeParse(undefined);
    if (absent.success && JSON.stringify(absent.data) === JSON.stringify(value)) continue;
    given[key] = value;
  }
  return given;
}

/** "lowrank train --model tiny --rank 4": words quoted as a POSIX shell wants them. */
export function commandLineOf(
  definition: OptionsDefinition<unknown>,
  options: Readonly<Record<string, unknown>>,
): string {
  const words = ["lowrank", definition.command];
  for (const [key, value] of Object.entries(givenValues(definition, options))) {
    const flag = flagName(key);
    if (typeof value === "boolean") words.push(value ? flag : flag.replace("--", "--no-"));
    else for (const word of wordsOf(value)) words.push(flag, quoted(word));
  }
  return words.join(" ");
}

/** A list of plain values is one word; of data sets, and of numbers by pattern, one word each. */
function wordsOf(value: unknown): string[] {
  if (Array.isArray(value)) {
    return value.some((item) => typeof item === "object" && item !== null)
      ? value.map(sourceText)
      : [value.join(",")];
  }
  if (typeof value === "object" && value !== null)
    return Object.entries(value).map(([pattern, number]) => `${pattern}=${number}`);
  return [String(value)];
}

/** { path: "rows.jsonl", weight: 2 } as "rows.jsonl:weight=2" (data/data-source.ts). */
function sourceText(source: unknown): string {
  if (typeof source !== "object" || source === null) return String(source);
  const { path, columns, ...rest } = source as Record<string, unknown>;
  const parts = Object.entries(rest).map(([key, value]) => `${flagName(key).slice(2)}=${value}`);
  for (const [to, from] of Object.entries((columns ?? {}) as Record<string, unknown>))
    parts.push(`columns.${to}=${from}`);
  return parts.length === 0 ? String(path) : `${path}:${parts.join(",")}`;
}

function quoted(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
