// Prefill and decoding of lowrank beside llama.cpp on the same machine in one run: the same random weights, threads and
// prompt. Both sides are loaded before either is measured and take turns of one prompt and its tokens, so that what else
// happens on the machine meets both. Of each side count the fastest prefill and the time that a quarter of the decoded
// tokens stayed within. Prints a table of ratios, or JSON with --json.
//
//   node bench/against-llama.mjs --llama DIR --configs DIR [--cases 135m-bf16,135m-nf4,1b-bf16,1b-nf4] [--threads N]
//                                [--prompt 512] [--tokens 64] [--rounds 8] [--work DIR] [--json]
//
// --llama is a folder with node_modules/node-llama-cpp (npm install --omit=optional --ignore-scripts node-llama-cpp
// @node-llama-cpp/linux-x64); --configs holds config.json files named smollm_135m.json and
// tinyllama_1b_chat_v1.0.json. Needs a built checkout. A development tool: nothing a user runs needs it.

import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { randomFolder, randomGguf } from "./random-gguf.mjs";

const shapes = { "135m": "smollm_135m.json", "1b": "tinyllama_1b_chat_v1.0.json" };
/** Our weights, and llama.cpp's of the same size. */
const weights = { bf16: "f16", nf4: "q4_0" };

const { values: given } = parseArgs({
  options: {
    llama: { type: "string" },
    configs: { type: "string" },
    cases: { type: "string", default: "135m-bf16,135m-nf4,1b-bf16,1b-nf4" },
    threads: { type: "string", default: String(availableParallelism()) },
    prompt: { type: "string", default: "512" },
    tokens: { type: "string", default: "64" },
    rounds: { type: "string", default: "8" },
    work: { type: "string", default: join(tmpdir(), "lowrank-against-llama") },
    json: { type: "boolean", default: false },
    side: { type: "string" },
    model: { type: "string" },
  },
});
const threads = Number(given.threads);
const [promptLength, newTokens] = [Number(given.prompt), Number(given.tokens)];
const root = fileURLToPath(new URL("..", import.meta.url));
const built = (path) => import(pathToFileURL(join(root, "dist", path)).href);
const promptIds = Array.from({ length: promptLength }, (_, i) => 3 + ((i * 7919) % 200));

/** What each side answers: `run` takes the prompt up to its last token, then newTokens steps; all times in order. */
const sides = {
  async ours() {
    const { openBackend } = await built("backend/index.js");
    const { openModelFolder } = await built("formats/model-folder.js");
    const { readModelConfig } = await built("models/index.js");
    const { loadDecoder } = await built("models/load-model.js");
    const { folderSource } = await built("models/open-model.js");
    const { quantizeOnArrival } = await built("models/quantized-weights.js");
    const { GenerationEngine } = await built("generate/engine.js");
    const { greedy } = await built("generate/sampler.js");
    const backend = await openBackend("cpu", { precision: "bf16", threads });
    const folder = await openModelFolder(given.model);
    const config = readModelConfig(folder.config);
    const quantize = given.cases === "nf4" ? quantizeOnArrival(backend) : undefined;
    const { decoder } = await loadDecoder(backend, config, folderSource(folder), { quantize });
    await folder.close();
    const weightBytes = backend.liveBytes;
    const capacity = promptLength + newTokens + 1;
    const engine = new GenerationEngine(decoder, { slots: 1, capacity, tokensPerPass: capacity });
    const run = async () => {
      const start = performance.now();
      const times = [];
      const sampling = greedy;
      const onToken = () => void times.push(performance.now());
      await engine.generate({ promptIds, maxNewTokens: newTokens + 1, stopIds: [], sampling, onToken });
      return { start, times };
    };
    return { run, about: async () => ({ weightBytes, bandwidth: await bandwidthOf(backend) }) };
  },
  async theirs() {
    const entry = join(given.llama, "node_modules/node-llama-cpp/dist/index.js");
    const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
    const options = { gpu: false, build: "never", skipDownload: true, maxThreads: threads };
    const llama = await getLlama({ ...options, logLevel: LlamaLogLevel.error });
    const model = await llama.loadModel({ modelPath: given.model });
    const context = await model.createContext({
      contextSize: promptLength + newTokens + 8,
      batchSize: promptLength,
      threads,
    });
    const sequence = context.getSequence();
    const run = async () => {
      await sequence.clearHistory();
      const start = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(promptIds);
      const times = [performance.now()];
      for await (const _ of sequence.evaluate([5], { temperature: 0 })) {
        times.push(performance.now());
        if (times.length > newTokens) break;
      }
      return { start, times };
    };
    return { run };
  },
};

/** The process of one side: loads, says so, then does what it is told until it is ended. */
async function serve() {
  const side = await sides[given.side]();
  process.on("message", async (request) => process.send(await side[request]()));
  process.send("ready");
}

