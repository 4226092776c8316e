// Decoding of several requests at once: tokens a second of this checkout, of an earlier build of it and of llama.cpp, on the
// same random weights, threads and prompts, in one run. All sides are loaded before one is measured and take turns of a whole
// round (prompts, then answers), so that what else happens on the machine meets each. Only the time when every request
// decodes counts. Prints the best round and the CPU time of a token for each side, and ratios of the best; JSON with --json.
//
//   node bench/decode/run.mjs --config CONFIG.json [--weights nf4|bf16|TYPE] [--requests 1,16,32] [--prompt 32] [--tokens 48]
//        [--rounds 5] [--threads N] [--against CHECKOUT] [--llama DIR] [--isa avx2] [--work DIR] [--json]
//
// --weights: what the layers are stored in; a TYPE of `export --type` (q4_k_m, q8_0) makes a GGUF file and runs from its
// blocks. --against: another checkout, built. --llama (or LOWRANK_LLAMA): a folder with node_modules/node-llama-cpp; its own
// weights are q4_0 for nf4, f16 for bf16. --isa avx2 holds both to AVX2: llama.cpp by a copy without its other builds.

import { fork } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { randomFolder, randomGguf } from "../random-gguf.mjs";

const { values: given } = parseArgs({
  options: {
    config: { type: "string" },
    weights: { type: "string", default: "nf4" },
    requests: { type: "string", default: "1,16,32" },
    prompt: { type: "string", default: "32" },
    tokens: { type: "string", default: "48" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    against: { type: "string" },
    llama: { type: "string", default: process.env.LOWRANK_LLAMA },
    isa: { type: "string" },
    work: { type: "string", default: join(tmpdir(), "lowrank-decode") },
    json: { type: "boolean", default: false },
  },
});
const root = fileURLToPath(new URL("../..", import.meta.url));
/** llama.cpp's weights of about the same size. */
const theirs = { nf4: "q4_0", bf16: "f16" };

/** A copy of node-llama-cpp whose builds are those of AVX2 and below. */
function heldToAvx2(llama, to) {
  if (existsSync(join(to, "node_modules"))) return to;
  const platform = join(llama, "node_modules/@node-llama-cpp");
  // What other graphics platforms need is large and not used.
  const others = readdirSync(platform).filter((name) => name !== "linux-x64");
  cpSync(llama, `${to}.part`, {
    recursive: true,
    filter: (path) => !others.includes(basename(path)) || !path.startsWith(platform),
  });
  const builds = join(`${to}.part`, "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64");
  for (const name of readdirSync(builds)) {
    if (/^libggml-cpu-/.test(name) && !/-(haswell|sandybridge|sse42|x64)\.so$/.test(name))
      rmSync(join(builds, name));
  }
  cpSync(`${to}.part`, to, { recursive: true });
  rmSync(`${to}.part`, { recursive: true });
  return to;
}

/** A process of decode/side.mjs; ask(requests) runs a round there. */
async function start(options) {
  const env = { ...process.env, ...(given.isa ? { LOWRANK_ISA: given.isa } : {}) };
  const child = fork(fileURLToPath(new URL("side.mjs", import.meta.url)), [JSON.stringify(options)], {
    ...{ stdio: ["ignore", "ignore", "inherit", "ipc"], env },
  });
  const failed = once(child, "exit").then(([code]) => {
    throw new Error(`${options.name} ended with ${code}`);
  });
  failed.catch(() => {});
  const answer = () => Promise.race([once(child, "message").then(([message]) => message), failed]);
  const about = await answer();
  const ask = (requests) => {
    child.send(requests);
    return answer();
  };
  return { name: options.name, about, ask, end: () => child.kill() };
}

if (!given.config) throw new Error("--config CONFIG.json is needed; see the head of this file");
mkdirSync(given.work, { recursive: true });
const shape = basename(given.config, ".json");
const folder = randomFolder(given.config, join(given.work, shape));
const gguf = (type) => randomGguf(folder, join(given.work, `${shape}-${type}.gguf`), type);
const counts = given.requests.split(",").map(Number);
const common = {
  ...{ threads: Number(given.threads), slots: Math.max(...counts) },
  ...{ promptLength: Number(given.prompt), newTokens: Number(given.tokens) },
};
const plain = given.weights in theirs;
const model = plain ? folder : await gguf(given.weights);
const ours = { ...common, model, quantize: given.weights === "nf4" };
const sides = [await start({ ...ours, name: "this build", checkout: root })];
if (given.against) sides.push(await start({ ...ours, name: "against", checkout: given.against }));
if (given.llama) {
  const llama = given.isa === "avx2" ? heldToAvx2(given.llama, join(given.work, "llama-avx2")) : given.llama;
  const file = await gguf(plain ? theirs[given.weights] : given.weights);
  sides.push(await start({ ...common, model: file, name: "llama.cpp", llama }));
}

const results = [];
for (const requests of counts) {
  const found = sides.map(() => ({ rate: 0, cpuMs: Number.POSITIVE_INFINITY, rates: [] }));
  for (let round = 0; round <= Number(given.rounds); round++) {
    for (const [i, side] of sides.entries()) {
      const { elapsedMs, cpuMs, tokens } = await side.ask(requests);
      if (round === 0) continue;
      found[i].rates.push((1000 * tokens) / elapsedMs);
      found[i].rate = Math.max(found[i].rate, (1000 * tokens) / elapsedMs);
      found[i].cpuMs = Math.min(found[i].cpuMs, cpuMs / tokens);
    }
  }
  const row = { shape, weights: given.weights, requests, threads: common.threads };
  for (const [i, { name }] of sides.entries()) {
    const { rate, cpuMs, rates } = found[i];
    row[name] = {
      tokensPerSecond: rate,
      cpuMsPerToken: cpuMs,
      median: rates.sort((a, b) => a - b)[rates.length >> 1],
    };
    if (i > 0) row[`ratio to ${name}`] = found[0].rate / rate;
  }
  results.push(row);
  if (given.json) continue;
  const tell = ({ name }) =>
    `${name} ${row[name].tokensPerSecond.toFixed(0)} (median ${row[name].median.toFixed(0)}, ${row[name].cpuMsPerToken.toFixed(2)} CPU ms)`;
  const ratios = sides.slice(1).map(({ name }) => `${row[`ratio to ${name}`].toFixed(2)}x ${name}`);
  console.log(`${requests} requests, tokens/s: ${sides.map(tell).join(", ")}  ${ratios.join(", ")}`);
}
if (given.json)
  console.log(JSON.stringify({ sides: sides.map(({ name, about }) => ({ name, about })), results }));
else for (const { name, about } of sides) console.log(`${name}: ${about}`);
for (const side of sides) side.end();
