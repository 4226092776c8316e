// Tokenising rows beside Rust's tokenizers (Python's `tokenizers`, encode_batch on all cores) in one run and in turns, with
// ids held equal on every row. Prints a table, or JSON with --json.
//
//   node bench/tokenize/run.mjs --python .venv/bin/python [--tokenizer tokenizer.json] [--data rows.json] [--rows N]
//     [--rounds N] [--json]
//
// Without --data, texts of the README's words are tokenised; rows are repeated, numbered, until there are enough.
// A development tool: nothing a user runs needs it.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Tokenizer } from "../../dist/text/tokenizer.js";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    tokenizer: { type: "string", default: join(here, "../../models/tiny-base/tokenizer.json") },
    data: { type: "string" },
    rows: { type: "string", default: "50000" },
    rounds: { type: "string", default: "3" },
    json: { type: "boolean", default: false },
  },
});
const texts = readTexts(Number(values.rows));
const characters = texts.reduce((sum, text) => sum + text.length, 0);

const folder = mkdtempSync(join(tmpdir(), "lowrank-bench-"));
const textsPath = join(folder, "texts.json");
writeFileSync(textsPath, JSON.stringify(texts));
const rust = spawn(values.python, [join(here, "rust.py"), values.tokenizer, textsPath], {
  stdio: ["pipe", "pipe", "inherit"],
});
try {
  const lines = createInterface({ input: rust.stdout })[Symbol.asyncIterator]();
  const loaded = await lines.next();
  if (loaded.done)
    throw new Error(`${values.python} cannot run rust.py; give a --python that has tokenizers`);
  const file = JSON.parse(readFileSync(values.tokenizer, "utf8"));
  const tokenizer = new Tokenizer({
    name: "bench",
    tokenizer: file,
    tokenizerConfig: { eos_token: anyToken(file) },
  });
  const seconds = { lowrank: [], rust: [] };
  let equal = true;
  for (let round = 0; round < Number(values.rounds); round++) {
    rust.stdin.write("go\n");
    const theirs = JSON.parse((await lines.next()).value);
    const ours = encodeAll(tokenizer);
    seconds.rust.push(theirs.seconds);
    seconds.lowrank.push(ours.seconds);
    equal &&= ours.hash === theirs.hash;
  }
  const best = { lowrank: Math.min(...seconds.lowrank), rust: Math.min(...seconds.rust) };
  const result = {
    ...{ rows: texts.length, characters, cores: cpus().length, idsEqual: equal, seconds, best },
    ratio: best.lowrank / best.rust,
  };
  if (values.json) console.log(JSON.stringify(result, null, 2));
  else {
    console.log(
      `${result.rows} rows, ${characters} characters, ${result.cores} cores, ids ${equal ? "equal" : "DIFFER"}`,
    );
    console.log(
      `lowrank ${best.lowrank.toFixed(2)} s, Rust ${best.rust.toFixed(2)} s: ${result.ratio.toFixed(2)}x`,
    );
  }
  if (!equal) process.exitCode = 1;
} finally {
  rust.stdin.end();
  rmSync(folder, { recursive: true });
}

function encodeAll(tokenizer) {
  const start = performance.now();
  const ids = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
  const elapsed = (performance.now() - start) / 1000;
  const hash = createHash("sha256");
  for (const row of ids) hash.update(`${row.join(",")}\n`);
  return { seconds: elapsed, hash: hash.digest("hex") };
}

function anyToken({ added_tokens, model }) {
  return added_tokens?.[0]?.content ?? Object.keys(model.vocab)[0];
}

function readTexts(count) {
  const texts = values.data === undefined ? plainTexts() : readFileTexts(values.data);
  return Array.from({ length: count }, (_, i) => {
    const text = texts[i % texts.length];
    return i < texts.length ? text : `${text} ${Math.floor(i / texts.length)}`;
  });
}

function readFileTexts(path) {
  const text = readFileSync(path, "utf8");
  const rows = text.trimStart().startsWith("[")
    ? JSON.parse(text)
    : text
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line));
  return rows.map((row) =>
    Object.values(row)
      .filter((value) => typeof value === "string")
      .join("\n"),
  );
}

function plainTexts() {
  const words = readFileSync(join(here, "../../README.md"), "utf8").split(/\s+/).filter(Boolean);
  return Array.from({ length: 5000 }, (_, i) =>
    Array.from({ length: 60 }, (_, j) => words[(i * 7919 + j * j * 31 + j) % words.length]).join(" "),
  );
}
