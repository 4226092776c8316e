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

/** A broken invariant inside lowrank. */
export class BugError extends Error {
  override name = "BugError";
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
