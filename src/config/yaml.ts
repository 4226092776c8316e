// Reads the text of a YAML configuration into plain values, and remembers on which line each key stands so that a
// complaint can point there. Not here: opening the file (cli/command.ts) or judging the values (resolve.ts).

import { isMap, isScalar, LineCounter, parseDocument } from "yaml";
import { UserError } from "../util/errors.ts";

/** A configuration file's values, and where they stand. */
export interface ConfigFile {
  readonly name: string;
  readonly values: Readonly<Record<string, unknown>>;
  readonly lines: Readonly<Record<string, number>>;
}

/** Far above any real configuration; a larger file is a mistake (often a data file given in its place). */
export const maxConfigBytes = 1 << 20;

/** Parses YAML 1.2 whose top level maps option names to values. Throws UserError naming file and line. */
export function parseConfig(name: string, yaml: string): ConfigFile {
  if (yaml.length > maxConfigBytes) {
    throw new UserError(`${name}: expected a YAML configuration of at most ${maxConfigBytes} bytes.`);
  }
  const counter = new LineCounter();
  const document = parseDocument(yaml, { lineCounter: counter, prettyErrors: false });
  const error = document.errors[0];
  if (error) {
    throw new UserError(
      `${name} line ${counter.linePos(error.pos[0]).line}: not valid YAML: ${error.message}`,
    );
  }
  const top = document.contents;
  if (top === null) return { name, values: {}, lines: {} };
  if (!isMap(top)) {
    throw new UserError(`${name}: expected "option: value" lines at the top level, such as "model: tiny".`);
  }
  const lines: Record<string, number> = Object.create(null);
  for (const { key } of top.items) {
    if (isScalar(key) && key.range) lines[String(key.value)] = counter.linePos(key.range[0]).line;
  }
  let values: Record<string, unknown>;
  try {
    values = document.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    throw new UserError(`${name}: not valid YAML: ${(cause as Error).message}`);
  }
  return { name, values, lines };
}
