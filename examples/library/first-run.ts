// Fine-tune the embedded base on rows in memory, measure it, ask it. Run it with `node --experimental-strip-types`
// (Node 22) or tsx, in a project that has lowrank; `npm test` runs it too.

import { open, train } from "lowrank";

const colors = ["red", "green", "blue", "yellow"];
const rows = colors.flatMap((color) =>
  ["box", "hat", "ball"].map((thing) => ({
    prompt: `${color} ${thing}:`,
    completion: ` a ${thing} that is ${color}`,
  })),
);

const run = train({
  model: "tiny",
  data: rows,
  out: "runs/first",
  rank: 8,
  learningRate: 3e-3,
  maxSteps: 60,
  batchSize: 4,
});
for await (const event of run) {
  if (event.type === "train" && event.step % 20 === 0)
    console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

await using model = await open("tiny", { adapter: "runs/first" });
const { text } = await model.generate("red hat:", {
  maxNewTokens: 12,
  onText: (piece) => process.stdout.write(piece),
});
const { perplexity } = await model.evaluate(rows);
console.log(`\n${text.trim()} (perplexity ${perplexity.toFixed(2)})`);
