// JSON as Python reads it: integers keep every digit, 12.0 stays a float, and keys stay in the order they were written
// in even where they look like numbers. Chat templates print what they are given, so a refund of 12.0 that became 12, or
// an order number that lost its last digit, would be learnt that way. What templates make of these values:
// template-values.ts. Not for configuration files (formats/json.ts), where JavaScript's numbers do.
//
//   written               value
//   7, -3                 number
//   0.5, 1e-07            number: one that is not whole is a float
//   12.0, 1e5, -0.0       WholeFloat
//   9007199254740993      bigint, beyond 2^53
//   {"10": 1, "2": 3}     Map, because objects would put "2" first; any other object is a plain one

/** A float whose value is whole. Arithmetic and JSON.stringify see the number; a structured clone is still a Number. */
export class WholeFloat extends Number {}

/** Deeper nesting is an attack: Python gives up near 1,000. */
const DEPTH_LIMIT = 512;

/** May match text within strings as well, which then only costs the slower reader. */
const MAY_LOSE =
  /(?:^|[[:,])\s*-?(?:\d+\.0+(?!\d)|\d+(?:\.\d+)?[eE]|[\d.]{16})|"(?:\d|\\u003\d)+"\s*:|__proto__/;

/** SyntaxError, as JSON.parse has it, where the text is not JSON or is nested deeper than 512 levels. */
export function parseExactJson(text: string): unknown {
  const plain: unknown = JSON.parse(text);
  return losesInJson(text) ? new Reader(text).read() : plain;
}

/** Whether JSON.parse may lose something of `text`. False means that it does not. */
export function losesInJson(text: string): boolean {
  return MAY_LOSE.test(text);
}

/** A JSON object's keys and values, whichever of its two forms it has; undefined for anything else. */
export function recordOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  if (value instanceof Map) return Object.fromEntries(value);
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Number) {
    return undefined;
  }
  return value as Readonly<Record<string, unknown>>;
}

const NUMBER = /-?\d+(\.\d+)?([eE][+-]?\d+)?/y;
const ARRAY_INDEX = /^(?:0|[1-9]\d{0,9})$/;

/** Reads text that JSON.parse has accepted, so that no mistake can be met here. */
class Reader {
  private at = 0;
  private depth = 0;
  /** Where the next backslash is, found once for all the text before it. */
  private slash = -1;

  constructor(private readonly text: string) {}

  read(): unknown {
    this.skipBlank();
    switch (this.text[this.at]) {
      case "{":
        return this.object();
      case "[":
        return this.array();
      case '"':
        return this.string();
      case "t":
        this.at += 4;
        return true;
      case "f":
        this.at += 5;
        return false;
      case "n":
        this.at += 4;
        return null;
      default:
        return this.number();
    }
  }

  private object(): object {
    this.enter();
    const entries: [string, unknown][] = [];
    let ordered = false;
    while (this.next("}")) {
      const key = this.string();
      ordered ||= ARRAY_INDEX.test(key);
      this.skipBlank();
      this.at++; // the colon
      entries.push([key, this.read()]);
    }
    this.depth--;
    return ordered ? new Map(entries) : Object.fromEntries(entries);
  }

  private array(): unknown[] {
    this.enter();
    const items: unknown[] = [];
    while (this.next("]")) items.push(this.read());
    this.depth--;
    return items;
  }

  private enter(): void {
    this.at++;
    if (++this.depth > DEPTH_LIMIT) throw new SyntaxError(`nested deeper than ${DEPTH_LIMIT} levels`);
  }

  /** Whether another item follows, the comma before it passed over; at the end, the closing bracket is. */
  private next(close: string): boolean {
    this.skipBlank();
    const found = this.text[this.at];
    if (found === close || found === ",") this.at++;
    this.skipBlank();
    return found !== close;
  }

  private string(): string {
    const start = this.at + 1;
    let end = this.text.indexOf('"', start);
    let escaped = false;
    if (this.slash < start) this.slash = this.slashFrom(start);
    while (this.slash < end) {
      escaped = true;
      if (this.slash + 1 === end) end = this.text.indexOf('"', end + 1);
      this.slash = this.slashFrom(this.slash + 2);
    }
    this.at = end + 1;
    if (!escaped) return this.text.slice(start, end);
    return JSON.parse(this.text.slice(start - 1, end + 1)) as string;
  }

  private slashFrom(start: number): number {
    const found = this.text.indexOf("\\", start);
    return found < 0 ? this.text.length : found;
  }

  private number(): number | bigint | WholeFloat {
    NUMBER.lastIndex = this.at;
    const [written, fraction, exponent] = NUMBER.exec(this.text)!;
    this.at = NUMBER.lastIndex;
    const value = Number(written);
    if (fraction !== undefined || exponent !== undefined) {
      return Number.isInteger(value) ? new WholeFloat(value) : value;
    }
    return Number.isSafeInteger(value) ? value : BigInt(written);
  }

  private skipBlank(): void {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++;
  }
}
