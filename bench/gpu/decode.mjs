// Decoding one request over a 4-bit base of random weights made on the device: milliseconds a token, as the difference of a long
// answer and a short one, and the bytes of weights that a token reads, whose rate is held against the card's bandwidth. One JSON line.
//   node decode.mjs --config configs/llama2-7b.json [--backend cuda] [--short 16] [--long 144]

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    lowrank: { type: "string", default: new URL("../..", import.meta.url).pathname },
    config: { type: "string" },
    backend: { type: "string", default: "cuda" },
    short: { type: "string", default: "16" },
    long: { type: "string", default: "144" },
  },
});
const load = (path) => import(`${options.lowrank}/dist/${path}`);
const { openBackend } = await load("backend/index.js");
const { readModelConfig } = await load("models/index.js");
const { randomDecoder } = await load("models/random-model.js");
const { quantizeOnArrival } = await load("models/quantized-weights.js");
const { generateBatch } = await load("generate/generate.js");
const { greedy } = await load("generate/sampler.js");

const backend = await openBackend(options.backend);
const config = readModelConfig(JSON.parse(readFileSync(options.config, "utf8")));
const loaded = await randomDecoder(backend, config, 0, { quantize: quantizeOnArrival(backend) });
const promptIds = Array.from({ length: 16 }, (_, i) => (37 * i + 5) % config.vocabularySize);

async function milliseconds(maxNewTokens) {
  const begin = performance.now();
  const request = { promptIds, maxNewTokens, stopIds: [], sampling: greedy };
  const [{ tokenIds }] = await generateBatch(loaded.decoder, [request], { slots: 1 });
  if (tokenIds.length !== maxNewTokens) throw new Error(`${tokenIds.length} tokens of ${maxNewTokens}`);
  return performance.now() - begin;
}

const [short, long] = [Number(options.short), Number(options.long)];
await milliseconds(short);
const times = [];
for (let i = 0; i < 3; i++)
  times.push(((await milliseconds(long)) - (await milliseconds(short))) / (long - short));
const msPerToken = times.sort((a, b) => a - b)[1];
const { weights, scales } = backend.ledger().live;
// The embedding is a row a token; every other weight is read whole.
const table = config.vocabularySize * config.width * (backend.precision === "fp32" ? 4 : 2);
const bytesPerToken = weights + scales - table;
console.log(
  JSON.stringify({
    decode: options.config.split("/").at(-1),
    ...{ backend: options.backend, device: backend.description, msPerToken, bytesPerToken },
    tokensPerSecond: 1000 / msPerToken,
    terabytesPerSecond: bytesPerToken / msPerToken / 1e9,
  }),
);
backend.close();
