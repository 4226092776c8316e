// The cache of keys and values of a server: memory by tokens, how soon first tokens come where prompts begin alike, and decode
// speed; of this build and, with --against, of another built checkout, in turns.
//   npm run bench -- serve-cache [--against FOLDER] [--config config.json] [--requests 1,8,16] [--rounds 3] [--json]
// Memory is counted at the shape of a 7B. Times are of an engine on random weights in NF4, of the 135M shape unless a
// configuration is given; 32 requests share a prompt's first 1,000 tokens.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    against: { type: "string" },
    config: { type: "string" },
    requests: { type: "string", default: "1,8,16" },
    rounds: { type: "string", default: "3" },
    tokens: { type: "string", default: "64" },
    prompt: { type: "string", default: "100" },
    precision: { type: "string", default: "auto" },
    json: { type: "boolean", default: false },
    build: { type: "string" },
  },
});
const here = fileURLToPath(new URL("..", import.meta.url));

const shape = (hidden, inner, layers, heads, kvHeads, vocabulary) => ({
  ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_act: "silu", rms_norm_eps: 1e-5 },
  ...{ hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, vocab_size: vocabulary },
  ...{ num_attention_heads: heads, num_key_value_heads: kvHeads, max_position_embeddings: 4096 },
});
const shape7B = { ...shape(4096, 11008, 32, 32, 32, 32000), tie_word_embeddings: false };
const shape135M = { ...shape(576, 1536, 30, 9, 3, 49152), tie_word_embeddings: true };

if (options.build) await answerAsBuild(options.build);
else await compare();

