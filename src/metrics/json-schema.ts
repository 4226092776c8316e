// A validator for the part of JSON Schema (draft 2020-12) that describes structured model output. A schema is read
// once; a keyword outside the part is refused with its place, never ignored, since a check that skips a rule reports
// texts as conforming that do not. Not here: "$ref" to other documents, conditionals, unevaluated*, "format" as a rule.

import { UserError } from "../util/errors.ts";
import { TimeLimitError, withinTime } from "../util/time-limit.ts";

/** Undefined when the value conforms, else the first violation with its path, for example `$.items[2]: expected a string`. */
export type SchemaCheck = (value: unknown) => string | undefined;

type Check = (value: unknown, path: string) => string | undefined;
type Schema = Record<string, unknown>;
type JsonType = "null" | "boolean" | "object" | "array" | "number" | "string" | "integer";

/** Describe without constraining. "format" is among them: the draft makes it an annotation. */
const annotations = [
  "$schema",
  "$id",
  "$comment",
  "title",
  "description",
  "default",
  "examples",
  "deprecated",
  "readOnly",
  "writeOnly",
  "format",
];

/** Schemas and texts may come from others: nesting is bounded before recursion. */
const MAX_DEPTH = 64;
const MAX_VALUE_DEPTH = 512;
const MAX_PATTERN_LENGTH = 1000;

/** Reads a parsed JSON Schema. Throws UserError at the first keyword or value it cannot honour. */
export function compileSchema(schema: unknown): SchemaCheck {
  const check = compile(schema, "#", 0);
  return (value) =>
    isTooDeep(value) ? `$: nested deeper than ${MAX_VALUE_DEPTH} levels` : check(value, "$");
}

/** Whether a parsed value nests deeper than is checked; level by level, without recursion. */
function isTooDeep(value: unknown): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_VALUE_DEPTH) return true;
    level = level.flatMap((item) => (typeof item === "object" && item !== null ? Object.values(item) : []));
  }
  return false;
}

function compile(schema: unknown, place: string, depth: number): Check {
  if (depth > MAX_DEPTH)
    throw new UserError(`JSON schema at ${place}: nested deeper than ${MAX_DEPTH} levels`);
  if (schema === true) return () => undefined;
  if (schema === false) return (_value, path) => `${path}: no value is allowed here`;
  if (!isObject(schema)) throw new UserError(`JSON schema at ${place}: expected an object or a boolean`);
  const checks: Check[] = [];
  for (const [keyword, argument] of Object.entries(schema)) {
    if (annotations.includes(keyword)) continue;
    const build = Object.hasOwn(keywords, keyword) ? keywords[keyword] : undefined;
    if (!build) {
      throw new UserError(
        `JSON schema at ${place}: keyword "${keyword}" is not supported; supported are ${Object.keys(keywords).join(", ")}`,
      );
    }
    checks.push(build({ argument, schema, place: `${place}/${keyword}`, depth: depth + 1 }));
  }
  return (value, path) => {
    for (const check of checks) {
      const violation = check(value, path);
      if (violation !== undefined) return violation;
    }
    return undefined;
  };
}

interface Keyword {
  readonly argument: unknown;
  /** The schema that holds the keyword. */
  readonly schema: Schema;
  readonly place: string;
  readonly depth: number;
}

