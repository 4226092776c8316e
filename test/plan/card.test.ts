// Plans for NVIDIA cards count what the CUDA backend will ask for: more than tensors take, by gaps and scratch, and little more; and
// fits go by it.

import { expect, it } from "vitest";
import { predictMemory } from "../../src/memory/predict-memory.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadModelGolden } from "../golden/load-golden.ts";

const shape = (width: number) => ({
  ...loadModelGolden("llama-mha").config,
  ...{ hidden_size: width, intermediate_size: 2 * width, num_attention_heads: 8, num_key_value_heads: 8 },
  ...{ head_dim: width / 8, num_hidden_layers: 4, vocab_size: 4096 },
});

it.each(["lora", "qlora", "full"] as const)(
  "%s: all that a card is asked for, and little more than tensors take",
  async (method) => {
    const config = readModelConfig(shape(1024));
    const recipe = {
      method,
      rank: 8,
      alpha: 16,
      targets: "all-linear",
      optimizer: "adamw",
      seed: 0,
    } as const;
    for (const checkpointing of [false, true]) {
      const run = { recipe, precision: "bf16", batchSize: 1, sequenceLength: 512, checkpointing } as const;
      const [plain, onCard] = [
        await predictMemory(config, run),
        await predictMemory(config, { ...run, onCard: true }),
      ];
      expect(plain.deviceBytes).toBeUndefined();
      expect(onCard.ledger.peakBytes).toBe(plain.ledger.peakBytes);
      expect(onCard.deviceBytes).toBeGreaterThan(onCard.ledger.peakBytes);
      // Memory comes in pieces of 2 and 32 MiB; the rest are gaps and what products pack.
      expect(onCard.deviceBytes! - onCard.ledger.peakBytes).toBeLessThan(64 * 2 ** 20);
    }
  },
);
