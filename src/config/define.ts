// How a command declares its options: each field is one line that holds its kind, its meaning, its range and its
// default, and everything else is derived from it: the YAML keys, the flags and their help (cli/command-line.ts),
// the merging and checking (resolve.ts), the JSON Schema and the TypeScript type. Not here: the fields of any one
// command (train-options.ts and its siblings), or those that commands share (fields.ts).

import { z } from "zod";

export type FieldKind = "text" | "number" | "switch" | "choice" | "list" | "size";

/** One option of a command: a key in YAML, a flag on the command line, a property in TypeScript. */
export interface Field<T, In = unknown> {
  readonly kind: FieldKind;
  readonly description: string;
  /** What a value must be, as the object of "expected": "a whole number of at least 1". */
  readonly expected: string;
  /** What the value is called in help: DIR, N. Empty for a switch. */
  readonly placeholder: string;
  readonly required: boolean;
  /** The default as help shows it; absent when there is none to show. */
  readonly defaultText?: string;
  /** The default of a switch decides whether help shows --x or --no-x. */
  readonly defaultOn: boolean;
  readonly choices?: readonly string[];
  /** What the value may name on the hub: a model, a model of which only config.json is read, or rows of data. */
  readonly names?: "model" | "config" | "data";
  /** On the command line, takes every word up to the next flag. */
  readonly variadic: boolean;
  readonly schema: z.ZodType<T>;
  /** Never set: carries the type of what may be given, undefined among it where the field may be left out. */
  readonly takes?: In;
}

export type Fields = Readonly<Record<string, Field<unknown>>>;

/** The checked values of a set of fields. */
export type Values<F extends Fields> = {
  readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never;
};

/** What may be given for a set of fields: those with a default, or without need, may be left out. */
export type Inputs<F extends Fields> = {
  readonly [K in keyof F as undefined extends Taken<F[K]> ? never : K]: Taken<F[K]>;
} & { readonly [K in keyof F as undefined extends Taken<F[K]> ? K : never]?: Taken<F[K]> };
type Taken<T> = T extends Field<unknown, infer In> ? In : never;

/** A command's options: fields under headings, and the rules that concern several of them. */
export interface OptionsDefinition<Options, Input = unknown> {
  readonly command: string;
  /** One sentence for help. */
  readonly summary: string;
  /** Fields under the headings of the help text. */
  readonly groups: Readonly<Record<string, Fields>>;
  /** All groups in one. */
  readonly fields: Fields;
  readonly schema: z.ZodType;
  /** Command lines shown under help. */
  readonly examples: readonly string[];
  /** Pairs of keys of which at most one may be given; a flag displaces the other in YAML. */
  readonly alternatives: readonly (readonly [string, string])[];
  /** Keys that say where, when and with how much memory, and do not decide what comes out. All others do. */
  readonly places: readonly string[];
  /** From checked single values to the options: defaults that depend on other fields, and rules between fields. */
  finish(values: Readonly<Record<string, unknown>>): Options;
  /** Never set: carries the type of what may be given. */
  readonly takes?: Input;
}

/** Declares a command's options. `finish` throws UsageError where fields contradict each other. */
export function defineOptions<const G extends Record<string, Fields>, Options = MergedValues<G>>(definition: {
  command: string;
  summary: string;
  groups: G;
  examples?: readonly string[];
  alternatives?: readonly (readonly [keyof MergedValues<G> & string, keyof MergedValues<G> & string])[];
  places?: readonly (keyof MergedValues<G> & string)[];
  finish?: (values: MergedValues<G>) => Options;
}): OptionsDefinition<Options, MergedInputs<G>> {
  const fields: Fields = Object.assign({}, ...Object.values(definition.groups));
  const shape = Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.schema]));
  const finish = definition.finish ?? ((values: MergedValues<G>) => values as unknown as Options);
  return {
    command: definition.command,
    summary: definition.summary,
    groups: definition.groups,
    fields,
    schema: z.strictObject(shape),
    examples: definition.examples ?? [],
    alternatives: definition.alternatives ?? [],
    places: definition.places ?? [],
    finish: (values) => finish(values as MergedValues<G>),
  };
}

