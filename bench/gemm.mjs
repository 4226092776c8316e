// Speed of linear layers on the CPU backend: GFLOP/s and fraction of this machine's measured multiply peak, for the
// layer shapes of real models, forward and input gradient, per weight type. Run `npm run build` first, then:
//   node bench/gemm.mjs [--threads 2] [--rows 512] [--weights f32,bf16,nf4] [--shapes 576x576,49152x576] [--rank 8]
// LOWRANK_ISA picks the instruction set. The best of several runs counts: it is the least disturbed one.

import { parseArgs } from "node:util";

const { cpu } = await import("../dist/backend/cpu.js");
const { loadNativeAddon } = await import("../dist/backend/cpu/addon.node.js");

const { values: options } = parseArgs({
  options: {
    threads: { type: "string", default: "0" },
    rows: { type: "string", default: "512" },
    rank: { type: "string", default: "0" },
    seconds: { type: "string", default: "0.4" },
    weights: { type: "string", default: "f32,bf16,nf4" },
    shapes: {
      type: "string",
      default: "576x576,1536x576,576x1536,49152x576,2048x2048,5632x2048,2048x5632,4096x4096,11008x4096",
    },
  },
});
const t = Number(options.rows);
const rank = Number(options.rank);
const addon = loadNativeAddon();

function tensor(backend, shape, dtype, size) {
  const count = shape.reduce((a, b) => a * b, 1);
  const buffer = backend.allocate(count * size, "workspace");
  const result = { buffer, byteOffset: 0, shape, dtype };
  if (dtype === "f32") backend.fillUniform({ y: result, bound: 0.5, seed: 1, stream: 1 });
  else if (dtype === "bf16") backend.fillUniform({ y: result, bound: 0.5, seed: 2, stream: 2 });
  else backend.write(buffer, new Uint8Array(count * size).fill(0x5a));
  return result;
}

function weightOf(backend, out, width, kind) {
  if (kind !== "nf4") return tensor(backend, [out, width], kind, kind === "f32" ? 4 : 2);
  return {
    kind: "quantized",
    shape: [out, width],
    codes: tensor(backend, [(out * width) / 2], "u8", 1),
    codebook: tensor(backend, [16], "f32", 4),
    blockSize: 64,
    absmax: tensor(backend, [(out * width) / 64], "f32", 4),
  };
}

/** Shortest of the calls that fit into the time budget, in seconds. Calls wait until something is read. */
async function best(backend, result, call) {
  let shortest = Number.POSITIVE_INFINITY;
  const until = performance.now() + 1000 * Number(options.seconds);
  await backend.read(result.buffer, 0, 4);
  for (let i = 0; i < 3 || performance.now() < until; i++) {
    const start = performance.now();
    call();
    await backend.read(result.buffer, 0, 4);
    shortest = Math.min(shortest, (performance.now() - start) / 1000);
  }
  return shortest;
}

async function measure(backend, out, width, kind) {
  const before = backend.liveBytes;
  const x = tensor(backend, [t, width], "f32", 4);
  const y = tensor(backend, [t, out], "f32", 4);
  const weight = weightOf(backend, out, width, kind);
  const adapter = rank && {
    a: tensor(backend, [rank, width], "f32", 4),
    b: tensor(backend, [out, rank], "f32", 4),
    scale: 1,
    u: tensor(backend, [t, rank], "f32", 4),
  };
  const gradients = rank && {
    dA: tensor(backend, [rank, width], "f32", 4),
    dB: tensor(backend, [out, rank], "f32", 4),
  };
  const forward = await best(backend, x, () =>
    backend.linear(x, [{ weight, y, adapter: adapter || undefined }]),
  );
  const part = { weight, dy: y, adapter: rank ? { ...adapter, ...gradients } : undefined };
  const backward = await best(backend, x, () =>
    backend.linearBackward(rank ? x : undefined, [part], x, false),
  );
  for (const owned of [
    x,
    y,
    weight.codes ?? weight,
    weight.codebook,
    weight.absmax,
    ...Object.values(adapter || {}),
    ...Object.values(gradients || {}),
  ]) {
    if (owned?.buffer) backend.free(owned.buffer);
  }
  if (backend.liveBytes !== before) throw new Error("the benchmark leaks");
  return { forward, backward };
}

for (const kind of options.weights.split(",")) {
  const precision = kind === "f32" ? "fp32" : "bf16";
  const backend = await cpu.open({ precision, threads: Number(options.threads) });
  const peak = addon.peakGflops(precision === "bf16" ? 1 : 0);
  console.log(`\n${kind} weights, ${backend.description}: peak ${peak.toFixed(0)} GFLOP/s`);
  for (const shape of options.shapes.split(",")) {
    const [out, width] = shape.split("x").map(Number);
    const { forward, backward } = await measure(backend, out, width, kind);
    const rate = (seconds) => (2 * t * out * width) / seconds / 1e9;
    const show = (seconds) =>
      `${rate(seconds).toFixed(0).padStart(6)} GFLOP/s ${((100 * rate(seconds)) / peak).toFixed(0).padStart(3)}%`;
    console.log(`${shape.padStart(12)}  forward ${show(forward)}   dX ${show(backward)}`);
  }
  backend.close();
}