/** A process of a build; ask() has it measure. */
function start(root) {
  const child = spawn(
    process.execPath,
    [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--build", root],
    {
      stdio: ["pipe", "pipe", "inherit"],
    },
  );
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (...work) => {
    child.stdin.write(`${JSON.stringify(work)}\n`);
    const { value, done } = await lines.next();
    if (done) throw new Error(`the process of ${root} ended`);
    return JSON.parse(value);
  };
  return { ask, end: () => child.stdin.end() };
}

async function compare() {
  const builds = { ...(options.against ? { before: start(options.against) } : {}), now: start(here) };
  const names = Object.keys(builds);
  const report = { memoryBytes: {}, first: {}, tokensPerSecond: {} };
  const print = (line) => !options.json && process.stdout.write(`${line}\n`);
  const each = async (measure) => {
    const found = {};
    for (const name of names) found[name] = await measure(builds[name]);
    return found;
  };
  for (const tokens of [64, 512, 2048, 4096]) {
    const found = await each(({ ask }) => ask("memory", tokens));
    report.memoryBytes[tokens] = found;
    print(
      `7B, 8 slots of 4096, ${tokens} tokens in each: ${describe(found, (bytes) => `${(bytes / 1e9).toFixed(2)} GB`)}`,
    );
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const count of options.requests.split(",")) {
      const found = await each(({ ask }) => ask("decode", Number(count)));
      const best = (report.tokensPerSecond[count] ??= {});
      for (const name of names) best[name] = Math.max(best[name] ?? 0, found[name]);
    }
  }
  for (const [count, found] of Object.entries(report.tokensPerSecond))
    print(`decode, ${count} requests: ${describe(found, (rate) => `${rate.toFixed(1)} tokens/s`)}`);
  const found = await each(({ ask }) => ask("first"));
  for (const kind of ["mean", "median", "last"]) {
    const times = Object.fromEntries(names.map((name) => [name, found[name][kind]]));
    report.first[kind] = times;
    print(
      `first token of 32 that share 1,000 tokens, ${kind}: ${describe(times, (ms) => `${(ms / 1000).toFixed(2)} s`)}`,
    );
  }
  if (found.before) {
    report.first.sameAnswers = found.before.answers.filter(
      (answer, i) => answer === found.now.answers[i],
    ).length;
    print(`answers that are the same: ${report.first.sameAnswers} of 32`);
  }
  for (const name of names) builds[name].end();
  if (options.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
}

/** "before 4.0, now 1.0 (0.25x)". */
function describe(found, format) {
  const text = Object.entries(found).map(([name, value]) => `${name} ${format(value)}`);
  return `${text.join(", ")}${found.before ? ` (${(found.now / found.before).toFixed(3)}x)` : ""}`;
}

/** A process with one build's code: each line that comes names a measurement, each that goes is its result. */
async function answerAsBuild(root) {
  const load = (path) => import(pathToFileURL(`${root}/dist/${path}.js`).href);
  const { openBackend } = await load("backend/index");
  const { openCounting } = await load("backend/counting");
  const { quantizeOnArrival } = await load("models/quantized-weights");
  const { randomDecoder } = await load("models/random-model");
  const { readModelConfig } = await load("models/index");
  const { GenerationEngine } = await load("generate/engine");
  const { KeyValueCache } = await load("generate/kv-cache");
  const paged = "reserve" in KeyValueCache.prototype;
  const config = readModelConfig(
    options.config ? JSON.parse(readFileSync(options.config, "utf8")) : shape135M,
  );
  let opened;
  const decoder = async () => {
    opened ??= (async () => {
      const backend = await openBackend("cpu", { precision: options.precision });
      const quantize = quantizeOnArrival(backend, "nf4");
      const loaded = await randomDecoder(backend, config, 1, { quantize });
      return { backend, decoder: loaded.decoder };
    })();
    return opened;
  };
  const ids = (length, seed) => Array.from({ length }, (_, i) => 5 + ((i * 7919 + seed * 104729) % 30000));
  const base = { stopIds: [], sampling: { temperature: 0, seed: 1 } };
  const work = {
    /** Bytes of a cache for 8 slots of 4,096 of a 7B with so many tokens in each slot. */
    memory(tokens) {
      const seven = readModelConfig(shape7B);
      const backend = openCounting("bf16");
      if (!paged) {
        new KeyValueCache(backend, seven, 8, 4096);
        return backend.liveBytes;
      }
      const cache = new KeyValueCache(backend, seven, { slots: 8, capacity: 4096, type: "auto" });
      for (let end = 64; end <= tokens; end += 64) {
        for (let slot = 0; slot < 8; slot++) cache.reserve(slot, end);
      }
      for (let slot = 0; slot < 8; slot++) cache.reserve(slot, tokens);
      return backend.liveBytes;
    },
    /** Milliseconds to each of 32 first tokens of prompts of 1,000 tokens in common and 30 of their own. */
    async first() {
      const { decoder: model } = await decoder();
      const engine = new GenerationEngine(model, { slots: 32, capacity: 1100, cacheType: "auto" });
      const started = performance.now();
      const times = await Promise.all(
        Array.from({ length: 32 }, async (_, i) => {
          let first;
          const onToken = () => void (first ??= performance.now() - started);
          const promptIds = [...ids(1000, 1), ...ids(30, 2 + i)];
          const { tokenIds } = await engine.generate({ ...base, promptIds, maxNewTokens: 8, onToken });
          return { first, tokenIds };
        }),
      );
      await engine.close();
      const sorted = times.map(({ first }) => first).sort((a, b) => a - b);
      const mean = sorted.reduce((sum, each) => sum + each, 0) / sorted.length;
      return {
        mean,
        median: sorted[16],
        last: sorted[31],
        answers: times.map(({ tokenIds }) => tokenIds.join()),
      };
    },
    /** Tokens a second of so many answers side by side, once all prompts are in. */
    async decode(count) {
      const { decoder: model } = await decoder();
      const tokens = Number(options.tokens);
      const engine = new GenerationEngine(model, { slots: count, capacity: 1100, cacheType: "auto" });
      const begun = Array(count).fill(0);
      let [from, to] = [0, 0];
      await Promise.all(
        begun.map((_, i) =>
          engine.generate({
            ...{ ...base, promptIds: ids(Number(options.prompt), i), maxNewTokens: tokens },
            onToken() {
              begun[i]++;
              if (begun.every((seen) => seen >= 4)) from ||= performance.now();
              if (i === 0 && begun[i] === tokens) to = performance.now();
            },
          }),
        ),
      );
      await engine.close();
      return (1000 * count * (tokens - 4)) / (to - from);
    },
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, argument] = JSON.parse(line);
    process.stdout.write(`${JSON.stringify(await work[name](argument))}\n`);
  }
}
