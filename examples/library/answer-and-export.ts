// After training: stop an answer early, merge the adapter with its receipt, write a GGUF file, count what a larger
// model would take. Give a run's folder as the first argument; without one, a short run makes it.

import { exportGguf, merge, open, plan, train, UserError } from "lowrank";

let adapter = process.argv[2];
if (adapter === undefined) {
  adapter = "runs/short";
  const data = [{ prompt: "Once upon a time", completion: " there was a red fox." }];
  await train({ model: "tiny", data, out: adapter, maxSteps: 4 }).finished;
}

const patience = AbortSignal.timeout(30_000);
await using model = await open("tiny", { adapter });
console.log(
  (await model.generate("Once upon a time", { maxNewTokens: 24, signal: patience, stop: "." })).text,
);

try {
  const { comparisons } = await merge({ model: "tiny", adapter, out: "runs/merged" });
  console.log(`merged; mean KL divergence ${comparisons[0]?.meanKl.toExponential(1)}`);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.log(`not merged: ${error.message}`);
}
console.log(
  (await exportGguf({ model: "tiny", adapter, type: "q8_0", out: "runs/short.gguf" })).tensors,
  "tensors",
);

const { methods } = await plan({ model: "tiny", rank: 16, sequenceLength: 256 });
for (const { title, variants } of methods)
  console.log(title, variants[0]?.ledger.peakBytes, "bytes at the peak");