/** The options that decide what comes out. */
export function recipeOf<Options extends object>(
  definition: OptionsDefinition<Options>,
  options: Options,
): Partial<Options> {
  const decides = ([key]: [string, unknown]) => !definition.places.includes(key);
  return Object.fromEntries(Object.entries(options).filter(decides)) as Partial<Options>;
}

/** The values of all groups together. */
export type MergedValues<G extends Record<string, Fields>> = Flatten<UnionToIntersection<ValuesOf<G>>>;
/** What may be given for all groups together. */
export type MergedInputs<G extends Record<string, Fields>> = Flatten<UnionToIntersection<InputsOf<G>>>;
type InputsOf<G extends Record<string, Fields>> = { [K in keyof G]: Inputs<G[K]> }[keyof G];
type ValuesOf<G extends Record<string, Fields>> = { [K in keyof G]: Values<G[K]> }[keyof G];
type UnionToIntersection<U> = (U extends unknown ? (u: U) => void : never) extends (i: infer I) => void
  ? I
  : never;
type Flatten<T> = { readonly [K in keyof T]: T[K] };

/** The options that a definition leads to. */
export type OptionsOf<D> = D extends OptionsDefinition<infer Options, unknown> ? Options : never;

/** What may be given to a definition, as a typed object. */
export type InputOf<D> = D extends OptionsDefinition<unknown, infer Input> ? Input : never;

/** JSON Schema of the YAML file: what an editor needs to complete and check it. */
export function jsonSchemaOf(definition: OptionsDefinition<unknown>): unknown {
  return { title: `lowrank ${definition.command}`, ...z.toJSONSchema(definition.schema, { io: "input" }) };
}

export interface More<T> {
  readonly default?: T;
  readonly required?: true;
  readonly placeholder?: string;
  /** Shown as the default where the real one depends on other fields. */
  readonly defaultText?: string;
}
export type Present<T, M> = M extends { default: T } | { required: true } ? T : T | undefined;
export type Given<T, M> = M extends { required: true } ? T : T | undefined;

/** Free text: a path, a name, a prompt. */
export function text<const M extends More<string>>(
  description: string,
  more?: M,
): Field<Present<string, M>, Given<string, M>> {
  const schema = z.string().min(1);
  return field("text", "text", schema, description, { placeholder: "TEXT", ...more });
}

/** A model: a folder, "tiny", or a name on the hub, fetched before it is used. */
export function modelName<const M extends More<string>>(
  description: string,
  more?: M,
): Field<Present<string, M>, Given<string, M>> {
  return { ...text(description, { placeholder: "M", ...more }), names: "model" } as never;
}

/** A model of which only the configuration is read; also a bare config.json. */
export function configName<const M extends More<string>>(
  description: string,
  more?: M,
): Field<Present<string, M>, Given<string, M>> {
  return { ...text(description, { placeholder: "M", ...more }), names: "config" } as never;
}

/** Rows of data: a file, or a data set on the hub, fetched before it is used. */
export function dataFile<const M extends More<string>>(
  description: string,
  more?: M,
): Field<Present<string, M>, Given<string, M>> {
  return { ...text(description, { placeholder: "F", ...more }), names: "data" } as never;
}

/** Text that YAML may also give as a list; the list's items are joined with commas. */
export function commaText<const M extends More<string>>(
  description: string,
  more?: M,
): Field<Present<string, M>, Given<string | readonly string[], M>> {
  const schema = z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .transform((value) => (typeof value === "string" ? value : value.join(",")));
  return field("text", "text, or a list of texts", schema, description, { placeholder: "LIST", ...more });
}

/** A whole number within [min, max]. */
export function whole<const M extends More<number> & { min?: number; max?: number }>(
  description: string,
  more?: M,
): Field<Present<number, M>, Given<number, M>> {
  const min = more?.min ?? 0;
  const max = more?.max ?? Number.MAX_SAFE_INTEGER;
  const upTo = more?.max === undefined ? `of at least ${min}` : `from ${min} to ${max}`;
  const schema = z.int().min(min).max(max);
  return field("number", `a whole number ${upTo}`, schema, description, { placeholder: "N", ...more });
}

