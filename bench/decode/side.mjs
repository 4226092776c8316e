// One side of the benchmark beside this file, in a process of its own: loads, says what it runs on, and for every number
// that it is sent decodes so many requests at once. Not here: turns and what is made of times (run.mjs).

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const options = JSON.parse(process.argv[2]);
const { checkout, llama, model, quantize, threads, slots, promptLength, newTokens } = options;
const load = (...path) => import(pathToFileURL(join(...path)).href);
const promptOf = (request) =>
  Array.from({ length: promptLength }, (_, i) => 3 + (((i + 31 * request) * 7919) % 200));
const capacity = promptLength + newTokens + 8;

/** Clocks from when every request has its first token to the end of the last; what each request has beyond its first. */
class Round {
  started = 0;
  counted = 0;
  constructor(requests) {
    this.waiting = requests;
    this.requests = requests;
  }
  /** A token of a request, its `nth`. */
  token(nth) {
    if (nth === 1 && --this.waiting === 0) {
      this.clock = performance.now();
      this.cpu = process.cpuUsage();
    } else if (this.waiting === 0) this.counted++;
  }
  end() {
    const elapsedMs = performance.now() - this.clock;
    const { user, system } = process.cpuUsage(this.cpu);
    return { elapsedMs, cpuMs: (user + system) / 1000, tokens: this.counted };
  }
}

async function lowrank() {
  const built = (path) => load(checkout, "dist", path);
  const { openBackend } = await built("backend/index.js");
  const { openModelFolder } = await built("formats/model-folder.js");
  const { readModelConfig } = await built("models/index.js");
  const { loadDecoder } = await built("models/load-model.js");
  const { folderSource } = await built("models/open-model.js");
  const { quantizeOnArrival } = await built("models/quantized-weights.js");
  const { GenerationEngine } = await built("generate/engine.js");
  const { greedy } = await built("generate/sampler.js");
  const backend = await openBackend("cpu", { threads });
  const folder = await openModelFolder(model);
  const config = readModelConfig(folder.config);
  const quantizer = quantize ? quantizeOnArrival(backend) : undefined;
  const { decoder } = await loadDecoder(backend, config, folderSource(folder), { quantize: quantizer });
  await folder.close();
  const engine = new GenerationEngine(decoder, { slots, capacity });
  const run = async (requests) => {
    const round = new Round(requests);
    await Promise.all(
      Array.from({ length: requests }, (_, r) => {
        let nth = 0;
        const onToken = () => round.token(++nth);
        const request = {
          promptIds: promptOf(r),
          maxNewTokens: newTokens + 1,
          stopIds: [],
          sampling: greedy,
        };
        return engine.generate({ ...request, onToken });
      }),
    );
    return round.end();
  };
  return { run, about: backend.description };
}

async function llamaCpp() {
  const { getLlama, LlamaLogLevel } = await load(llama, "node_modules/node-llama-cpp/dist/index.js");
  const instance = await getLlama({
    ...{ gpu: false, build: "never", skipDownload: true, maxThreads: threads },
    logLevel: LlamaLogLevel.error,
  });
  const loaded = await instance.loadModel({ modelPath: model });
  const batchSize = Math.max(512, slots * promptLength);
  const context = await loaded.createContext({ sequences: slots, contextSize: capacity, batchSize, threads });
  const sequences = Array.from({ length: slots }, () => context.getSequence());
  const run = async (requests) => {
    const round = new Round(requests);
    for (const sequence of sequences) await sequence.clearHistory();
    await Promise.all(
      sequences.slice(0, requests).map(async (sequence, r) => {
        let nth = 0;
        for await (const _ of sequence.evaluate(promptOf(r), { temperature: 0 })) {
          round.token(++nth);
          if (nth > newTokens) break;
        }
      }),
    );
    return round.end();
  };
  return { run, about: `node-llama-cpp, ${instance.cpuMathCores} cores, ${threads} threads` };
}

const side = await (llama ? llamaCpp() : lowrank());
process.on("message", async (requests) => process.send(await side.run(requests)));
process.send(side.about);
