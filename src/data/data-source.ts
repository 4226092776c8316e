// One of several data sets of a run: where its rows are and what holds for them alone. How it is written on a command line
// and in YAML; what weights do is mix.ts's.
//
//   rows.jsonl                              a file, a folder, a pattern, or a data set on the hub
//   rows.jsonl:weight=2,limit=500           options after the first colon that an option's name and "=" follow
//   { path: rows.jsonl, weight: 2 }         the same in YAML

import { nearestName, shownValue, UsageError, UserError } from "../util/errors.ts";
import type { TrainOn } from "./render.ts";
import type { Row } from "./row.ts";

export interface DataSource {
  readonly path: string;
  /** Its share of an epoch is this over the sum of all weights. */
  readonly weight?: number;
  /** Only so many rows, the first. */
  readonly limit?: number;
  readonly trainOn?: TrainOn;
  readonly chatTemplate?: string;
  /** From a key that lowrank reads to the key that the rows have in its place. */
  readonly columns?: Readonly<Record<string, string>>;
}

/** A path alone, or several sources, or one with options. */
export type DataChoice = string | readonly DataSource[];

export function sourcesOf(data: DataChoice): readonly DataSource[] {
  return typeof data === "string" ? [{ path: data }] : data;
}

/** With whether files have to be named by their whole path, since others of the same name are among the data. */
export function namedSources(data: DataChoice): readonly (DataSource & { readonly wholeName: boolean })[] {
  const lastOf = (path: string) => path.split(/[\\/]/).at(-1)!;
  const sources = sourcesOf(data);
  return sources.map((source) => {
    const isNamesake = ({ path }: DataSource) => path !== source.path && lastOf(path) === lastOf(source.path);
    // What a folder or a pattern holds is not known here.
    const several = (path: string) => !/\.[a-z]{2,8}$/i.test(path) || /[*?[{]/.test(path);
    if (sources.length > 1 && !rowsAreFiles(source.path)) return { ...source, wholeName: true };
    const unsure = sources.length > 1 && sources.some(({ path }) => several(path) && rowsAreFiles(path));
    return { ...source, wholeName: unsure || sources.some(isNamesake) };
  });
}

/** Rows in memory and data sets of the hub are named apart from each other already. */
function rowsAreFiles(path: string): boolean {
  return !path.startsWith("memory:");
}

/** What a message calls the data. */
export function dataName(data: DataChoice): string {
  const paths = sourcesOf(data).map(({ path }) => path);
  return paths.length > 4 ? `${paths.slice(0, 3).join(" + ")} + ${paths.length - 3} more` : paths.join(" + ");
}

const trainOns: readonly string[] = ["completions", "assistant", "all"] satisfies TrainOn[];
const SOURCES_CAP = 256;
const LIMIT_CAP = 2 ** 40;

/** In the flag's spelling, with the key that it is. */
const optionKeys: Readonly<Record<string, Exclude<keyof DataSource, "path" | "columns">>> = {
  weight: "weight",
  limit: "limit",
  "train-on": "trainOn",
  "chat-template": "chatTemplate",
};
const columnOption = /^columns?\.([^=]{1,200})$/;
const anyOption = "(?:weight|limit|train-on|chat-template|columns?\\.[^=,:]{1,200})=";

/**
 * What a user gave: a path, with or without options, an object, or a list of these. UsageError, beginning with `flag`, says
 * what of it is wrong.
 */
export function readDataChoice(given: unknown, flag: string): DataChoice {
  const list = Array.isArray(given) ? given : [given];
  if (list.length === 0 || list.length > SOURCES_CAP)
    throw new UsageError(`${flag}: expected from 1 to ${SOURCES_CAP} data sets; got ${list.length}.`);
  const sources = list.map((each: unknown) => {
    if (typeof each === "string") return fromText(each, flag);
    if (typeof each === "object" && each !== null && !Array.isArray(each))
      return checked(each as Readonly<Record<string, unknown>>, flag);
    throw new UsageError(
      `${flag}: expected a path, or { path, weight, limit, trainOn, chatTemplate, columns }; got ${shownValue(each)}.`,
    );
  });
  const [only] = sources;
  return sources.length === 1 && Object.keys(only!).length === 1 ? only!.path : sources;
}

function fromText(text: string, flag: string): DataSource {
  const start = new RegExp(`:(?=${anyOption})`).exec(text)?.index;
  if (start === undefined) {
    // A name that is nearly an option's is a slip, not a part of a path.
    const [, word] = /:([A-Za-z-]{3,20})=[^\\/]*$/.exec(text) ?? [];
    const near = word === undefined ? undefined : nearestName(word, Object.keys(optionKeys));
    if (near)
      throw new UsageError(
        `${flag}: ${text}: unknown option "${word}" of a data set. Did you mean "${near}"?`,
      );
    return checked({ path: text }, flag);
  }
  const values: Record<string, unknown> = { path: text.slice(0, start) };
  const columns: Record<string, string> = {};
  for (const part of text.slice(start + 1).split(new RegExp(`,(?=${anyOption}|[a-z.-]+=)`))) {
    const at = part.indexOf("=");
    const [name, value] = [part.slice(0, at), part.slice(at + 1)];
    const column = columnOption.exec(name)?.[1];
    const key = Object.hasOwn(optionKeys, name) ? optionKeys[name] : undefined;
    if (at < 1 || (key === undefined && column === undefined)) {
      const near = nearestName(name, Object.keys(optionKeys));
      throw new UsageError(
        `${flag}: ${text}: unknown option "${name}" of a data set; expected weight, limit, train-on, chat-template or columns.KEY.${near ? ` Did you mean "${near}"?` : ""}`,
      );
    }
    if (column !== undefined) columns[column] = value;
    else values[key!] = key === "weight" || key === "limit" ? numberOf(value) : value;
  }
  if (Object.keys(columns).length > 0) values.columns = columns;
  return checked(values, flag);
}

function numberOf(text: string): unknown {
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

function checked(given: Readonly<Record<string, unknown>>, flag: string): DataSource {
  const keys = ["path", ...Object.values(optionKeys), "columns"];
  for (const key of Object.keys(given)) {
    if (keys.includes(key)) continue;
    const near = nearestName(key, keys);
    throw new UsageError(
      `${flag}: unknown key "${key}" of a data set; expected ${keys.join(", ")}.${near ? ` Did you mean "${near}"?` : ""}`,
    );
  }
  const { path, weight, limit, trainOn, chatTemplate, columns } = given;
  const wrong = (key: string, expected: string) =>
    new UsageError(`${flag}: ${key}: expected ${expected}; got ${shownValue(given[key])}.`);
  if (typeof path !== "string" || path === "")
    throw wrong("path", "a file, a folder, a pattern or a data set");
  if (weight !== undefined && !(typeof weight === "number" && weight > 0 && weight <= 1e9))
    throw wrong("weight", "a number above 0");
  if (
    limit !== undefined &&
    !(Number.isSafeInteger(limit) && (limit as number) > 0 && (limit as number) <= LIMIT_CAP)
  )
    throw wrong("limit", "a whole number of at least 1");
  if (trainOn !== undefined && !trainOns.includes(trainOn as string))
    throw wrong("trainOn", trainOns.join(", "));
  if (chatTemplate !== undefined && (typeof chatTemplate !== "string" || chatTemplate === ""))
    throw wrong("chatTemplate", "a Jinja file or a built-in template's name");
  if (columns !== undefined && !isColumns(columns))
    throw wrong("columns", "a map from keys to the rows' own keys");
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never;
}

function isColumns(value: unknown): boolean {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((name) => typeof name === "string" && name !== "")
  );
}

/** A row under the keys that lowrank reads. A column that is named and not there leaves its key out. */
export function renamed({ id, value }: Row, columns: Readonly<Record<string, string>>): Row {
  const taken = new Set(Object.values(columns));
  const kept = Object.entries(value).filter(([key]) => !taken.has(key) && !Object.hasOwn(columns, key));
  const moved = Object.entries(columns).flatMap(([key, own]) =>
    Object.hasOwn(value, own) ? [[key, value[own]] as const] : [],
  );
  return { id, value: Object.fromEntries([...moved, ...kept]) };
}

/** Reads a row under its own names. UserError of a row that cannot be read tells of columns that it has not. */
export function readRenamed<T>(row: Row, columns: DataSource["columns"], read: (row: Row) => T): T {
  if (columns === undefined) return read(row);
  try {
    return read(renamed(row, columns));
  } catch (error) {
    const missing = Object.entries(columns).filter(([, own]) => !Object.hasOwn(row.value, own));
    if (!(error instanceof UserError) || missing.length === 0) throw error;
    const named = missing.map(([key, own]) => `columns.${key}=${own}`).join(", ");
    const keys = Object.keys(row.value).slice(0, 12).join(", ");
    throw new UserError(
      `${error.message.replace(/\.$/, "")}. ${named}: the row has no such key; it has ${keys}.`,
    );
  }
}
