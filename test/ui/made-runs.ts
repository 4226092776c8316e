// Folders of runs as `lowrank train` leaves them, made by formula for tests of the page's server. Nothing here is a test.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A line of metrics.jsonl. */
export function stepLine(step: number, more = 0): string {
  const line = {
    ...{
      type: "train",
      step,
      loss: 1 / step + more,
      learningRate: 1e-4 / step,
      gradNorm: 1 + (step % 7) / 10,
    },
    ...{ targetTokens: 100, tokens: 200, tokensPerSecond: 1000 + (step % 13), elapsedMs: 10 * step },
  };
  return `${JSON.stringify(line)}\n`;
}

export function stepLines(from: number, to: number, more = 0): string {
  let text = "";
  for (let step = from; step <= to; step++) text += stepLine(step, more);
  return text;
}

/** A finished run, or with another status one that is over all the same. */
export function makeRun(
  root: string,
  id: string,
  steps: number,
  record: Readonly<Record<string, unknown>> = {},
): string {
  const folder = join(root, id);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "metrics.jsonl"), stepLines(1, steps));
  const whole = {
    ...{ status: "done", lowrank: "0.1.0", backend: "cpu", device: "a device", precision: "fp32" },
    options: {
      model: "tiny",
      data: "rows.jsonl",
      out: id,
      method: "lora",
      adapter: "lora",
      rank: 8,
      learningRate: 1e-4,
    },
    ...{ totalSteps: steps, flopsPerToken: 2e6, trainableParameters: 1000, totalParameters: 2000 },
    data: { file: "rows.jsonl", rows: 10, tokens: 200, targetTokens: 100 },
    ...{
      peakBytes: 1000,
      memory: { atPeak: { weights: 600, logits: 400 }, live: { weights: 600, logits: 0 } },
    },
  };
  writeFileSync(join(folder, "run.json"), JSON.stringify({ ...whole, ...record }));
  return folder;
}
