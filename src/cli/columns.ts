// Texts beside each other, wrapped at words. Pure; nothing here prints.

export interface Column {
  readonly title: string;
  readonly text: string;
}

/** Columns of equal width within `width` characters; one under the other where they would be too narrow. */
export function inColumns(columns: readonly Column[], width: number): string {
  const each = Math.floor((width - 3 * (columns.length - 1)) / columns.length);
  if (each < 24) return columns.map(({ title, text }) => `[${title}]\n${text}`).join("\n\n");
  const wrapped = columns.map(({ title, text }) => [title, "-".repeat(each), ...wrapWords(text, each)]);
  const rows = Math.max(...wrapped.map((lines) => lines.length));
  return Array.from({ length: rows }, (_, row) =>
    wrapped
      .map((lines) => (lines[row] ?? "").padEnd(each))
      .join(" | ")
      .trimEnd(),
  ).join("\n");
}

/** Lines of at most `width` characters, broken between words where that is possible. */
export function wrapWords(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      let rest = word;
      if (line !== "" && line.length + 1 + rest.length > width) {
        lines.push(line);
        line = "";
      }
      for (; rest.length > width; rest = rest.slice(width)) lines.push(rest.slice(0, width));
      line = line === "" ? rest : `${line} ${rest}`;
    }
    lines.push(line);
  }
  return lines;
}
