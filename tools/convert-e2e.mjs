// Converts the E2E data of the LoRA paper's repository, lines of "meaning||text", to JSON Lines that lowrank reads.
//
//   node tools/convert-e2e.mjs IN.txt OUT.jsonl [--unseen OTHER.txt] [--group] [--separator " ||"]
//
// Training rows are {"prompt": meaning + separator, "completion": " " + text}. --group writes one row a meaning, with
// all its texts: {"prompt", "completion", "references"}, as evaluation wants them. --unseen leaves out meanings that
// OTHER.txt holds too, so that a test set has none of the training set's.

import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    unseen: { type: "string" },
    group: { type: "boolean", default: false },
    separator: { type: "string", default: " ||" },
  },
});
const [input, output] = positionals;
if (input === undefined || output === undefined || positionals.length > 2) {
  console.error(
    "usage: node tools/convert-e2e.mjs IN.txt OUT.jsonl [--unseen OTHER.txt] [--group] [--separator S]",
  );
  process.exit(2);
}

/** [meaning, text] of each line. */
function readPairs(path) {
  const pairs = [];
  for (const [i, line] of readFileSync(path, "utf8").split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const at = line.indexOf("||");
    if (at < 0) {
      console.error(`${path} line ${i + 1}: expected "meaning||text".`);
      process.exit(1);
    }
    pairs.push([line.slice(0, at).trim(), line.slice(at + 2).trim()]);
  }
  return pairs;
}

const seen = new Set(values.unseen === undefined ? [] : readPairs(values.unseen).map(([meaning]) => meaning));
const kept = readPairs(input).filter(([meaning]) => !seen.has(meaning));
const groups = Map.groupBy
  ? Map.groupBy(kept, ([meaning]) => meaning)
  : kept.reduce((map, pair) => map.set(pair[0], [...(map.get(pair[0]) ?? []), pair]), new Map());

const rows = values.group
  ? [...groups].map(([meaning, pairs]) => {
      const references = pairs.map(([, text]) => ` ${text}`);
      return { prompt: meaning + values.separator, completion: references[0], references };
    })
  : kept.map(([meaning, text]) => ({ prompt: meaning + values.separator, completion: ` ${text}` }));
writeFileSync(output, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
console.error(`${output}: ${rows.length} rows, ${groups.size} meanings`);