const keywords: Record<string, (keyword: Keyword) => Check> = {
  type: ({ argument, place }) => {
    const types = (Array.isArray(argument) ? argument : [argument]).map((type) => {
      if (!isTypeName(type))
        throw new UserError(`JSON schema at ${place}: unknown type ${JSON.stringify(type)}`);
      return type;
    });
    return (value, path) =>
      types.some((type) => hasType(value, type)) ? undefined : `${path}: expected ${types.join(" or ")}`;
  },
  enum: ({ argument, place }) => {
    const allowed = arrayOf(argument, place).map(canonical);
    return (value, path) =>
      allowed.includes(canonical(value)) ? undefined : `${path}: not one of the allowed values`;
  },
  const: ({ argument }) => {
    const expected = canonical(argument);
    return (value, path) => (canonical(value) === expected ? undefined : `${path}: expected ${expected}`);
  },
  minimum: (keyword) => bound(keyword, (value, limit) => value >= limit, "at least"),
  maximum: (keyword) => bound(keyword, (value, limit) => value <= limit, "at most"),
  exclusiveMinimum: (keyword) => bound(keyword, (value, limit) => value > limit, "more than"),
  exclusiveMaximum: (keyword) => bound(keyword, (value, limit) => value < limit, "less than"),
  minLength: (keyword) =>
    size(keyword, codePoints, (length, limit) => length >= limit, "at least", "characters"),
  maxLength: (keyword) =>
    size(keyword, codePoints, (length, limit) => length <= limit, "at most", "characters"),
  minItems: (keyword) => size(keyword, items, (length, limit) => length >= limit, "at least", "items"),
  maxItems: (keyword) => size(keyword, items, (length, limit) => length <= limit, "at most", "items"),
  minProperties: (keyword) =>
    size(keyword, members, (length, limit) => length >= limit, "at least", "properties"),
  maxProperties: (keyword) =>
    size(keyword, members, (length, limit) => length <= limit, "at most", "properties"),
  uniqueItems: ({ argument, place }) => {
    if (typeof argument !== "boolean") throw new UserError(`JSON schema at ${place}: expected a boolean`);
    return (value, path) =>
      argument && Array.isArray(value) && new Set(value.map(canonical)).size < value.length
        ? `${path}: items repeat`
        : undefined;
  },
  pattern: ({ argument, place }) => {
    const expression = regularExpression(argument, place);
    return (value, path) =>
      typeof value !== "string" || matches(expression, value, place)
        ? undefined
        : `${path}: does not match ${argument}`;
  },
  required: ({ argument, place }) => {
    const names = arrayOf(argument, place);
    return (value, path) => {
      if (!isObject(value)) return undefined;
      const missing = names.find((name) => !Object.hasOwn(value, String(name)));
      return missing === undefined ? undefined : `${path}: property "${missing}" is missing`;
    };
  },
  properties: ({ argument, place, depth }) => {
    const checks = Object.entries(objectOf(argument, place)).map(
      ([name, schema]) => [name, compile(schema, `${place}/${name}`, depth)] as const,
    );
    return (value, path) => {
      if (!isObject(value)) return undefined;
      for (const [name, check] of checks) {
        const violation = Object.hasOwn(value, name) ? check(value[name], `${path}.${name}`) : undefined;
        if (violation !== undefined) return violation;
      }
      return undefined;
    };
  },
  additionalProperties: ({ argument, schema, place, depth }) => {
    const named = isObject(schema.properties) ? schema.properties : {};
    const check = compile(argument, place, depth);
    return (value, path) => {
      if (!isObject(value)) return undefined;
      for (const [name, member] of Object.entries(value)) {
        if (Object.hasOwn(named, name)) continue;
        const violation =
          argument === false
            ? `${path}: property "${name}" is not allowed`
            : check(member, `${path}.${name}`);
        if (violation !== undefined) return violation;
      }
      return undefined;
    };
  },
  prefixItems: ({ argument, place, depth }) => {
    const checks = arrayOf(argument, place).map((schema, i) => compile(schema, `${place}/${i}`, depth));
    return (value, path) => firstViolation(value, path, 0, checks.length, (i) => checks[i]!);
  },
  items: ({ argument, schema, place, depth }) => {
    const check = compile(argument, place, depth);
    const first = Array.isArray(schema.prefixItems) ? schema.prefixItems.length : 0;
    return (value, path) => firstViolation(value, path, first, Number.POSITIVE_INFINITY, () => check);
  },
  allOf: ({ argument, place, depth }) => {
    const checks = arrayOf(argument, place).map((schema, i) => compile(schema, `${place}/${i}`, depth));
    return (value, path) => {
      for (const check of checks) {
        const violation = check(value, path);
        if (violation !== undefined) return violation;
      }
      return undefined;
    };
  },
  anyOf: ({ argument, place, depth }) => {
    const checks = arrayOf(argument, place).map((schema, i) => compile(schema, `${place}/${i}`, depth));
    return (value, path) =>
      checks.some((check) => check(value, path) === undefined)
        ? undefined
        : `${path}: fits none of the alternatives`;
  },
  oneOf: ({ argument, place, depth }) => {
    const checks = arrayOf(argument, place).map((schema, i) => compile(schema, `${place}/${i}`, depth));
    return (value, path) => {
      const fitting = checks.filter((check) => check(value, path) === undefined).length;
      return fitting === 1 ? undefined : `${path}: fits ${fitting} of the alternatives, expected exactly one`;
    };
  },
  not: ({ argument, place, depth }) => {
    const check = compile(argument, place, depth);
    return (value, path) =>
      check(value, path) === undefined ? `${path}: fits a schema that it must not` : undefined;
  },
};

