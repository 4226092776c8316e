// {% generation %} ... {% endgeneration %} in a chat template surrounds what the assistant says. The Jinja engine
// accepts the tags and forgets them, so we put private-use characters in their place and split the rendered text
// there. Used by chat-template.ts.

export interface Span {
  readonly start: number;
  readonly end: number;
  /** Which message says it, where that is known. */
  readonly message?: number;
}

export interface MarkedTemplate {
  readonly source: string;
  readonly open: string;
  readonly close: string;
}

/** Unlikely in any conversation; splitAtMarks notices when one holds them nevertheless. */
const OPEN = "\u{f5a1a}";
const CLOSE = "\u{f5a1b}";

/** The template with marks for tags, or undefined when it has none. */
export function markGeneration(source: string): MarkedTemplate | undefined {
  if (!/\{%[-+]?\s*generation\s*[-+]?%\}/.test(source)) return undefined;
  // An empty statement on either side of the mark keeps the tag's own whitespace control, and with it the
  // engine's trimming of the newline after a statement and of the spaces before one.
  const marked = source.replace(
    /\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} if true %}{{ '${end ? CLOSE : OPEN}' }}{% endif ${right}%}`,
  );
  return { source: marked, open: OPEN, close: CLOSE };
}

/** The text without marks, and the spans between them; undefined when marks do not pair. */
export function splitAtMarks(
  marked: string,
  marks: MarkedTemplate,
): { text: string; spans: Span[] } | undefined {
  const spans: Span[] = [];
  let text = "";
  let start: number | undefined;
  for (const piece of marked.split(new RegExp(`(${marks.open}|${marks.close})`, "u"))) {
    if (piece === marks.open) {
      if (start !== undefined) return undefined;
      start = text.length;
    } else if (piece === marks.close) {
      if (start === undefined) return undefined;
      spans.push({ start, end: text.length });
      start = undefined;
    } else {
      text += piece;
    }
  }
  return start === undefined ? { text, spans } : undefined;
}
