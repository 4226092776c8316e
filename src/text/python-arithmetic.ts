// Numbers in templates calculate and compare as Python's do: integers without limit (numbers while they are safe, bigints
// beyond), floats that stay floats, remainders with the divisor's sign, and no text that equals a number.

import type { TemplateValue } from "./python-text.ts";

/** Integers, floats and booleans. */
export function isNumeric(value: TemplateValue): boolean {
  return value.type === "IntegerValue" || value.type === "FloatValue" || value.type === "BooleanValue";
}

export interface Calculated {
  readonly float: boolean;
  readonly value: number | bigint;
}

type Operand = number | bigint;

/** `left operator right` for numeric values; undefined for operators that are none of ours. */
export function arithmetic(
  operator: string,
  left: TemplateValue,
  right: TemplateValue,
): Calculated | boolean | undefined {
  const [a, b] = [numberOf(left), numberOf(right)];
  switch (operator) {
    case "<":
      return a < b;
    case "<=":
      return a <= b;
    case ">":
      return a > b;
    case ">=":
      return a >= b;
  }
  if (["/", "//", "%"].includes(operator) && Number(b) === 0) throw new Error("division by zero");
  if (operator === "/") return { float: true, value: Number(a) / Number(b) };
  if (left.type === "FloatValue" || right.type === "FloatValue") {
    const value = floats(operator, Number(a), Number(b));
    return value === undefined ? undefined : { float: true, value };
  }
  const value = integers(operator, a, b);
  return value === undefined ? undefined : { float: false, value };
}

function floats(operator: string, a: number, b: number): number | undefined {
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "//":
      return Math.floor(a / b);
    case "%": {
      const rest = a % b;
      if (rest === 0) return b < 0 ? -0 : 0;
      return rest < 0 !== b < 0 ? rest + b : rest;
    }
    default:
      return undefined;
  }
}

/** Beyond this many bits a product is an attack, not a number. */
const BITS_LIMIT = 65_536;

function integers(operator: string, a: Operand, b: Operand): Operand | undefined {
  if (typeof a === "number" && typeof b === "number") {
    const quick = floats(operator, a, b);
    // Integers have no -0.
    if (quick === undefined || Number.isSafeInteger(quick)) return quick && quick + 0;
  }
  const [x, y] = [BigInt(a), BigInt(b)];
  switch (operator) {
    case "+":
      return narrow(x + y);
    case "-":
      return narrow(x - y);
    case "*":
      if (bits(x) + bits(y) > BITS_LIMIT) throw new Error("an integer grows too long");
      return narrow(x * y);
    case "//": {
      const rest = x % y;
      return narrow(x / y - (rest !== 0n && rest < 0n !== y < 0n ? 1n : 0n));
    }
    case "%": {
      const rest = x % y;
      return narrow(rest !== 0n && rest < 0n !== y < 0n ? rest + y : rest);
    }
    default:
      return undefined;
  }
}

const bits = (value: bigint) => 4 * value.toString(16).length;

function narrow(value: bigint): Operand {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function numberOf(value: TemplateValue): Operand {
  return value.type === "BooleanValue" ? Number(value.value) : (value.value as Operand);
}

/** Python's ==: numbers by value, containers by content, everything else by kind and value. */
export function equal(a: TemplateValue, b: TemplateValue): boolean {
  if (isNumeric(a) && isNumeric(b)) {
    // Order is exact between numbers and bigints, strict equality is not.
    const [left, right] = [numberOf(a), numberOf(b)];
    return left <= right && left >= right;
  }
  if (Array.isArray(a.value) && Array.isArray(b.value)) {
    const [left, right] = [a.value as TemplateValue[], b.value as TemplateValue[]];
    return a.type === b.type && left.length === right.length && left.every((one, i) => equal(one, right[i]!));
  }
  if (a.value instanceof Map && b.value instanceof Map) {
    const [left, right] = [a.value, b.value] as Map<string, TemplateValue>[];
    if (left!.size !== right!.size) return false;
    return [...left!].every(([key, one]) => right!.has(key) && equal(one, right!.get(key)!));
  }
  return a.type === b.type && a.value === b.value;
}

/** int(): floats cut towards zero, whole numbers in text with every digit; undefined for everything else. */
export function toInteger(value: TemplateValue): Operand | undefined {
  if (value.type === "IntegerValue") return value.value as Operand;
  if (value.type === "FloatValue") {
    const cut = Math.trunc(value.value as number);
    if (!Number.isFinite(cut)) return undefined;
    return Number.isSafeInteger(cut) ? cut : BigInt(cut);
  }
  if (value.type !== "StringValue") return undefined;
  const text = (value.value as string).trim();
  return /^[+-]?\d{1,4300}$/.test(text) ? narrow(BigInt(text.replace(/^\+/, ""))) : undefined;
}

/** float() of a number; undefined for everything else. */
export function toFloat(value: TemplateValue): number | undefined {
  return isNumeric(value) && value.type !== "BooleanValue" ? Number(value.value) : undefined;
}
