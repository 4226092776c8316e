// The random model folder: sharded, repeatable, and one that opens and quantises like a real model.

import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { openModel } from "../../src/models/open-model.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
// @ts-expect-error a plain JavaScript tool
import { makeRandomModel } from "../../tools/make-random-model.mjs";

const config = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 300, hidden_size: 64 },
  ...{ intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu" },
  tie_word_embeddings: false,
};

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "lowrank-random-"));
});
afterAll(() => rmSync(root, { recursive: true }));

it("makes shards of the seed's numbers that open as a model", async () => {
  const count = await makeRandomModel(config, join(root, "a"), 5, 100_000);
  await makeRandomModel(config, join(root, "b"), 5);
  await makeRandomModel(config, join(root, "c"), 6);
  expect(readdirSync(join(root, "a")).filter((name) => name.endsWith(".safetensors")).length).toBeGreaterThan(
    1,
  );
  const [a, b, c] = await Promise.all(["a", "b", "c"].map((name) => openModelFolder(join(root, name))));
  const name = "model.layers.1.mlp.up_proj.weight";
  expect(await a!.read(name)).toEqual(await b!.read(name));
  expect(await a!.read(name)).not.toEqual(await c!.read(name));
  const values = decodeToF32(await a!.read(name), "bf16");
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
  expect(Math.abs(deviation / 0.02 - 1)).toBeLessThan(0.05);
  expect(a!.weightBytes).toBe(2 * count);
  await Promise.all([a, b, c].map((folder) => folder!.close()));

  const backend = await openBackend("reference");
  const opened = await openModel(backend, join(root, "a"));
  expect(opened.tokenizer.decode(opened.tokenizer.encode("Grüße"), { skipSpecialTokens: true })).toBe(
    "Grüße",
  );
  expect(opened.loaded.totalParameters).toBe(count);
  await opened.close();
});
