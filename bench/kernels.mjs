// Speed of kernels, from the case list of the conformance tests: every call is first held against the reference, then
// timed; the best of several runs counts, as the least disturbed one. Called by main.mjs:
//   npm run bench -- rope|all [--backend cpu] [--precision fp32] [--threads 2] [--seconds 0.3] [--no-check] [--json]
// Small calls are timed many at a time, as they wait in the queue. LOWRANK_ISA picks the instruction set.

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createViteServer } from "vitest/node";

/** Calls between two waits: a queue's worth, fewer where one call takes long. */
const mostCalls = 200;
const batchSeconds = 0.02;
const tolerances = { fp32: 2e-5, bf16: 1.5e-2, fp16: 4e-3 };

/** The reference's plain loops take seconds for these, and more is no better check. */
const mostCheckedFlops = 2e9;

/** The case list, compiled as the tests compile it. */
async function loadCases() {
  const root = fileURLToPath(new URL("..", import.meta.url));
  const server = await createViteServer({
    root,
    configFile: false,
    logLevel: "error",
    server: { middlewareMode: true, hmr: false, ws: false, watch: null },
    optimizeDeps: { noDiscovery: true },
  });
  try {
    const { kernelSpecs } = await server.ssrLoadModule("/test/conformance/cases/index.ts");
    const { Stage } = await server.ssrLoadModule("/test/conformance/stage.ts");
    return { kernelSpecs, Stage };
  } finally {
    await server.close();
  }
}

function largestDifference(found, wanted) {
  let [worst, scale] = [0, 1e-6];
  for (const [i, value] of wanted.entries()) {
    worst = Math.max(worst, Math.abs(found[i] - value));
    scale = Math.max(scale, Math.abs(value));
  }
  return worst / scale;
}

/** What a call leaves, tensor by tensor. */
async function outputsOf(speed, backend, Stage) {
  const stage = new Stage(backend);
  const { call, outputs } = speed.prepare(stage);
  call();
  const read = [];
  for (const tensor of Object.values(outputs)) read.push(await stage.read(tensor));
  await stage.checkGuards();
  stage.free();
  return read;
}

/** Largest error over largest value, against the reference in double precision. */
async function errorOf(speed, backend, reference, Stage) {
  const found = await outputsOf(speed, backend, Stage);
  const wanted = await outputsOf(speed, reference, Stage);
  return Math.max(...wanted.map((values, i) => largestDifference(found[i], values)));
}

/** Shortest seconds of one call. */
async function bestSeconds(speed, backend, Stage, seconds) {
  const stage = new Stage(backend);
  const { call, outputs } = speed.prepare(stage);
  const [settled] = Object.values(outputs);
  const batch = async (count) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) call();
    await backend.read(settled.buffer, 0, 4);
    return (performance.now() - start) / 1000 / count;
  };
  await batch(1);
  const count = Math.max(1, Math.min(mostCalls, Math.round(batchSeconds / (await batch(2)))));
  let best = Number.POSITIVE_INFINITY;
  const until = performance.now() + 1000 * seconds;
  for (let i = 0; i < 3 || performance.now() < until; i++) best = Math.min(best, await batch(count));
  stage.free();
  return best;
}

/** Times one kernel's calls, or those of all; 2 when there is no such name. `scripts` are names of other benchmarks. */
export async function benchKernels(name, args, scripts) {
  const { values: options } = parseArgs({
    args,
    options: {
      backend: { type: "string", default: "cpu" },
      precision: { type: "string", default: "auto" },
      threads: { type: "string", default: "0" },
      seconds: { type: "string", default: "0.3" },
      "no-check": { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    },
  });
  const { kernelSpecs, Stage } = await loadCases();
  const names = Object.keys(kernelSpecs);
  const chosen = name === "all" ? names : names.filter((kernel) => kernel === name);
  if (chosen.length === 0) {
    console.error(
      `${name === undefined ? "name a benchmark" : `there is no benchmark "${name}"`}: npm run bench -- NAME\n  kernels: all, ${names.join(", ")}\n  scripts: ${scripts.join(", ")}`,
    );
    return 2;
  }
  const { openBackend } = await import("../dist/backend/index.js");
  const { openReference } = await import("../dist/backend/reference.js");
  const { precision, threads } = options;
  const backend = await openBackend(options.backend, { precision, threads: Number(threads) });
  const reference = openReference("f64");
  const results = [];
  const say = options.json ? () => {} : console.log;
  say(`${backend.name}, ${backend.description}`);
  for (const speed of chosen.flatMap((kernel) => kernelSpecs[kernel].speed)) {
    const checks = !options["no-check"] && (speed.flops ?? 0) <= mostCheckedFlops;
    const error = checks ? await errorOf(speed, backend, reference, Stage) : undefined;
    const tolerance = speed.product || speed.attention ? tolerances[backend.precision] : tolerances.fp32;
    const seconds = await bestSeconds(speed, backend, Stage, Number(options.seconds));
    const gflops = speed.flops ? speed.flops / seconds / 1e9 : undefined;
    const ok = error === undefined || error <= tolerance;
    results.push({ name: speed.name, microseconds: seconds * 1e6, gflops, error, ok });
    const rate = gflops === undefined ? "" : `${gflops.toFixed(0).padStart(6)} GFLOP/s`;
    const exactness = error === undefined ? "" : `error ${error.toExponential(1)}${ok ? "" : "  WRONG"}`;
    say(
      `${speed.name.padEnd(58)} ${(seconds * 1e6).toFixed(1).padStart(10)} us ${rate.padEnd(14)} ${exactness}`,
    );
  }
  if (options.json) {
    const { name: device, description } = backend;
    process.stdout.write(`${JSON.stringify({ name, backend: device, description, results }, null, 2)}\n`);
  }
  backend.close();
  return results.every(({ ok }) => ok) ? 0 : 1;
}
