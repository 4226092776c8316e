// What a training step asks of a GPU through WebGPU, counted without one: the real backend on a device that computes nothing
// (src/backend/webgpu/counting-device.ts), the real model and optimizer over it. After `npm run build`:
//
//   npm run --silent bench -- gpu-counts --model config.json --method qlora --batch-size 1 --sequence-length 1024 --json
//
// Options are those of `lowrank bench` (recomputation is off unless asked for), and --tier matrix|f16|f32 (what the device
// offers; limits and subgroup matrices are an NVIDIA card's), --families (a line, or an entry, for every kind of launch)
// and --dawn (the same calls once more on Dawn's null backend, whose front end is then in `dawnHostMs`; needs npm webgpu).
// The counts are of the last step, times the middle of --steps.

import { countingDevice, openedCounting } from "../dist/backend/webgpu/counting-device.js";
import { findGpu } from "../dist/backend/webgpu/dawn.js";
import { backendOf, partsOn } from "../dist/backend/webgpu.js";
import { parseCommandLine } from "../dist/cli/command-line.js";
import { benchDefinition } from "../dist/config/bench-options.js";
import { resolveOptions } from "../dist/config/resolve.js";
import { readShape } from "../dist/plan/shape.js";
import { benchShape } from "../dist/train/bench.js";
import { UsageError, UserError } from "../dist/util/errors.js";

const usage =
  "gpu-counts: what a step asks of a GPU through WebGPU, counted without one. Beside the flags of `lowrank bench`:\n" +
  "--tier matrix|f16|f32, --families (every kind of launch), --dawn (host time with Dawn's null backend), --json";
const tiers = ["matrix", "f16", "f32"];

/** This script's own flags taken out of the words, and what is left for `lowrank bench`. */
function readArguments(words) {
  const own = { json: false, families: false, dawn: false, tier: "matrix" };
  const rest = [];
  const queue = [...words];
  while (queue.length > 0) {
    const word = queue.shift();
    if (["--json", "--families", "--dawn"].includes(word)) own[word.slice(2)] = true;
    else if (word === "--tier" || word.startsWith("--tier=")) own.tier = word.slice(7) || queue.shift();
    else rest.push(word);
  }
  if (!tiers.includes(own.tier))
    throw new UsageError(`gpu-counts: --tier: expected ${tiers.join(", ")}; got "${own.tier ?? ""}".`);
  const { kind, flags, configFile, text } = parseCommandLine(benchDefinition, rest);
  if (kind === "help") return { help: `${usage}\n\n${text}` };
  if (kind !== "run" || configFile !== undefined)
    throw new UsageError("gpu-counts takes the flags of `lowrank bench`, see `lowrank bench --help`.");
  const options = resolveOptions(benchDefinition, {
    ...{ steps: "5", gradientCheckpointing: "off" },
    ...flags,
    ...{ backend: "webgpu", precision: own.tier === "f32" ? "fp32" : "fp16" },
  });
  return { own, options };
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** Steps on a counting device, over `behind` where there is one. After those that are timed one is counted. */
async function count(shape, options, tier, behind) {
  const { device, counts } = countingDevice({}, behind);
  const opened = openedCounting(device, tier);
  const gpu = partsOn(opened);
  const families = new Map();
  const countLaunch = ({ label }, operands) => {
    const family = families.get(label) ?? { kernel: label, dispatches: 0, operandBytes: 0 };
    families.set(label, family);
    family.dispatches++;
    for (const { sizeBytes } of operands) family.operandBytes += sizeBytes;
  };
  const steps = options.warmup + options.steps;
  const cpuMs = [];
  let cpuBefore = process.cpuUsage();
  let [done, before, after] = [0];
  const { stepsMs, ...result } = await benchShape(
    backendOf(opened, gpu),
    shape,
    { ...options, steps: options.steps + 2 },
    (message) => {
      // When a step is heard of, the next is recorded and the one after it is not: from one message to the next is a step.
      const { user, system } = process.cpuUsage(cpuBefore);
      cpuBefore = process.cpuUsage();
      if (message.startsWith("step ")) cpuMs.push((user + system) / 1000);
      if (!message.startsWith("step ")) return;
      done++;
      if (done === steps) before = { ...counts };
      if (done === steps + 1) after = { ...counts };
      gpu.commands.onLaunch = done === steps ? countLaunch : undefined;
    },
  );
  return {
    result,
    hostMs: median(stepsMs.slice(0, -2)),
    cpuMs: median(cpuMs.slice(options.warmup, options.warmup + options.steps)),
    step: Object.fromEntries(Object.keys(counts).map((key) => [key, after[key] - before[key]])),
    families: [...families.values()].sort((a, b) => b.operandBytes - a.operandBytes),
    poolBytes: gpu.memory.heldBytes,
  };
}

async function nullDevice() {
  const { gpu, reason } = await findGpu(["backend=null"]);
  const adapter = await gpu?.requestAdapter();
  if (!adapter) throw new UserError(`--dawn: ${reason ?? "Dawn has no null backend here"}`);
  return adapter.requestDevice();
}

async function main() {
  const { own, options, help } = readArguments(process.argv.slice(2));
  if (help) {
    console.log(help);
    return;
  }
  const shape = await readShape(options.model);
  const { step, result, families, hostMs, cpuMs, poolBytes } = await count(shape, options, own.tier);
  const dawn = own.dawn ? await count(shape, options, own.tier, await nullDevice()) : undefined;
  const document = {
    ...{ method: options.method, tier: own.tier },
    ...{ batchSize: options.batchSize, sequenceLength: options.sequenceLength },
    gradientCheckpointing: result.gradientCheckpointing,
    dispatches: step.dispatches,
    newBindGroups: step.bindGroups,
    operandBytes: families.reduce((sum, family) => sum + family.operandBytes, 0),
    submits: step.submits,
    hostMs,
    cpuMs,
    ...(dawn ? { dawnHostMs: dawn.hostMs, dawnCpuMs: dawn.cpuMs } : {}),
    ...{ writes: step.writes, copies: step.copies, passes: step.passes, maps: step.maps },
    ...{ newBuffers: step.buffers, newPipelines: step.pipelines },
    ...{ peakBytes: result.peakBytes, poolBytes },
    ...(own.families ? { families } : {}),
  };
  if (own.json) process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
  else print(document);
}

function print({ families = [], ...document }) {
  for (const [name, value] of Object.entries(document)) {
    const shown = name.endsWith("Bytes") ? `${(value / 1e9).toFixed(2)} GB` : value;
    console.log(`${name.padEnd(24)} ${typeof shown === "number" ? +shown.toFixed(1) : shown}`);
  }
  for (const { kernel, dispatches, operandBytes } of families)
    console.log(
      `${String(dispatches).padStart(6)} ${(operandBytes / 1e9).toFixed(3).padStart(9)} GB  ${kernel}`,
    );
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
process.exit();
