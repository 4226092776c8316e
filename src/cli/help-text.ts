// How help looks: at most 80 columns, descriptions in one column, a term that is too long for its column on a line of
// its own. Pure. Not here: what help says (command-line.ts, from the options' definitions).

import type { HelpConfiguration } from "commander";
import { wrapWords } from "./columns.ts";

/** What a terminal shows unless its owner made it wider. */
export const HELP_COLUMNS = 80;
const TERM_COLUMNS = 26;
const INDENT = "  ";

/** commander's help, laid out by the rules above. */
export const helpLayout: HelpConfiguration = {
  helpWidth: HELP_COLUMNS,
  showGlobalOptions: false,
  padWidth: () => TERM_COLUMNS,
  boxWrap: (text, width) => wrapWords(text, width).join("\n"),
  formatItem: (term, _termWidth, description) => formatItem(term, description),
};

/** A term and what it means: beside each other, or one under the other. */
export function formatItem(term: string, description: string, termColumns = TERM_COLUMNS): string {
  const margin = INDENT + " ".repeat(termColumns) + INDENT;
  const lines = wrapWords(description, HELP_COLUMNS - margin.length);
  if (term.length <= termColumns) {
    const first = `${INDENT}${term.padEnd(termColumns)}${INDENT}${lines[0] ?? ""}`.trimEnd();
    return [first, ...lines.slice(1).map((line) => margin + line)].join("\n");
  }
  return [...wrapTerm(term), ...lines.map((line) => margin + line)].join("\n");
}

/** A long term is a flag with its choices; it is broken after one of them. */
function wrapTerm(term: string): string[] {
  const [first = "", ...rest] = term.split(/(?<=[,|])/);
  const lines = [INDENT + first];
  for (const piece of rest) {
    if (lines.at(-1)!.length + piece.length <= HELP_COLUMNS) lines[lines.length - 1] += piece;
    else lines.push(INDENT.repeat(3) + piece);
  }
  return lines;
}

/** A command line, continued with a backslash where it is too long. */
export function formatExample(line: string): string {
  const words = line.split(" ");
  const lines = [INDENT + words[0]];
  for (const word of words.slice(1)) {
    const last = lines.length - 1;
    // Room for " \" at the end.
    if (lines[last]!.length + 1 + word.length <= HELP_COLUMNS - 2) lines[last] += ` ${word}`;
    else {
      // A flag moves to the next line together with its value.
      const flag = / (--\S+)$/.exec(lines[last]!);
      if (flag && !word.startsWith("--")) {
        lines[last] = `${lines[last]!.slice(0, flag.index)} \\`;
        lines.push(`${INDENT.repeat(3)}${flag[1]} ${word}`);
      } else {
        lines[last] += " \\";
        lines.push(INDENT.repeat(3) + word);
      }
    }
  }
  return lines.join("\n");
}
