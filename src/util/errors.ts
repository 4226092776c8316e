// The two kinds of error in lowrank. UserError: configuration, files, data (one clear sentence, no stack).
// BugError: a broken invariant inside lowrank (stack shown, report asked for).
// Only cli/terminal.ts turns them into exit codes.

/** Something the user can fix. The message says what, where, what was expected and what to do. */
export class UserError extends Error {
  override name = "UserError";

  /** A message that quotes a long value of a file is cut to what can be read. */
  constructor(message: string, options?: ErrorOptions) {
    super(readable(message), options);
  }
}

const LONG_WORD = /\S{300,}/g;
const LONG_MESSAGE = 1900;

function readable(message: string): string {
  if (message.length < 300) return message;
  const words = message.replace(
    LONG_WORD,
    (word) => `${word.slice(0, 120)}...${word.slice(-40)} (${word.length} characters)`,
  );
  if (words.length <= LONG_MESSAGE) return words;
  return `${words.slice(0, LONG_MESSAGE - 500)} ... ${words.slice(-400)}`;
}

/** An unknown flag, command or configuration key: like UserError, but exits with the code for wrong usage. */
export class UsageError extends UserError {
  override name = "UsageError";
}

/** Training whose loss or gradient is not a finite number: other rates or rows may do better. */
export class DivergedError extends UserError {
  override name = "DivergedError";
}

/** A broken invariant inside lowrank. */
export class BugError extends Error {
  override name = "BugError";
}

/** An error as plain data, to cross a thread's port. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
  /** What the class is made from after its message. */
  readonly details?: readonly unknown[];
}

type ErrorClass = new (message: string, ...details: never[]) => Error;

/** Classes that arrive as what they were, by the name that their errors carry. */
const crossing = new Map<string, ErrorClass>(
  Object.entries({ UserError, UsageError, DivergedError, BugError }),
);

/** Lets a class cross threads; its errors may have `details`, the rest of their constructor's arguments. */
export function crossesThreads(name: string, made: ErrorClass): void {
  crossing.set(name, made);
}

export function errorToData(thrown: unknown): ErrorData {
  const error = thrown instanceof Error ? thrown : new BugError(`something thrown is no error: ${thrown}`);
  const { name, message, stack } = error;
  return { name, message, stack, details: (error as { details?: readonly unknown[] }).details };
}

/** The error again, of its class; of an unknown class, an Error with its name. */
export function errorFromData({ name, message, stack, details = [] }: ErrorData): Error {
  const made = crossing.get(name) as (new (message: string, ...details: unknown[]) => Error) | undefined;
  const error = made ? new made(message, ...details) : Object.assign(new Error(message), { name });
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** Throws a BugError when an invariant does not hold. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new BugError(message);
}

/** The allowed name nearest to `given` by edit distance, or undefined when none is near. */
export function nearestName(given: string, allowed: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(given.length / 2)) + 1;
  for (const name of allowed) {
    const distance = editDistance(given.toLowerCase(), name.toLowerCase());
    if (distance < bestDistance) {
      best = name;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, substitution));
    }
    row = next;
  }
  return row[b.length]!;
}

/** A value that was given, as a short piece of JSON where it is one: for "expected A; got B". */
export function shownValue(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  const text = valueText(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function valueText(value: unknown): string {
  if (typeof value === "number" || typeof value === "symbol") return String(value);
  if (typeof value === "function") return "a function";
  try {
    return JSON.stringify(value, (_, held: unknown) => (typeof held === "bigint" ? `${held}n` : held));
  } catch {
    return "a value that is no JSON";
  }
}
