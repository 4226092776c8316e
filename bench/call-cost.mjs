// What writing a kernel call costs on the CPU backend, before any kernel runs: operands checked against the contract and
// laid down as the native engine reads them. Other kernels are written in between, as in a training step.
//   npm run bench -- call-cost [--calls 1000000] [--json]
// Needs the built package. The best of several rounds counts.

import { parseArgs } from "node:util";

const { loadNativeAddon } = await import("../dist/backend/cpu/addon.node.js");
const { CallBuffer } = await import("../dist/backend/cpu/call-buffer.js");
const { nativeSignatures } = await import("../dist/backend/cpu/signature.js");
const { CallWriter } = await import("../dist/backend/cpu/write-call.js");

const { values: options } = parseArgs({
  options: { calls: { type: "string", default: "1000000" }, json: { type: "boolean", default: false } },
});
const rounds = 10;
const perRound = Math.ceil(Number(options.calls) / rounds);

const live = new Set();
const calls = new CallBuffer(new Float64Array(2 ** 14), 4096);
const signatures = nativeSignatures(loadNativeAddon());
const writerOf = (name) => {
  const { id, list } = signatures.get(name);
  return new CallWriter(name, id, list, 0, (address) => live.has(address), calls);
};
let lastAddress = 2 ** 40;
const tensor = (shape, dtype = "f32") => {
  lastAddress += 2 ** 24;
  live.add(lastAddress);
  return { buffer: { id: lastAddress, sizeBytes: 2 ** 24 }, byteOffset: 0, shape, dtype };
};

const x = tensor([512, 9, 64]);
const flat = { ...x, shape: [512, 576] };
const operands = {
  rope: {
    ...{ x, positions: tensor([512], "i32"), cos: tensor([512, 32]), sin: tensor([512, 32]) },
    ...{ direction: 1, y: x },
  },
  rmsNorm: { x: flat, w: tensor([576]), shift: 0, epsilon: 1e-5, y: tensor([512, 576]), rstd: tensor([512]) },
  gatedActivation: {
    ...{ activation: "silu", gate: tensor([512, 1536]), up: tensor([512, 1536]), y: tensor([512, 1536]) },
  },
  addInPlace: { x: tensor([512, 576]), y: flat },
};
const writers = Object.keys(operands).map((name) => ({ name, writer: writerOf(name) }));

/** Nanoseconds of this thread's processor a call of one kernel: a busy machine's other processes do not count. */
function round({ name, writer }) {
  const start = process.cpuUsage();
  for (let i = 0; i < perRound; i++) {
    writer.write(operands[name]);
    if (i % 256 === 255) calls.take();
  }
  calls.take();
  const { user, system } = process.cpuUsage(start);
  return ((user + system) * 1e3) / perRound;
}

const best = Object.fromEntries(writers.map(({ name }) => [name, Number.POSITIVE_INFINITY]));
for (let i = 0; i < rounds; i++) {
  for (const entry of writers) best[entry.name] = Math.min(best[entry.name], round(entry));
}
if (options.json) process.stdout.write(`${JSON.stringify({ nanosecondsPerCall: best }, null, 2)}\n`);
else
  for (const [name, nanoseconds] of Object.entries(best))
    console.log(`${name.padEnd(16)} ${nanoseconds.toFixed(0)} ns a call`);
