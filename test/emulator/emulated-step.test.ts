// Whole training steps of a small model in the matrix tier, on the emulated device, against the reference: losses and the
// parameters after them, with all that a step's calls have to do with each other (src/backend/webgpu/deferred-rows.ts).

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { backendOf, partsOn } from "../../src/backend/webgpu.ts";
import { assemble } from "../../src/data/assemble.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { randomDecoder } from "../../src/models/random-model.ts";
import { Session } from "../../src/session/session.ts";
import type { SessionRecipe } from "../../src/session/trainable.ts";
import { Random } from "../../src/util/rng.ts";
import { openEmulated } from "./emulated-device.ts";

const config = readModelConfig({
  model_type: "llama",
  ...{ vocab_size: 96, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128 },
});
const recipe: SessionRecipe = {
  method: "qlora",
  rank: 4,
  alpha: 8,
  targets: "all-linear",
  optimizer: "adamw",
  seed: 7,
};

function batch() {
  const random = new Random(5, 1);
  const samples = [40, 30].map((length, i) => ({
    ids: Int32Array.from({ length }, () => random.nextInt(config.vocabularySize)),
    targetMask: Uint8Array.from({ length }, (_, t) => (t > 0 ? 1 : 0)),
    rowId: { file: "random", line: i + 1, unit: "row" as const },
  }));
  return assemble(samples);
}

async function train(backend: Backend) {
  const loaded = await randomDecoder(backend, config, 3, { quantize: quantizeOnArrival(backend) });
  using session = new Session(loaded, recipe);
  const losses: number[] = [];
  const norms: number[] = [];
  for (let step = 0; step < 2; step++) {
    const { loss } = await session.forwardBackward([batch()]);
    const { gradNorm } = await session.step({ learningRate: 5e-3 });
    losses.push(loss);
    norms.push(gradNorm);
  }
  return { losses, norms };
}

describe("steps of the matrix tier, emulated", () => {
  it("of QLoRA", async () => {
    const opened = openEmulated("matrix", { m: 16, n: 16, k: 16, subgroupSize: 32 });
    const gpu = partsOn(opened);
    const labels: string[] = [];
    gpu.commands.onLaunch = ({ label }) => labels.push(label);
    const actual = await train(backendOf(opened, gpu));
    const expected = await train(openReference("f64"));
    expect(expected.losses[1]).toBeLessThan(expected.losses[0]!);
    for (const [i, loss] of expected.losses.entries()) {
      expect(Math.abs(actual.losses[i]! - loss)).toBeLessThan(2e-3 * loss);
      expect(Math.abs(actual.norms[i]! - expected.norms[i]!)).toBeLessThan(1e-2 * expected.norms[i]!);
    }
    const files = ["rows-norm ", "rows-gated ", "rows-norm-backward ", "rows-gated-backward ", "rows-rope "];
    for (const file of files)
      expect(labels.filter((label) => label.includes(file)).length, file).toBeGreaterThan(0);
  });
});
