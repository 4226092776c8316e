// Makes train.jsonl and test.jsonl of a public data file for the comparisons beside this script: a shuffled split by a
// fixed seed, rows with the same content on one side. DialogSum's {"dialogue", "summary"} rows, which are published as
// Python prints dictionaries, become {"prompt", "completion"}; all other rows stay as they are.
//
//   node examples/compare/split.mjs FILE.json[l] FOLDER [--test 200] [--most 5000]

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { test: { type: "string", default: "200" }, most: { type: "string", default: "5000" } },
});
const [file, folder] = positionals;
if (file === undefined || folder === undefined) {
  console.error("usage: node examples/compare/split.mjs FILE.json[l] FOLDER [--test N] [--most N]");
  process.exit(2);
}

const text = readFileSync(file, "utf8");
const rows = text.trimStart().startsWith("[")
  ? JSON.parse(text)
  : text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line) => JSON.parse(line.startsWith("{'") ? fromPython(line) : line));

const unique = [...new Map(rows.map(toRow).map((row) => [JSON.stringify(row), row])).keys()];
// xorshift32: the same split everywhere.
let state = 20240726;
const next = () => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) / 2 ** 32;
};
for (let i = unique.length - 1; i > 0; i--) {
  const j = Math.floor(next() * (i + 1));
  [unique[i], unique[j]] = [unique[j], unique[i]];
}
const test = Math.min(Number(values.test), Math.floor(unique.length / 5));
mkdirSync(folder, { recursive: true });
write("test.jsonl", unique.slice(0, test));
write("train.jsonl", unique.slice(test, test + Number(values.most)));

/** JSON of a dictionary of strings as Python prints it: quotes of either kind, escapes of its own. */
function fromPython(line) {
  const escapes = { n: "\n", t: "\t", r: "\r" };
  return line.replace(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/g, (_, single, double) => {
    const text = (single ?? double).replace(/\\(?:x(..)|u(....)|(.))/g, (_, byte, unit, other) =>
      other === undefined
        ? String.fromCharCode(Number.parseInt(byte ?? unit, 16))
        : (escapes[other] ?? other),
    );
    return JSON.stringify(text);
  });
}

function toRow(row) {
  if (typeof row.dialogue !== "string") return row;
  return { prompt: `${row.dialogue}\n\nSummary:`, completion: ` ${row.summary ?? row.summary1}` };
}

function write(name, lines) {
  writeFileSync(join(folder, name), lines.map((line) => `${line}\n`).join(""));
  console.log(`${join(folder, name)}: ${lines.length} rows`);
}
