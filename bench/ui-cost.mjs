// What the local page costs a run that goes on beside it: the same training without a page, with `train --ui` and a reader of
// its stream, and with the page open in a headless Chromium (where there is one), in turns that go forth and back. Of each
// run the tokens a second of its last steps count, when the page has been loaded.
//   npm run bench -- ui-cost [--model tiny] [--steps 300] [--rounds 4] [--batch-size 8] [--sequence-length 128] [--json]
// Needs the built package, and a machine that does nothing else.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "tiny" },
    steps: { type: "string", default: "300" },
    rounds: { type: "string", default: "4" },
    "batch-size": { type: "string", default: "8" },
    "sequence-length": { type: "string", default: "128" },
    json: { type: "boolean", default: false },
  },
});
const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lowrank-ui-cost-"));
/** Steps before this part of a run are its beginning: loading, the page's first look. */
const warmShare = 0.4;
const say = (text) => void (options.json || console.log(text));

/** Rows that fill the sequence length about. */
function writeRows(path) {
  const words = "red blue green small large round old new quick slow".split(" ");
  const length = Math.floor(Number(options["sequence-length"]) / 2);
  const row = (i) => Array.from({ length }, (_, j) => words[(i * 7 + j * (1 + (i % 3))) % words.length]);
  const lines = Array.from({ length: 400 }, (_, i) => JSON.stringify({ text: `${i} ${row(i).join(" ")}` }));
  writeFileSync(path, `${lines.join("\n")}\n`);
}

/** Reads the stream and the numbers that a page asks for, and draws nothing. */
async function readStream(url, id, signal) {
  const get = async (path) => (await fetch(new URL(path, url), { signal })).json();
  await get("/api/runs");
  const events = await fetch(new URL(`/api/events?runs=${encodeURIComponent(id)}`, url), { signal });
  await get(`/api/runs/${id}`);
  await get(`/api/runs/${id}/metrics?points=1000`);
  for await (const piece of events.body) readBytes += piece.length;
}
let readBytes = 0;

async function openBrowser() {
  const path = [process.env.LOWRANK_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find(
    (one) => one !== undefined && existsSync(one),
  );
  if (path === undefined) return undefined;
  const { chromium } = await import("playwright-core");
  return chromium.launch({ executablePath: path, args: ["--no-sandbox", "--disable-gpu"] });
}

/** Trains once; tokens a second of the steps that count. */
async function train(id, beside) {
  const out = join(folder, id);
  const words = [
    ...["train", "--model", options.model, "--data", join(folder, "rows.jsonl"), "--out", out],
    ...["--max-steps", options.steps, "--batch-size", options["batch-size"], "--over-length", "truncate"],
    ...["--sequence-length", options["sequence-length"], "--no-save-end", "--save-minutes", "0"],
    ...(beside ? ["--ui", "--ui-port", "0"] : []),
  ];
  const child = spawn(process.execPath, [main, ...words], { stdio: ["ignore", "ignore", "pipe"] });
  let told = "";
  let opened = false;
  const cut = new AbortController();
  let page;
  child.stderr.setEncoding("utf8").on("data", (text) => {
    told += text;
    const url = /^page: (\S+)$/m.exec(told)?.[1];
    if (opened || !beside || url === undefined) return;
    opened = true;
    page = beside(url, id, cut.signal).catch(() => {});
  });
  const code = await new Promise((done) => child.once("exit", done));
  cut.abort();
  await (await page)?.close?.();
  if (code !== 0) throw new Error(`lowrank ${words.join(" ")}\n${told}`);
  if (beside && !opened) throw new Error(`no page was opened\n${told}`);
  const steps = readFileSync(join(out, "metrics.jsonl"), "utf8")
    .split("\n")
    .filter((line) => line.includes('"type":"train"'))
    .map((line) => JSON.parse(line));
  rmSync(out, { recursive: true, force: true });
  const first = Math.floor(warmShare * steps.length);
  const counted = steps.slice(first + 1);
  const tokens = counted.reduce((sum, step) => sum + step.tokens, 0);
  return (1000 * tokens) / (steps.at(-1).elapsedMs - steps[first].elapsedMs);
}

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

const browser = await openBrowser();
try {
  writeRows(join(folder, "rows.jsonl"));
  const variants = {
    alone: undefined,
    stream: readStream,
    ...(browser && {
      page: async (url, id) => {
        const page = await browser.newPage();
        await page.goto(`${url}#/run/${encodeURIComponent(id)}`);
        return page;
      },
    }),
  };
  if (!browser) say("no Chromium here: the page itself is not measured");
  await train("warm-up", undefined);
  const rates = Object.fromEntries(Object.keys(variants).map((name) => [name, []]));
  const rounds = Number(options.rounds);
  for (let round = 0; round < rounds; round++) {
    const order = Object.keys(variants);
    for (const name of round % 2 === 0 ? order : order.reverse()) {
      const rate = await train(`${name}-${round}`, variants[name]);
      rates[name].push(rate);
      say(`round ${round + 1}: ${name.padEnd(6)} ${rate.toFixed(1)} tokens/s`);
    }
  }
  const result = Object.entries(rates).map(([name, all]) => ({
    name,
    tokensPerSecond: median(all),
    /** Against the run without a page of the same round. */
    cost: 1 - median(all.map((rate, round) => rate / rates.alone[round])),
    rounds: all,
  }));
  if (options.json) console.log(JSON.stringify({ ...options, readBytes, variants: result }, null, 2));
  else
    for (const { name, tokensPerSecond, cost } of result)
      say(`${name.padEnd(6)} ${tokensPerSecond.toFixed(1)} tokens/s, cost ${(100 * cost).toFixed(2)}%`);
} finally {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
}