/** A finite number within [min, max], or within the open interval when `open`. */
export function real<const M extends More<number> & { min: number; max?: number; open?: true }>(
  description: string,
  more: M,
): Field<Present<number, M>, Given<number, M>> {
  const { min, max, open } = more;
  let schema = open ? z.number().gt(min) : z.number().min(min);
  if (max !== undefined) schema = open ? schema.lt(max) : schema.max(max);
  const low = open ? `above ${min}` : `of at least ${min}`;
  const high = max === undefined ? "" : open ? ` and below ${max}` : ` and at most ${max}`;
  return field("number", `a number ${low}${high}`, schema, description, { placeholder: "X", ...more });
}

/** Yes or no: --name and --no-name; true and false in YAML. */
export function toggle(description: string, on: boolean): Field<boolean, boolean | undefined> {
  const more = { default: on, placeholder: "", defaultText: "" };
  return field("switch", "true or false", z.boolean(), description, more);
}

/** One of a few names. */
export function choice<const C extends readonly string[], const M extends More<C[number]>>(
  choices: C,
  description: string,
  more?: M,
): Field<Present<C[number], M>, Given<C[number], M>> {
  const schema = z.enum(choices as unknown as [C[number], ...C[number][]]);
  const placeholder = more?.placeholder ?? choices.join("|");
  const expected = `one of ${choices.join(", ")}`;
  return { ...field("choice", expected, schema, description, { ...more, placeholder }), choices } as Field<
    Present<C[number], M>,
    Given<C[number], M>
  >;
}

/** Several texts: a YAML list, or words separated by commas; on the command line also the flag repeated. */
export function list<const M extends More<readonly string[]> & { variadic?: true }>(
  description: string,
  more?: M,
): Field<Present<readonly string[], M>, Given<string | readonly string[], M>> {
  const schema = z.preprocess(splitCommas, z.array(z.string().min(1)).min(1));
  return field("list", "a list of texts", schema, description, { placeholder: "LIST", ...more });
}

/** Several of a few names, in any order, none twice. */
export function choices<const C extends readonly string[], const M extends More<readonly C[number][]>>(
  allowed: C,
  description: string,
  more?: M,
): Field<Present<readonly C[number][], M>, Given<readonly C[number][], M>> {
  const names = z.enum(allowed as unknown as [C[number], ...C[number][]]);
  const distinct = z
    .array(names)
    .min(1)
    .refine((given) => new Set(given).size === given.length);
  const schema = z.preprocess(splitCommas, distinct);
  const expected = `a list of ${allowed.join(", ")}, none twice`;
  return field("list", expected, schema, description, { placeholder: allowed.join(","), ...more });
}

/** Several whole numbers of at least `min`, or 1: a YAML list, or numbers separated by commas. */
export function wholes<const M extends More<readonly number[]> & { min?: number }>(
  description: string,
  more?: M,
): Field<Present<readonly number[], M>, Given<number | readonly number[], M>> {
  const toNumbers = (value: unknown) => {
    const items = splitCommas(typeof value === "number" ? [value] : value);
    return Array.isArray(items)
      ? items.map((item) => (typeof item === "string" ? Number(item) : item))
      : items;
  };
  const min = more?.min ?? 1;
  const schema = z.preprocess(toNumbers, z.array(z.int().min(min)).min(1));
  return field("list", `a list of whole numbers of at least ${min}`, schema, description, {
    placeholder: "N,N,..",
    ...more,
  });
}

/** Numbers by pattern: a YAML map; on the command line PATTERN=NUMBER, the flag repeated, or the map as JSON. */
export function numbersByPattern(
  description: string,
  number: { readonly min: number; readonly max: number; readonly whole?: true },
  more?: More<Readonly<Record<string, number>>>,
): Field<
  Readonly<Record<string, number>> | undefined,
  Readonly<Record<string, number>> | string | readonly string[] | undefined
> {
  const bare = number.whole ? z.int() : z.number();
  const value = bare.min(number.min).max(number.max);
  const schema = z.preprocess(patternsOf, z.record(z.string().min(1).max(1000), value));
  const expected = "PATTERN=NUMBER, or in YAML a map from patterns to numbers";
  return field("list", expected, schema, description, { placeholder: "P=N", ...more });
}

