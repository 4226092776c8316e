// How Python writes values: str(), repr() and json.dumps(), which is what {{ x }} and {{ x | tojson }} print where models
// are served by transformers, vLLM or SGLang. Works on the template engine's values; those are made in template-values.ts.

import type { Environment } from "@huggingface/jinja";

/** A value inside the template engine. */
export type TemplateValue = ReturnType<Environment["lookupVariable"]>;

/** repr() of a float: the shortest digits that read back the same, with an exponent from 1e16 on and below 1e-4. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [mantissa, exponentText] = Math.abs(value).toExponential().split("e") as [string, string];
  const digits = mantissa.replace(".", "");
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/** str(): what {{ value }} prints. */
export function pythonStr(value: TemplateValue): string {
  if (value.type === "StringValue") return value.value as string;
  if (value.type === "UndefinedValue") return "";
  return pythonRepr(value);
}

function pythonRepr(value: TemplateValue): string {
  switch (value.type) {
    case "StringValue":
      return quoted(value.value as string);
    case "IntegerValue":
      return integer(value.value as number | bigint);
    case "FloatValue":
      return pythonFloat(value.value as number);
    case "BooleanValue":
      return value.value ? "True" : "False";
    case "NullValue":
      return "None";
    case "UndefinedValue":
      return "Undefined";
    case "ArrayValue":
      return `[${items(value).map(pythonRepr).join(", ")}]`;
    case "TupleValue": {
      const parts = items(value).map(pythonRepr);
      return parts.length === 1 ? `(${parts[0]},)` : `(${parts.join(", ")})`;
    }
    case "ObjectValue":
    case "KeywordArgumentsValue": {
      const parts = entries(value).map(([key, item]) => `${quoted(key)}: ${pythonRepr(item)}`);
      return `{${parts.join(", ")}}`;
    }
    default:
      return value.toString();
  }
}

function integer(value: number | bigint): string {
  return typeof value === "bigint" || Number.isSafeInteger(value) ? `${value}` : `${BigInt(value)}`;
}

/** repr() of a string: single quotes unless only double ones avoid an escape, and nothing invisible left as it is. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replace(/[\\'"\p{C}\p{Z}]/gu, (found) => {
    if (found === " " || ((found === '"' || found === "'") && found !== quote)) return found;
    if (found === "\\" || found === quote) return `\\${found}`;
    const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[found];
    if (short !== undefined) return short;
    const code = found.codePointAt(0)!;
    const hex = code.toString(16);
    if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
  return `${quote}${escaped}${quote}`;
}

export interface JsonLayout {
  /** What each level is indented by; undefined: everything on one line. */
  readonly indent?: string;
  readonly ensureAscii?: boolean;
  readonly separators?: readonly [item: string, key: string];
  readonly sortKeys?: boolean;
}

/** json.dumps(). Error for what has no JSON, as Python's TypeError. */
export function pythonJson(value: TemplateValue, layout: JsonLayout = {}): string {
  const { indent, ensureAscii, sortKeys } = layout;
  const [between, colon] = layout.separators ?? [indent === undefined ? ", " : ",", ": "];
  const text = (string: string) => {
    const json = JSON.stringify(string);
    if (!ensureAscii) return json;
    return json.replace(/[^ -~]/g, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
  };
  const wrap = (open: string, parts: string[], close: string, depth: number) => {
    if (parts.length === 0 || indent === undefined) return open + parts.join(between) + close;
    const line = `\n${indent.repeat(depth + 1)}`;
    return `${open}${line}${parts.join(between + line)}\n${indent.repeat(depth)}${close}`;
  };
  const write = (one: TemplateValue, depth: number): string => {
    switch (one.type) {
      case "StringValue":
        return text(one.value as string);
      case "IntegerValue":
        return integer(one.value as number | bigint);
      case "FloatValue":
        return jsonFloat(one.value as number);
      case "BooleanValue":
        return one.value ? "true" : "false";
      case "NullValue":
        return "null";
      case "ArrayValue":
      case "TupleValue":
        return wrap(
          "[",
          items(one).map((item) => write(item, depth + 1)),
          "]",
          depth,
        );
      case "ObjectValue":
      case "KeywordArgumentsValue": {
        const pairs = entries(one);
        if (sortKeys) pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
        const parts = pairs.map(([key, item]) => `${text(key)}${colon}${write(item, depth + 1)}`);
        return wrap("{", parts, "}", depth);
      }
      default:
        throw new Error(`${kindOf(one)} cannot be written as JSON`);
    }
  };
  return write(value, 0);
}

function jsonFloat(value: number): string {
  if (Number.isFinite(value)) return pythonFloat(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

function items(value: TemplateValue): TemplateValue[] {
  return value.value as TemplateValue[];
}

function entries(value: TemplateValue): [string, TemplateValue][] {
  return [...(value.value as Map<string, TemplateValue>)];
}

/** Python's name of the type, for errors: "str", "dict". */
export function kindOf(value: TemplateValue): string {
  const names: Readonly<Record<string, string>> = {
    StringValue: "str",
    IntegerValue: "int",
    FloatValue: "float",
    BooleanValue: "bool",
    NullValue: "None",
    UndefinedValue: "an undefined value",
    ArrayValue: "list",
    TupleValue: "tuple",
    ObjectValue: "dict",
    FunctionValue: "function",
  };
  return names[value.type] ?? value.type;
}