async function start(side, model, kind) {
  const args = ["--side", side, "--model", model, "--cases", kind];
  for (const key of ["llama", "threads", "prompt", "tokens"]) args.push(`--${key}`, given[key]);
  const child = fork(fileURLToPath(import.meta.url), args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const failed = once(child, "exit").then(([code]) =>
    Promise.reject(new Error(`${side} ended with ${code}`)),
  );
  failed.catch(() => {});
  const answer = () => Promise.race([once(child, "message").then(([message]) => message), failed]);
  const ask = (request) => {
    child.send(request);
    return answer();
  };
  await answer();
  return { ask, end: () => child.kill() };
}

/** {prefillMs, tokenMs, weightBytes, bandwidth} of each side, from runs in turn, the first of each left out. */
async function measure(models, kind) {
  const children = {};
  const found = {};
  for (const side of Object.keys(models)) {
    children[side] = await start(side, models[side], kind);
    found[side] = { prefillMs: Number.POSITIVE_INFINITY, tokens: [], bandwidth: 0 };
  }
  for (let round = 0; round <= Number(given.rounds); round++) {
    for (const side of Object.keys(models)) {
      const { times, start } = await children[side].ask("run");
      if (round === 0) continue;
      const { prefillMs, tokens } = found[side];
      found[side].prefillMs = Math.min(prefillMs, times[0] - start);
      for (let t = 1; t < times.length; t++) tokens.push(times[t] - times[t - 1]);
    }
    const { weightBytes, bandwidth } = await children.ours.ask("about");
    found.ours.weightBytes = weightBytes;
    found.ours.bandwidth = Math.max(found.ours.bandwidth, bandwidth);
  }
  for (const side of Object.keys(models)) {
    children[side].end();
    const tokens = found[side].tokens.sort((a, b) => a - b);
    found[side].tokenMs = tokens[Math.floor(tokens.length / 4)];
  }
  return found;
}

/** Bytes a second that summing a large array reads. */
async function bandwidthOf(backend) {
  const count = 2 ** 28;
  const view = (buffer, shape) => ({ buffer, byteOffset: 0, shape, dtype: "f32" });
  const x = view(backend.allocate(4 * count, "workspace"), [count]);
  const out = view(backend.allocate(4, "workspace"), [1]);
  backend.fill({ y: x, value: 1 });
  let best = 0;
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    backend.sum({ x, out });
    await backend.read(out.buffer);
    best = Math.max(best, (4 * count * 1000) / (performance.now() - start));
  }
  for (const { buffer } of [x, out]) backend.free(buffer);
  return best;
}

async function main() {
  if (!given.llama || !given.configs)
    throw new Error("--llama DIR and --configs DIR are needed; see the head of this file");
  mkdirSync(given.work, { recursive: true });
  const results = [];
  for (const name of given.cases.split(",")) {
    const [shape, kind] = name.split("-");
    if (!shapes[shape] || !weights[kind]) throw new Error(`no case ${name}`);
    const config = join(given.configs, shapes[shape]);
    const model = join(given.work, shape);
    randomFolder(config, model);
    const gguf = await randomGguf(model, join(given.work, `${shape}-${weights[kind]}.gguf`), weights[kind]);
    const best = await measure({ ours: model, theirs: gguf }, kind);
    const perSecond = (side) => ({
      prefill: (1000 * promptLength) / best[side].prefillMs,
      decode: 1000 / best[side].tokenMs,
    });
    const [ours, theirs] = [perSecond("ours"), perSecond("theirs")];
    const embedding = embeddingBytes(config);
    results.push({
      case: name,
      threads,
      ours,
      theirs,
      prefillRatio: ours.prefill / theirs.prefill,
      decodeRatio: ours.decode / theirs.decode,
      // One row of the embedding is read a token, unless the head reads it too.
      bandwidthFraction: ((best.ours.weightBytes - embedding) * ours.decode) / best.ours.bandwidth,
      bandwidthGBs: best.ours.bandwidth / 1e9,
    });
    if (!given.json) tell(results.at(-1));
  }
  if (given.json) console.log(JSON.stringify(results));
}

function embeddingBytes(path) {
  const config = JSON.parse(readFileSync(path, "utf8"));
  return config.tie_word_embeddings ? 0 : 2 * config.vocab_size * config.hidden_size;
}

function tell({ case: name, ours, theirs, prefillRatio, decodeRatio, bandwidthFraction, bandwidthGBs }) {
  const rate = (value) => value.toFixed(1).padStart(8);
  console.log(
    `${name.padEnd(10)} prefill ${rate(ours.prefill)} / ${rate(theirs.prefill)} tokens/s = ${prefillRatio.toFixed(2)}x` +
      `   decode ${rate(ours.decode)} / ${rate(theirs.decode)} = ${decodeRatio.toFixed(2)}x` +
      `   ${(100 * bandwidthFraction).toFixed(0)}% of ${bandwidthGBs.toFixed(1)} GB/s`,
  );
}

if (given.side) await serve();
else await main();
