// Gemma 4 beside what every architecture is held to: its configurations' two spellings, what is refused, the numbers of
// layers that never train, and the table of embeddings that stays on the host.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { NO_TARGET } from "../../src/data/assemble.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { perLayerNames, weightSpecs } from "../../src/models/decoder-weights.ts";
import { evenHostRows, readHostRows } from "../../src/models/host-rows.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { moduleInWhole } from "../../src/models/text-tower.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { mergeFolder } from "../../src/publish/merge-folder.ts";
import { quantizeFolder } from "../../src/publish/quantize-folder.ts";
import { Session } from "../../src/session/session.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

type Config = Record<string, unknown>;
const configOf = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Config;
const goldens = ["gemma4", "gemma4-per-layer", "gemma4-unified"];
const ids = [5, 90, 17, 203, 44, 8, 61, 190, 12];

async function logitsOf(path: string, adapter?: string): Promise<Float32Array> {
  const told: string[] = [];
  await using model = await openModel(backend, path, { adapter, tell: (message) => void told.push(message) });
  expect(told).toEqual([]);
  return tokenLogits(model.loaded.decoder, ids);
}

describe("a Gemma 4 configuration", () => {
  it.each(goldens)("%s reads alike as published and as transformers 5.24 saves it", (name) => {
    const { config, configTransformers4 } = loadModelGolden(name);
    expect(config.per_layer_config).toBeDefined();
    expect(configTransformers4.global_head_dim).toBeDefined();
    expect(readModelConfig(configTransformers4)).toEqual(readModelConfig(config));
  });

  it("has the classes' values where nothing is said", () => {
    const { layers, ropes, perLayer } = readModelConfig({ model_type: "gemma4_text" });
    expect(layers.map(({ window }) => window)).toEqual(
      Array.from({ length: 30 }, (_, i) => ((i + 1) % 6 === 0 ? 0 : 512)),
    );
    expect(layers[5]).toMatchObject({ headWidth: 512, kvHeads: 4, attentionScale: 1 });
    expect(ropes.map(({ headWidth, rope }) => [headWidth, rope.type])).toEqual([
      [512, "proportional"],
      [256, "default"],
    ]);
    expect(perLayer).toEqual({ width: 256, vocabularySize: 262_144 });
    // The number of key/value heads of its own counts only where values are keys.
    const named = { model_type: "gemma4_text", num_global_key_value_heads: 1 };
    expect(readModelConfig(named).layers[5]?.kvHeads).toBe(4);
    expect(readModelConfig({ ...named, attention_k_eq_v: true }).layers[5]?.kvHeads).toBe(1);
    expect(readModelConfig({ model_type: "gemma4" }).tower?.wrapper).toBe("gemma4");
    expect(readModelConfig({ model_type: "gemma4_unified" }).perLayer).toBeUndefined();
  });

  it("turns whole heads by the plain RoPE, whatever share is written beside it", () => {
    const plain = { rope_type: "default", rope_theta: 5000, partial_rotary_factor: 0.25 };
    const given = { rope_parameters: { full_attention: plain, sliding_attention: plain } };
    const sizes = { model_type: "gemma4_text", head_dim: 6, global_head_dim: 4 };
    expect(readModelConfig({ ...sizes, ...given }).ropes).toEqual([
      { headWidth: 4, rope: { type: "default", theta: 5000 } },
      { headWidth: 6, rope: { type: "default", theta: 5000 } },
    ]);
  });

  it("shares keys with the last own layer of the same type, the last layer seeing everything", () => {
    const types = ["sliding", "full", "sliding", "sliding", "sliding"].map((type) => `${type}_attention`);
    const sizes = { model_type: "gemma4_text", num_hidden_layers: 5, layer_types: types };
    const config = readModelConfig({ ...sizes, num_kv_shared_layers: 2, use_double_wide_mlp: true });
    expect(config.layers.map(({ keysFrom }) => keysFrom)).toEqual([
      ...[undefined, undefined, undefined],
      ...[2, 1],
    ]);
    expect(config.layers.map(({ keysRead }) => keysRead)).toEqual([false, true, true, false, false]);
    expect(config.layers.map(({ mlpWidth }) => mlpWidth / 9216)).toEqual([1, 1, 1, 2, 2]);
    const names = weightSpecs(config).map(({ name }) => name);
    expect(names).not.toContain("model.layers.4.self_attn.k_norm.weight");
    expect(names).toContain("model.layers.4.self_attn.q_norm.weight");
    expect(() => readModelConfig({ ...sizes, num_kv_shared_layers: 4 })).toThrow(
      "leaves no layer of type full",
    );
  });

  it.each([
    [{ enable_moe_block: true }, "num_local_experts"],
    [{ enable_moe_block: true, num_experts: 4, top_k_experts: 5 }, "top_k_experts"],
    [{ enable_moe_block: true, num_experts: 4, top_k_experts: 2 }, "moe_intermediate_size"],
    [{ use_bidirectional_attention: "all" }, "encoder"],
    [{ vocab_size_per_layer_input: 8 }, "vocab_size_per_layer_input 8 is less"],
    [{ per_layer_config: { 5: { sliding_window: 8 } } }, "layer 5 a sliding_window of its own"],
    [{ per_layer_config: { 5: { head_dim: 128 } } }, "heads of different kinds"],
    [{ per_layer_config: { 5: { num_key_value_heads: 3 } } }, "a divisor of num_attention_heads 8"],
    [{ per_layer_config: [] }, "per_layer_config should hold"],
    [{ per_layer_config: { 5: 7 } }, "per_layer_config should give layer 5 an object"],
    [{ rope_parameters: "plain" }, "rope_parameters should be an object"],
    [{ rope_parameters: { full_attention: 7 } }, "full_attention should be an object"],
    [{ num_kv_shared_layers: -1 }, "num_kv_shared_layers"],
  ])("is refused: %j", (given, message) => {
    expect(() => readModelConfig({ model_type: "gemma4_text", ...given })).toThrow(message);
  });
});

