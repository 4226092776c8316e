// Whole numbers that a JSON file spells as floats (5.0), which JavaScript reads as 5. Python's readers of config files tell
// the two apart, and some refuse an integer, so that what is written like such a file spells them as it did. Part of json.ts.

/** Longer texts are no configurations, and what their numbers look like is nobody's concern. */
const mostText = 2 ** 20;

const places = new WeakMap<object, ReadonlySet<string>>();

/** Remembers of a parsed text where its whole floats stand. */
export function noteWholeFloats(text: string, value: unknown): void {
  if (typeof value !== "object" || value === null || text.length > mostText) return;
  if (!/\d(?:\.0+|[eE][+-]?\d+)\s*[,}\]]/.test(text)) return;
  places.set(value, placesIn(text));
}

const token = /"(?:[^"\\]|\\.)*"|[-\d][-+.\deE]*|[{}[\],:]/g;

/** Of valid JSON, the places of numbers with a fraction or an exponent that are whole. */
function placesIn(text: string): Set<string> {
  const found = new Set<string>();
  const path: (string | number)[] = [];
  let last = "";
  for (const [word] of text.matchAll(token)) {
    if (word === "[") path.push(0);
    else if (word === "{") path.push("");
    else if (word === "]" || word === "}") path.pop();
    else if (word === ",") {
      const at = path.at(-1);
      if (typeof at === "number") path[path.length - 1] = at + 1;
    } else if (word === ":") path[path.length - 1] = JSON.parse(last) as string;
    else if (/[.eE]/.test(word) && !word.startsWith('"') && Number.isInteger(Number(word)))
      found.add(JSON.stringify(path));
    last = word;
  }
  return found;
}

/** As JSON.stringify(value, null, 2), with numbers spelled as floats where they are in the text that `like` came from. */
export function stringifyLike(value: unknown, like: object): string {
  const known = places.get(like);
  if (!known) return JSON.stringify(value, null, 2);
  const write = (part: unknown, path: readonly (string | number)[], indent: string): string => {
    const inner = `${indent}  `;
    if (Array.isArray(part)) {
      if (part.length === 0) return "[]";
      const items = part.map((each, i) => inner + write(each ?? null, [...path, i], inner));
      return `[\n${items.join(",\n")}\n${indent}]`;
    }
    if (typeof part === "object" && part !== null) {
      const entries = Object.entries(part).filter(([, each]) => each !== undefined);
      if (entries.length === 0) return "{}";
      const lines = entries.map(
        ([key, each]) => `${inner}${JSON.stringify(key)}: ${write(each, [...path, key], inner)}`,
      );
      return `{\n${lines.join(",\n")}\n${indent}}`;
    }
    const text = JSON.stringify(part);
    return /^-?\d+$/.test(text) && known.has(JSON.stringify(path)) ? `${text}.0` : text;
  };
  return write(value, [], "");
}
