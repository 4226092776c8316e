// Whitespace as Python sees it, so that scores agree with Python's implementations to the last digit: str.split() and
// str.strip() know U+001C..U+001F and U+0085, which JavaScript's \s lacks, and not U+FEFF, which it has.

const PYTHON_SPACE = "[\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const run = new RegExp(`${PYTHON_SPACE}+`, "u");
const single = new RegExp(PYTHON_SPACE, "u");

/** Words of a text: maximal runs without whitespace. */
export function splitWords(text: string): string[] {
  return text.split(run).filter((word) => word !== "");
}

/** The text without whitespace at its end. */
export function stripEnd(text: string): string {
  let end = text.length; // no whitespace character is a surrogate pair
  while (end > 0 && single.test(text[end - 1]!)) end--;
  return text.slice(0, end);
}

/** The text without whitespace at its ends. */
export function strip(text: string): string {
  const shortened = stripEnd(text);
  let start = 0;
  while (start < shortened.length && single.test(shortened[start]!)) start++;
  return shortened.slice(start);
}