/** The tiny model with embeddings of each layer inside one with a vision tower, as published, spare tensors and all. */
async function writeWhole(name: string): Promise<string> {
  const path = writeTinyModel(join(root, name), "gemma4-per-layer");
  const folder = await openModelFolder(path);
  const tensors = [];
  for (const [tensor, { shape }] of folder.tensors) {
    const bytes = await folder.read(tensor);
    const inWhole = tensor.replace(/^model\./, "model.language_model.");
    tensors.push({ name: inWhole, dtype: "F32" as const, shape, data: () => bytes });
  }
  await folder.close();
  const other = { dtype: "F32" as const, shape: [2], data: () => new Uint8Array(8) };
  tensors.push({ ...other, name: "model.vision_tower.patch.weight" });
  tensors.push({ ...other, name: "model.language_model.layers.3.self_attn.k_proj.weight" });
  await writeSafetensors(join(path, "model.safetensors"), tensors);
  const whole = { model_type: "gemma4", text_config: configOf(path), dtype: "float32" };
  writeFileSync(join(path, "config.json"), JSON.stringify(whole));
  return path;
}

describe("a Gemma 4 model", () => {
  let alone: string;
  beforeAll(() => {
    alone = writeTinyModel(join(root, "alone"), "gemma4-per-layer");
  });

  it("answers inside a larger one as by itself, merged and quantised too", async () => {
    const model = await writeWhole("whole");
    expect(await logitsOf(model)).toEqual(await logitsOf(alone));
    const { tower } = readModelConfig(configOf(model));
    const plain = await readAdapter(await writeRandomAdapter(join(root, "plain"), alone));
    expect([...plain.modules.keys()]).toContain(perLayerNames.projection);
    const adapter = join(root, "through");
    await writeAdapter(adapter, plain.config, plain, { moduleName: (name) => moduleInWhole(tower, name) });
    const adapted = await logitsOf(model, adapter);
    expect(adapted).toEqual(await logitsOf(alone, join(root, "plain")));

    const out = join(root, "merged");
    await mergeFolder(backend, {
      ...{
        model,
        adapter,
        out,
        dtype: "auto",
        sampleTokens: 64,
        maxKl: 1e-3,
        maxKlQuantized: 1,
        force: false,
      },
    });
    const folder = await openModelFolder(out);
    expect([...folder.tensors.keys()]).toContain("model.vision_tower.patch.weight");
    expect(folder.storedName(`${perLayerNames.table}.weight`)).toBe(
      "model.language_model.embed_tokens_per_layer.weight",
    );
    expect(folder.tensors.get("model.layers.1.layer_scalar")?.shape).toEqual([1]);
    await folder.close();
    for (const [i, value] of (await logitsOf(out)).entries())
      expect(Math.abs(value - adapted[i]!)).toBeLessThan(1e-3);

    const quantized = join(root, "quantized");
    await quantizeFolder(backend, {
      ...{ model, out: quantized, quantType: "nf4", blockSize: 64, doubleQuant: true },
    });
    expect((await logitsOf(quantized)).every(Number.isFinite)).toBe(true);
    const gguf = join(root, "x.gguf");
    await exportGguf(backend, { model, out: gguf, type: "f32", adapterOnly: false, modelfile: false });
    const file = await openGguf(await openFile(gguf));
    expect(file.metadata.get("general.architecture")?.value).toBe("gemma4");
    expect(file.tensors.has("v.patch_embd.weight")).toBe(false);
    await file.close();
    await expect(
      exportGguf(backend, {
        ...{ model, adapter, out: gguf, type: "f32", adapterOnly: true, modelfile: false },
      }),
    ).rejects.toThrow("which llama.cpp multiplies with no adapter");
  });

  it("keeps the table of each layer's embeddings off the device unless it trains", async () => {
    const { shape } = weightSpecs(readModelConfig(configOf(alone))).find(({ onHost }) => onHost)!;
    const before = backend.liveBytes;
    await using frozen = await openModel(backend, alone);
    const held = backend.liveBytes - before;
    const all = weightSpecs(frozen.config).reduce(
      (sum, spec) => sum + spec.shape.reduce((product, size) => product * size, 1),
      0,
    );
    expect(held).toBeLessThan(8 * (all - shape[0]! * shape[1]!) + 4096);
    await using trained = await openModel(backend, alone, { train: true });
    expect(await tokenLogits(trained.loaded.decoder, ids)).toEqual(
      await tokenLogits(frozen.loaded.decoder, ids),
    );
  });

  it("trains norms beside an adapter, and refuses the table there", async () => {
    await using model = await openModel(backend, alone);
    const recipe = {
      ...{ method: "lora" as const, rank: 1, alpha: 1, targets: "all-linear", seed: 0 },
      optimizer: "adamw" as const,
    };
    const before = await tokenLogits(model.loaded.decoder, ids);
    const norms = ["per_layer_projection_norm", "post_per_layer_input_norm"];
    const session = new Session(model.loaded, { ...recipe, modulesToSave: norms });
    expect(session.parameters.get("model.per_layer_projection_norm.weight")).toBeDefined();
    const parameter = session.parameters.get("model.per_layer_projection_norm.weight")!;
    session.parameters.set(parameter, new Float32Array(4).fill(3));
    expect(await tokenLogits(model.loaded.decoder, ids)).not.toEqual(before);
    session[Symbol.dispose]();
    expect(await tokenLogits(model.loaded.decoder, ids)).toEqual(before);
    const asked = { ...recipe, modulesToSave: ["embed_tokens_per_layer"] };
    expect(() => new Session(model.loaded, asked)).toThrow("stays in the host's memory and is frozen");
  });

  it("never trains the numbers of its layers, which decay would move", async () => {
    await using model = await openModel(backend, alone, { train: true });
    const flat = model.loaded.trained!;
    const read = (name: string) => flat.read(flat.get(name)!);
    const names = ["model.layers.0.layer_scalar", "model.layers.0.input_layernorm.weight"] as const;
    const [scalar, weight] = [await read(names[0]), await read(names[1])];
    using session = new Session(model.loaded, {
      ...{ method: "full", rank: 1, alpha: 1, targets: "all-linear", seed: 0, weightDecay: 0.5 },
      optimizer: "adamw",
    });
    const count = ids.length;
    const batch = {
      ids: Int32Array.from(ids),
      targets: Int32Array.from([...ids.slice(1), NO_TARGET]),
      segments: Int32Array.from([0, count, 0, count]),
      ...{
        maxLength: count,
        targetTokens: count - 1,
        rowIds: [{ file: "made", line: 1, unit: "row" as const }],
      },
    };
    await session.trainStep([batch], { learningRate: 0.1 });
    expect(await read(names[0])).toEqual(scalar);
    expect(await read(names[1])).not.toEqual(weight);
  });
});

describe("rows on the host", () => {
  const table = { name: "table", path: "here", dtype: "bf16" as const, shape: [3, 2] };
  const rowsOf = (values: number[]) => {
    const bytes = encodeFrom(values, "bf16");
    return readHostRows(table, async (offset, length) => bytes.slice(offset, offset + length));
  };

  it("are gathered by token, in any order and more than once", async () => {
    const rows = await rowsOf([1, 2, 3, 4, 5, 6]);
    expect([...rows.gather([2, 0, 2], 0.5)]).toEqual([2.5, 3, 0.5, 1, 2.5, 3]);
    expect([...evenHostRows(2, 3).gather([7], 2)]).toEqual([6, 6]);
  });

  it("are refused where there are none or they are broken", async () => {
    const rows = await rowsOf([1, 2, Number.NaN, 4, 5, 6]);
    expect(() => rows.gather([3], 1)).toThrow('token 3 has no row in "table"');
    expect(() => rows.gather([1], 1)).toThrow("NaN or infinite in the row of token 1");
    expect([...rows.gather([0], 1)]).toEqual([1, 2]);
  });
});
