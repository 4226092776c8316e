// Python's regular expressions over module paths, as PEFT's configurations hold them: translated, and never slow. What
// has no lookaround and no back-reference runs on RE2's engine, whose time grows with the text alone; the rest
// backtracks as in Python, and is stopped after a while. Not here: what the patterns choose (adapter-targets.ts).

import { RE2JS } from "re2js";
import { UserError } from "../util/errors.ts";
import { TimeLimitError, withinTime } from "../util/time-limit.ts";

export interface PythonPattern {
  /** Whether it matches as its anchor says: at the start of the text, or the whole of it. */
  test(text: string): boolean;
  /** What a named group holds where it matches. */
  group(text: string, name: string): string | undefined;
}

/** A pattern is written by hand and short; a longer one is not a pattern. */
const PATTERN_CAP = 10_000;
/** One match takes microseconds. */
const LIMIT_MS = 2000;
/** RE2's engine takes at most about this many steps for each character of a text. */
const PROGRAM_CAP = 200_000;

/** What RE2 reads in another way than Python: classes such as [[:alpha:]], \p, \Q, \C, \z, \x{..}, (?<name>. */
const ONLY_RE2 = /\[\[:|\\[pPQECz]|\\x\{|\(\?<(?![=!])/;

/**
 * A Python regular expression, anchored as re.match ("start") or re.fullmatch ("full") does. Translated: (?P<name>),
 * (?P=name), \A, \Z, {,n} and leading flags. The rest is common to both, or refused with a UserError.
 */
export function compilePythonPattern(source: string, where: string, anchor: "start" | "full"): PythonPattern {
  if (source.length > PATTERN_CAP)
    throw new UserError(`adapter: ${where}: a pattern of ${source.length} characters.`);
  let flags = "";
  const body = source.replace(/^\(\?([aiLmsu]+)\)/, (_, letters: string) => {
    flags = [...new Set(letters)].filter((letter) => "ims".includes(letter)).join("");
    return "";
  });
  if (/\(\?(?:[aiLmsux]*-?[aiLmsux]+[:)]|#)/.test(body)) {
    throw new UserError(
      `adapter: ${where}: the pattern ${JSON.stringify(source)} switches flags inside or holds a comment, which is not supported here; write it without.`,
    );
  }
  return linear(body, flags, anchor) ?? backtracking(source, body, flags, where, anchor);
}

/** On RE2's engine; undefined where it does not know the syntax. */
function linear(body: string, flags: string, anchor: "start" | "full"): PythonPattern | undefined {
  if (ONLY_RE2.test(body)) return undefined;
  const translated = body.replace(/\\[\s\S]|\{,(\d+)\}/g, (found, most?: string) =>
    most !== undefined ? `{0,${most}}` : found === "\\Z" ? "\\z" : found,
  );
  let pattern: RE2JS;
  try {
    pattern = withinTime(LIMIT_MS, () => RE2JS.compile(flags ? `(?${flags})${translated}` : translated));
  } catch {
    return undefined;
  }
  if (pattern.programSize() > PROGRAM_CAP) return undefined;
  const match = (text: string) => {
    const matcher = pattern.matcher(text);
    return (anchor === "full" ? matcher.matches() : matcher.lookingAt()) ? matcher : undefined;
  };
  return {
    test: (text) => match(text) !== undefined,
    group: (text, name) => match(text)?.group(name) ?? undefined,
  };
}

/** On JavaScript's engine, which backtracks. */
function backtracking(
  source: string,
  body: string,
  flags: string,
  where: string,
  anchor: "start" | "full",
): PythonPattern {
  const translated = body.replace(/\\[\s\S]|\(\?P<|\(\?P=(\w+)\)|\{,(\d+)\}/g, (found, name?, most?) => {
    if (name !== undefined) return `\\k<${name}>`;
    if (most !== undefined) return `{0,${most}}`;
    return found === "(?P<" ? "(?<" : found === "\\A" ? "^" : found === "\\Z" ? "$" : found;
  });
  let pattern: RegExp;
  try {
    pattern = new RegExp(anchor === "full" ? `^(?:${translated})$` : `^(?:${translated})`, flags);
  } catch (error) {
    throw new UserError(
      `adapter: ${where}: ${JSON.stringify(source)} is not a regular expression that works here: ${(error as Error).message}.`,
    );
  }
  const match = (text: string) => {
    try {
      return withinTime(LIMIT_MS, () => pattern.exec(text));
    } catch (error) {
      if (!(error instanceof TimeLimitError)) throw error;
      throw new UserError(
        `adapter: ${where}: the pattern ${JSON.stringify(source)} ${error.message} on the name ${text}; write it without repetitions inside repetitions, or list the modules.`,
      );
    }
  };
  return {
    test: (text) => match(text) !== null,
    group: (text, name) => match(text)?.groups?.[name],
  };
}
