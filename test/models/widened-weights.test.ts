// Frozen matrices that a file has in bf16, under fp32 on the CPU: they stay in bf16 on the device and give the very numbers
// that their f32 copies give. What files have in f16 or f32 is kept in f32, and so is what trains.

import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Precision } from "../../src/backend/backend.ts";
import { cpu } from "../../src/backend/cpu.ts";
import { assemble } from "../../src/data/assemble.ts";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadDecoder, type WeightSource } from "../../src/models/load-model.ts";
import { Session } from "../../src/session/session.ts";
import { type DType, dtypeBytes, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

const config = readModelConfig({
  ...{ model_type: "llama", vocab_size: 72, hidden_size: 48, intermediate_size: 80, num_hidden_layers: 2 },
  ...{
    num_attention_heads: 3,
    num_key_value_heads: 1,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
  },
});
const parameters = weightSpecs(config).reduce((sum, { shape }) => sum + elementCount(shape), 0);

/** A checkpoint of numbers that bf16 and f16 both hold exactly, stored as `dtype`. */
function sourceOf(dtype: DType): WeightSource {
  const stored = new Map(
    weightSpecs(config).map(({ name, shape }, i) => {
      const random = new Random(5, i);
      const values = Float32Array.from(
        { length: elementCount(shape) },
        () => (random.nextInt(255) - 127) / (shape.length === 1 ? 128 : 512),
      );
      return [name, { dtype, shape, bytes: encodeFrom(values, dtype) }] as const;
    }),
  );
  return {
    path: "a checkpoint",
    find: (name) => stored.get(name),
    read: async (name, offset, length) => stored.get(name)!.bytes.subarray(offset, offset + length),
  };
}

const batch = () =>
  assemble(
    [20, 13].map((length, line) => ({
      ids: Int32Array.from({ length }, (_, t) => (7 * t + 11 * line) % 72),
      targetMask: new Uint8Array(length).fill(1),
      rowId: { file: "made", line: line + 1, unit: "row" as const },
    })),
  );

async function train(dtype: DType, method: "lora" | "full", precision: Precision = "fp32") {
  const backend = (await cpu.open({ precision }))!;
  const loaded = await loadDecoder(backend, config, sourceOf(dtype), { train: method === "full" });
  const weights = backend.ledger().live.weights;
  const recipe = {
    method,
    rank: 4,
    alpha: 8,
    dropout: 0,
    targets: "all-linear",
    optimizer: "adamw",
  } as const;
  const session = new Session(loaded, { ...recipe, weightDecay: 0, seed: 3 });
  const losses: number[] = [];
  for (let step = 0; step < 3; step++) {
    losses.push((await session.trainStep([batch()], { learningRate: 1e-2 })).loss);
  }
  backend.close();
  return { weights, losses };
}

describe.skipIf(!existsSync(new URL("../../native/build/lowrank.node", import.meta.url)))(
  "fp32 on the CPU",
  () => {
    it("keeps matrices of bf16 in half the room, and trains by the same numbers", async () => {
      const [wide, narrow] = [await train("f32", "lora"), await train("bf16", "lora")];
      expect(narrow.losses).toEqual(wide.losses);
      expect(wide.weights).toBe(4 * parameters);
      const vectors = weightSpecs(config).filter(({ kind }) => kind === "vector");
      const inVectors = vectors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
      expect(narrow.weights).toBe(2 * (parameters - inVectors) + 4 * inVectors);
    });

    it("widens what is stored in f16, and what trains", async () => {
      expect((await train("f16", "lora")).weights).toBe(dtypeBytes.f32 * parameters);
      const [wide, narrow] = [await train("f32", "full"), await train("bf16", "full")];
      expect(narrow).toEqual(wide);
    });
  },
);