/** "q_proj=16" -> { q_proj: 16 }: what is before the last "=" is the pattern. */
function patternsOf(value: unknown): unknown {
  const words = typeof value === "string" ? [value] : value;
  if (!Array.isArray(words)) return value;
  const entries: [string, unknown][] = [];
  for (const word of words) {
    if (typeof word !== "string") return value;
    if (word.trimStart().startsWith("{")) {
      const map = jsonObject(word);
      if (!map) return value;
      entries.push(...Object.entries(map));
      continue;
    }
    const at = word.lastIndexOf("=");
    const number = word.slice(at + 1).trim();
    if (at < 1 || number === "") return value;
    entries.push([word.slice(0, at).trim(), Number(number)]);
  }
  return Object.fromEntries(entries);
}

function jsonObject(text: string): object | undefined {
  try {
    return JSON.parse(text) as object;
  } catch {
    return undefined;
  }
}

/** Numbers of layers: a YAML list, or numbers and ranges (first-last) separated by commas. */
export function layerNumbers(
  description: string,
): Field<readonly number[] | undefined, string | number | readonly (string | number)[] | undefined> {
  const most = 65_535;
  const schema = z.preprocess(
    (value) => {
      const items = splitCommas(typeof value === "number" ? [value] : value);
      if (!Array.isArray(items)) return value;
      const numbers = new Set<unknown>();
      for (const item of items) {
        const range = typeof item === "string" ? /^(\d{1,5})(?: ?- ?(\d{1,5}))?$/.exec(item) : undefined;
        const [first, last] = range ? [Number(range[1]), Number(range[2] ?? range[1])] : [0, -1];
        if (!range) numbers.add(item);
        else if (first > last || last > most) return value;
        for (let layer = first; layer <= last; layer++) numbers.add(layer);
      }
      return [...numbers].sort((one, other) => Number(one) - Number(other));
    },
    z.array(z.int().min(0).max(most)).min(1),
  );
  return field("list", "layers such as 0-3,7", schema, description, { placeholder: "LIST" });
}

/** An amount of memory in bytes, written 24GB, 512MiB or as a plain number. */
export function size<const M extends More<number>>(
  description: string,
  more?: M,
): Field<Present<number, M>, Given<number | string, M>> {
  const schema = z.union([z.int().min(1), z.string().regex(sizePattern)]).transform((value) => {
    if (typeof value === "number") return value;
    const [, amount, unit] = sizePattern.exec(value)!;
    return Math.floor(Number(amount) * (sizeUnits[(unit || "B").toUpperCase()] ?? 1));
  });
  const expected = "an amount of memory such as 24GB, 512MiB or 800000000";
  return field("size", expected, schema, description, { placeholder: "SIZE", ...more });
}

const sizePattern = /^(\d{1,12}(?:\.\d{1,6})?) ?(B|KB|MB|GB|TB|KIB|MIB|GIB|TIB)?$/i;
const sizeUnits: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** "a,b" -> ["a", "b"]; ["a,b", "c"] (a repeated flag) -> ["a", "b", "c"]; anything else stays for the schema to refuse. */
function splitCommas(value: unknown): unknown {
  const split = (item: unknown) =>
    typeof item === "string" ? item.split(",").map((part) => part.trim()) : [item];
  if (Array.isArray(value)) return value.flatMap(split);
  return typeof value === "string" ? split(value) : value;
}

export function field<T, In, V>(
  kind: FieldKind,
  expected: string,
  bare: z.ZodType<V>,
  description: string,
  more: More<V> & { variadic?: true },
): Field<T, In> {
  const present =
    more.default !== undefined ? bare.default(more.default as never) : more.required ? bare : bare.optional();
  const defaultText = more.defaultText ?? (more.default === undefined ? undefined : String(more.default));
  return {
    kind,
    description,
    expected,
    placeholder: more.placeholder ?? "",
    required: more.required === true,
    defaultText: defaultText === "" ? undefined : defaultText,
    defaultOn: (more.default as unknown) === true,
    variadic: more.variadic === true,
    schema: present.describe(description) as unknown as z.ZodType<T>,
  };
}
