// A training loop of one's own: batches, gradients, an update whose rate follows the loss, and an adapter in the end
// that any PEFT tool loads.

import { open } from "lowrank";

const rows = Array.from({ length: 24 }, (_, i) => ({
  prompt: `The color of number ${i % 6} is`,
  completion: i % 2 === 0 ? " red" : " blue",
}));

await using model = await open("tiny");
await using session = await model.session({ rank: 8, targets: "attention" });
const before = await session.evaluate(rows);
for (const batch of session.batches(rows, { batchSize: 4, epochs: 3 })) {
  const { loss } = await session.forwardBackward(batch);
  await session.step({ learningRate: loss > 2 ? 3e-3 : 1e-3 });
}
const after = await session.evaluate(rows);
await session.save("runs/own");
console.log(
  `loss ${before.loss.toFixed(2)} -> ${after.loss.toFixed(2)} in ${session.steps} steps of ${session.trainableParameters} parameters`,
);
console.log((await model.generate("The color of number 2 is", { maxNewTokens: 4 })).text);