function bound(
  { argument, place }: Keyword,
  holds: (value: number, limit: number) => boolean,
  words: string,
): Check {
  if (typeof argument !== "number") throw new UserError(`JSON schema at ${place}: expected a number`);
  return (value, path) =>
    typeof value !== "number" || holds(value, argument)
      ? undefined
      : `${path}: expected ${words} ${argument}`;
}

function size(
  { argument, place }: Keyword,
  measure: (value: unknown) => number | undefined,
  holds: (length: number, limit: number) => boolean,
  words: string,
  unit: string,
): Check {
  if (typeof argument !== "number" || !Number.isInteger(argument) || argument < 0) {
    throw new UserError(`JSON schema at ${place}: expected a whole number of 0 or more`);
  }
  return (value, path) => {
    const length = measure(value);
    return length === undefined || holds(length, argument)
      ? undefined
      : `${path}: expected ${words} ${argument} ${unit}`;
  };
}

const codePoints = (value: unknown) => (typeof value === "string" ? [...value].length : undefined);
const items = (value: unknown) => (Array.isArray(value) ? value.length : undefined);
const members = (value: unknown) => (isObject(value) ? Object.keys(value).length : undefined);

function firstViolation(
  value: unknown,
  path: string,
  start: number,
  end: number,
  checkOf: (i: number) => Check,
): string | undefined {
  if (!Array.isArray(value)) return undefined;
  for (let i = start; i < Math.min(end, value.length); i++) {
    const violation = checkOf(i)(value[i], `${path}[${i}]`);
    if (violation !== undefined) return violation;
  }
  return undefined;
}

function regularExpression(source: unknown, place: string): RegExp {
  if (typeof source !== "string" || source.length > MAX_PATTERN_LENGTH) {
    throw new UserError(
      `JSON schema at ${place}: expected a regular expression of at most ${MAX_PATTERN_LENGTH} characters`,
    );
  }
  try {
    return new RegExp(source, "u");
  } catch {
    throw new UserError(`JSON schema at ${place}: ${JSON.stringify(source)} is not a regular expression`);
  }
}

/** A match takes microseconds, unless its pattern backtracks without end. */
const PATTERN_LIMIT_MS = 2000;

function matches(expression: RegExp, value: string, place: string): boolean {
  try {
    return withinTime(PATTERN_LIMIT_MS, () => expression.test(value));
  } catch (error) {
    if (!(error instanceof TimeLimitError)) throw error;
    throw new UserError(
      `JSON schema at ${place}: matching ${JSON.stringify(expression.source)} ${error.message}; write it without repetitions inside repetitions`,
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function objectOf(value: unknown, place: string): Record<string, unknown> {
  if (!isObject(value)) throw new UserError(`JSON schema at ${place}: expected an object`);
  return value;
}

function arrayOf(value: unknown, place: string): unknown[] {
  if (!Array.isArray(value)) throw new UserError(`JSON schema at ${place}: expected an array`);
  return value;
}

const typeNames: readonly unknown[] = ["null", "boolean", "object", "array", "number", "string", "integer"];

function isTypeName(name: unknown): name is JsonType {
  return typeNames.includes(name);
}

function hasType(value: unknown, type: JsonType): boolean {
  switch (type) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return isObject(value);
    case "integer":
      return typeof value === "number" && Number.isInteger(value); // 1.0 is an integer
    default:
      return typeof value === type;
  }
}

/** JSON text with sorted keys: equal for equal values. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    isObject(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}
