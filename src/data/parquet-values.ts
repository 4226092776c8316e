// What Parquet's columns hold, as JSON would have it: a DOUBLE of 12 stays 12.0, 64-bit integers and decimals keep every
// digit, structs keep the order of their fields. Goes through a row beside its schema, since the reader gives the same
// JavaScript number for an INT32 and a DOUBLE. Who opens the file is parse-rows.ts.

import type { FileMetaData, parquetSchema } from "hyparquet";
import { parseExactJson, WholeFloat } from "../text/exact-json.ts";

type SchemaTree = ReturnType<typeof parquetSchema>;
type SchemaElement = FileMetaData["schema"][number];

/** What the reader is told: JSON columns keep their numbers, and bytes without a type are left to us. */
export const parquetReading = {
  utf8: false,
  parsers: { jsonFromBytes: (bytes: Uint8Array | undefined) => bytes && parseExactJson(utf8(bytes)) },
};

/** Decimals of 256 bits have 76 digits. */
const SCALE_LIMIT = 100;

/**
 * Scales of the decimal columns. Takes their annotation off the schema, because the reader would otherwise multiply
 * them out as floating-point numbers.
 */
export function takeDecimals(metadata: FileMetaData): ReadonlyMap<SchemaElement, number> {
  const scales = new Map<SchemaElement, number>();
  for (const element of metadata.schema) {
    if (element.converted_type !== "DECIMAL" && element.logical_type?.type !== "DECIMAL") continue;
    const scale = element.scale ?? 0;
    if (Math.abs(scale) > SCALE_LIMIT) throw new Error(`column ${element.name} has ${scale} decimals`);
    scales.set(element, scale);
    element.converted_type = undefined;
    element.logical_type = undefined;
  }
  return scales;
}

/** A value as JSON; nulls inside of rows vanish, because Parquet gives every key to every row. */
export function parquetValue(
  value: unknown,
  tree: SchemaTree,
  scales: ReadonlyMap<SchemaElement, number>,
): unknown {
  if (value === null || value === undefined) return null;
  const { element, children } = tree;
  const [child] = children;
  const each = (of: SchemaTree) => (item: unknown) => parquetValue(item, of, scales);
  if (Array.isArray(value)) {
    // Lists have a level or two of their own in the schema, repeated fields none.
    if (element.converted_type !== "LIST" || child === undefined) return value.map(each(tree));
    return value.map(each(child.children.length === 1 ? child.children[0]! : child));
  }
  if (child === undefined || typeof value !== "object") return leaf(value, element, scales.get(element));
  if (element.converted_type === "MAP" && child.children.length === 2) {
    return ordered(Object.entries(value).map(([key, item]) => [key, each(child.children[1]!)(item)]));
  }
  const fields = value as Record<string, unknown>;
  if (children.some(({ element: { name } }) => !Object.hasOwn(fields, name))) return fields; // VARIANT
  return ordered(children.map((field) => [field.element.name, each(field)(fields[field.element.name])]));
}

function ordered(entries: [string, unknown][]): unknown {
  const present = entries.filter(([, value]) => value !== null);
  return present.some(([key]) => /^\d/.test(key)) ? new Map(present) : Object.fromEntries(present);
}

function leaf(
  value: unknown,
  { type, converted_type, logical_type }: SchemaElement,
  scale?: number,
): unknown {
  if (scale !== undefined) return decimal(unscaled(value), scale);
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (typeof value === "number") {
    const float = type === "DOUBLE" || type === "FLOAT" || logical_type?.type === "FLOAT16";
    return float && Number.isInteger(value) ? new WholeFloat(value) : value;
  }
  // Timestamps beyond what a Date holds are nothing that text is made of.
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Uint8Array)
    return converted_type === "UTF8" ? utf8(value) : new TextDecoder().decode(value);
  return value;
}

/** Error when the bytes are not UTF-8. */
function utf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

function unscaled(value: unknown): bigint {
  if (!(value instanceof Uint8Array)) return BigInt(value as number | bigint);
  let bits = 0n;
  for (const byte of value) bits = (bits << 8n) | BigInt(byte);
  return BigInt.asIntN(8 * value.length, bits);
}

/** An integer without a scale, else a float; text where a float would lose digits. */
function decimal(value: bigint, scale: number): unknown {
  if (scale <= 0) {
    const whole = value * 10n ** BigInt(-scale);
    return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
  }
  const digits = `${value < 0n ? -value : value}`.padStart(scale + 1, "0");
  const text = `${value < 0n ? "-" : ""}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
  const significant = digits.replace(/^0+/, "").replace(/0+$/, "").length;
  if (significant > DOUBLE_DIGITS) return text;
  const float = Number(text);
  return Number.isInteger(float) ? new WholeFloat(float) : float;
}

/** Decimal digits that a float always keeps. */
const DOUBLE_DIGITS = 15;
