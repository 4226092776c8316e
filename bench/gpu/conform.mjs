// The backends' conformance suite without the test runner, for a machine that has a card and little else: every kernel case on a
// backend against the reference in double precision. One JSON line: cases, the worst errors by kernel, and what failed.
//   node conform.mjs --backend cuda|webgpu|cpu [--precision bf16] [--tier matrix] [--only REGEX] [--most-ms 400]
// --most-ms leaves out cases that take the reference longer, for runs under a sanitizer.

import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    lowrank: { type: "string", default: new URL("../..", import.meta.url).pathname },
    cases: { type: "string", default: new URL("cases.bundle.mjs", import.meta.url).pathname },
    backend: { type: "string", default: "cuda" },
    precision: { type: "string", default: "bf16" },
    tier: { type: "string" },
    only: { type: "string", default: "" },
    "most-ms": { type: "string", default: "1e9" },
  },
});
const load = (path) => import(`${options.lowrank}/dist/${path}`);
const { kernelCases, Stage, toleranceOf, worstDifference } = await import(options.cases);
const { openReference } = await load("backend/reference.js");

async function open() {
  const { backend: name, precision, tier } = options;
  if (name === "webgpu" && tier) return (await load("backend/webgpu.js")).openWebGpu({ tier, precision });
  return (await load("backend/index.js")).openBackend(name, { precision });
}

async function outputsOf(backend, kernelCase) {
  const stage = new Stage(backend);
  const outputs = await kernelCase.run(stage);
  await stage.checkGuards();
  stage.free();
  return outputs;
}

const backend = await open();
if (!backend) throw new Error(`${options.backend}: no such device here`);
const reference = openReference("f64");
const worst = {};
const failed = [];
let cases = 0;
let leftOut = 0;
for (const kernelCase of kernelCases) {
  if (!new RegExp(options.only).test(kernelCase.name)) continue;
  const begin = performance.now();
  const wanted = await outputsOf(reference, kernelCase);
  if (performance.now() - begin > Number(options["most-ms"])) {
    leftOut++;
    continue;
  }
  cases++;
  try {
    const found = await outputsOf(backend, kernelCase);
    const kernel = kernelCase.name.split(" ")[0];
    for (const [key, values] of Object.entries(wanted)) {
      const error = worstDifference(found[key], values);
      worst[kernel] = Math.max(worst[kernel] ?? 0, error);
      if (!(error <= toleranceOf(kernelCase, backend)))
        failed.push({ case: kernelCase.name, output: key, error });
    }
  } catch (error) {
    failed.push({ case: kernelCase.name, error: error.message.slice(0, 300) });
    if (failed.length > 20) break;
  }
}
const { description } = backend;
backend.close();
console.log(
  JSON.stringify({
    conform: options.backend,
    ...{ tier: options.tier, precision: options.precision, device: description },
    ...{ cases, leftOut, failed: failed.length, failures: failed.slice(0, 20), worst },
  }),
);
process.exitCode = failed.length > 0 ? 1 : 0;
