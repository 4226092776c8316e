// Trains a tiny model for thousands of steps, of changing lengths and numbers of micro-batches, and prints what it
// holds as it goes: the device's live bytes, which must not move at all, and the process's resident memory, which must
// be flat once warm. The training is a process of its own, so that its end is seen too: it must leave by itself, with
// code 0.
//   node bench/endurance.mjs [--backend webgpu] [--steps 2000] [--method lora|qlora] [--json]
// Needs the built package. A quick form of it is test/e2e/leaks.test.ts.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    backend: { type: "string", default: "webgpu" },
    steps: { type: "string", default: "2000" },
    method: { type: "string", default: "lora" },
    json: { type: "boolean", default: false },
    child: { type: "boolean", default: false },
  },
});
const steps = Number(options.steps);

/** 0.1M parameters: what grows is what the program keeps, not what the model needs. */
const shape = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 264, hidden_size: 64 },
  ...{ intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ max_position_embeddings: 256, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu" },
  tie_word_embeddings: false,
};
const reportEvery = Math.max(1, Math.floor(steps / 10));

/** Up to three rows of 4 to 31 tokens, by the step alone. */
function batchesOf(assemble, step) {
  return Array.from({ length: 1 + (step % 3) }, (_, i) => {
    const length = 4 + ((step * 7 + i * 5) % 28);
    const ids = Int32Array.from({ length }, (_, t) => (step + i + t * 3) % shape.vocab_size);
    const targetMask = new Uint8Array(length).fill(1, 1);
    return assemble([{ ids, targetMask, rowId: { file: "rows", line: i + 1, unit: "line" } }]);
  });
}

/** The training; sends a message at each report. */
async function train() {
  const load = (path) => import(`../dist/${path}.js`);
  const { openBackend } = await load("backend/index");
  const { assemble } = await load("data/assemble");
  const { readModelConfig } = await load("models/index");
  const { quantizeOnArrival } = await load("models/quantized-weights");
  const { randomDecoder } = await load("models/random-model");
  const { Session } = await load("session/session");

  const backend = await openBackend(options.backend, {});
  const quantize = options.method === "qlora" ? quantizeOnArrival(backend) : undefined;
  const loaded = await randomDecoder(backend, readModelConfig(shape), 0, { train: false, quantize });
  const session = new Session(loaded, {
    ...{ method: options.method, rank: 8, alpha: 16, dropout: 0.1, targets: "all-linear" },
    ...{ optimizer: "adamw", weightDecay: 0, seed: 0 },
  });
  const liveBytes = new Set();
  let loss = 0;
  for (let step = 1; step <= steps; step++) {
    session.checkpointing = step % 2 === 0;
    ({ loss } = await session.trainStep(batchesOf(assemble, step), { learningRate: 1e-3 }));
    // The first steps make the memory of losses, as large as the largest number of micro-batches.
    if (step > 3) liveBytes.add(backend.liveBytes);
    if (step === 1) process.send({ device: backend.description });
    if (step % reportEvery !== 0 && step !== steps) continue;
    globalThis.gc();
    const { rss, heapUsed } = process.memoryUsage();
    const held = { liveBytes: backend.liveBytes, liveSizes: liveBytes.size, peakBytes: backend.peakBytes };
    process.send({ step, rss, heapUsed, loss, ...held });
  }
  session[Symbol.dispose]();
  loaded.free();
  process.send({ left: backend.liveBytes });
  backend.close();
  process.disconnect();
}

async function watch() {
  const started = performance.now();
  const argv = [...process.argv.slice(2).filter((flag) => flag !== "--json"), "--child"];
  const child = spawn(process.execPath, ["--expose-gc", fileURLToPath(import.meta.url), ...argv], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const reports = [];
  const result = { backend: options.backend, method: options.method, steps };
  let endedAt;
  const say = (text) => (options.json ? process.stderr : process.stdout).write(`${text}\n`);
  child.on("message", (message) => {
    const at = performance.now() - started;
    if (message.step !== undefined) {
      reports.push({ ...message, elapsedMs: at });
      say(
        `step ${String(message.step).padStart(6)}: live ${message.liveBytes} bytes, RSS ${megabytes(message.rss)}, heap ${megabytes(message.heapUsed)}, loss ${message.loss.toFixed(3)}, ${(at / 1000).toFixed(0)} s`,
      );
    }
    if (message.device !== undefined) say((result.device = message.device));
    if (message.left !== undefined) {
      result.leftBytes = message.left;
      endedAt = performance.now();
    }
  });
  const [code, signal] = await new Promise((resolve) => child.on("close", (...end) => resolve(end)));
  const last = reports.at(-1);
  const warm = reports[Math.min(1, reports.length - 1)];
  Object.assign(result, { code, signal, exitMs: endedAt && performance.now() - endedAt, reports });
  result.growthBytes = last && last.rss - warm.rss;
  result.constant = reports.every(({ liveSizes }) => liveSizes === 1);
  say(
    `live bytes ${result.constant ? "the same after each step" : "NOT CONSTANT"}, ${result.leftBytes} left at the end; RSS grew by ${megabytes(result.growthBytes ?? Number.NaN)} from step ${warm?.step} to ${last?.step}; exit code ${code ?? signal}, ${result.exitMs?.toFixed(0)} ms after the last step`,
  );
  if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  process.exitCode = code === 0 && result.constant && result.leftBytes === 0 ? 0 : 1;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

await (options.child ? train() : watch());
