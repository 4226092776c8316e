// Models of more than text around a text tower: config.json, the prefixes of tensors and of adapters' modules, and what
// becomes of the other towers when the text is trained, merged or quantised. And what is left out, by name.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { withTieFlag } from "../../src/models/folder-config.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { moduleInWhole, withTextValues } from "../../src/models/text-tower.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { mergeFolder } from "../../src/publish/merge-folder.ts";
import { quantizeFolder } from "../../src/publish/quantize-folder.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

type Config = Record<string, unknown>;
const configOf = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Config;

const ids = [5, 90, 17, 203, 44, 8, 61, 190, 12];
const vision = new Float32Array([1, 2, 3, 4, 5, 6]);

/** A tiny Gemma 3 inside a model with a vision tower; `rename` gives its tensors' names. */
async function writeWhole(name: string, rename: (tensor: string) => string): Promise<string> {
  const path = writeTinyModel(join(root, name), "gemma3-text");
  const folder = await openModelFolder(path);
  const tensors = [];
  for (const [tensor, { shape }] of folder.tensors) {
    const bytes = await folder.read(tensor);
    tensors.push({ name: rename(tensor), dtype: "F32" as const, shape, data: () => bytes });
  }
  await folder.close();
  const tower = { name: "vision_tower.layers.0.q_proj.weight", dtype: "F32" as const, shape: [2, 3] };
  tensors.push({ ...tower, data: () => new Uint8Array(vision.slice().buffer) });
  await writeSafetensors(join(path, "model.safetensors"), tensors);
  // The cap is the text class's alone.
  const { final_logit_softcapping: _, ...text } = configOf(path);
  const whole = { model_type: "gemma3", text_config: { ...text, final_logit_softcapping: 8 } };
  writeFileSync(join(path, "config.json"), JSON.stringify({ ...whole, dtype: "float32" }));
  return path;
}

const prefixes: Readonly<Record<string, (tensor: string) => string>> = {
  "language_model.model": (tensor) => `language_model.${tensor}`,
  "model.language_model": (tensor) => tensor.replace(/^model\./, "model.language_model."),
  "of a base class": (tensor) => tensor.replace(/^model\./, "language_model."),
  "of the text alone": (tensor) => tensor,
};

async function logitsOf(path: string, adapter?: string): Promise<Float32Array> {
  const told: string[] = [];
  await using model = await openModel(backend, path, { adapter, tell: (message) => void told.push(message) });
  expect(told).toEqual([]);
  return tokenLogits(model.loaded.decoder, ids);
}

async function storedNames(path: string): Promise<string[]> {
  const folder = await openModelFolder(path);
  const names = [...folder.tensors.keys()].map((name) => folder.storedName(name)).sort();
  await folder.close();
  return names;
}

let alone: string;
beforeAll(() => {
  alone = writeTinyModel(join(root, "alone"), "gemma3-text");
  const { final_logit_softcapping: _, ...config } = configOf(alone);
  writeFileSync(join(alone, "config.json"), JSON.stringify(config));
});

describe("a text tower", () => {
  it.each(Object.entries(prefixes))("answers as the text model by itself: names %s", async (name, rename) => {
    expect(await logitsOf(await writeWhole(`names-${name}`, rename))).toEqual(await logitsOf(alone));
  });

  it("keeps the other towers and its names when it is merged and quantised", async () => {
    const model = await writeWhole("whole", prefixes["language_model.model"]!);
    const adapter = await writeRandomAdapter(join(root, "adapter"), alone);
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
    expect(await storedNames(out)).toEqual(await storedNames(model));
    const folder = await openModelFolder(out);
    const kept = await folder.read("vision_tower.layers.0.q_proj.weight");
    expect(new Float32Array(kept.buffer)).toEqual(vision);
    await folder.close();
    expect(configOf(out)).toMatchObject({ model_type: "gemma3", text_config: { vocab_size: 264 } });
    const merged = await logitsOf(out);
    for (const [i, value] of (await logitsOf(model, adapter)).entries())
      expect(Math.abs(merged[i]! - value)).toBeLessThan(1e-3);

    const quantized = join(root, "quantized");
    await quantizeFolder(backend, {
      ...{ model, out: quantized, quantType: "nf4", blockSize: 64, doubleQuant: true },
    });
    const names = await storedNames(quantized);
    expect(names).toContain("vision_tower.layers.0.q_proj.weight");
    expect(names).toContain("language_model.model.layers.0.mlp.up_proj.weight.absmax");
    expect(configOf(quantized).quantization_config).toMatchObject({
      llm_int8_skip_modules: ["lm_head", "vision_tower"],
    });
    await logitsOf(quantized);
  });

  it("reads adapters trained through it and by itself, and writes those that PEFT opens on it", async () => {
    const { tower } = readModelConfig(configOf(await writeWhole("for-adapters", (name) => name)));
    const plain = await readAdapter(await writeRandomAdapter(join(root, "plain"), alone));
    const path = join(root, "through");
    await writeAdapter(path, plain.config, plain, { moduleName: (name) => moduleInWhole(tower, name) });
    const config = JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8")) as Config;
    // Short names would adapt the vision tower's layers too.
    expect(config.target_modules).toContain("model.language_model.layers.0.self_attn.q_proj");
    const through = await readAdapter(path);
    expect(through.modules).toEqual(plain.modules);
    expect(await logitsOf(alone, path)).toEqual(await logitsOf(alone, join(root, "plain")));
  });

  it("goes by the wrapper's tie flag, and puts what belongs to the text where it stands", () => {
    const text = { ...configOf(alone), tie_word_embeddings: false };
    const whole = { model_type: "gemma3", text_config: text };
    expect(readModelConfig(whole).tied).toBe(true);
    expect(readModelConfig({ ...whole, tie_word_embeddings: false }).tied).toBe(false);
    const untied = withTieFlag(whole, { ...readModelConfig(whole), tied: false });
    expect(readModelConfig(untied).tied).toBe(false);
    // What neither says is as the classes have it.
    expect(readModelConfig({ model_type: "gemma3" })).toMatchObject({ width: 2304, vocabularySize: 262_208 });
    expect(withTextValues(whole, { vocab_size: 300 })).toMatchObject({ text_config: { vocab_size: 300 } });
    expect(withTextValues({ model_type: "llama" }, { vocab_size: 300 })).toEqual({
      ...{ model_type: "llama", vocab_size: 300 },
    });
  });

  it("refuses two names of one tensor", async () => {
    const path = await writeWhole("twice", prefixes["model.language_model"]!);
    const one = { dtype: "F32" as const, shape: [1], data: () => new Uint8Array(4) };
    await writeSafetensors(join(path, "model.safetensors"), [
      { ...one, name: "model.language_model.norm.weight" },
      { ...one, name: "model.norm.weight" },
    ]);
    await expect(openModelFolder(path)).rejects.toThrow("which are names of one tensor");
  });
});

describe("models that are left out", () => {
  const refusal = (config: Config) => () => readModelConfig(config);

  it("are refused by name, with the reason where it is known", () => {
    expect(refusal({ model_type: "falcon_h1" })).toThrow(
      '"falcon_h1" is not supported: its layers scan a state',
    );
    expect(refusal({ model_type: "unheard_of" })).toThrow(
      '"unheard_of" is not supported; supported are llama',
    );
    expect(refusal({ model_type: "toString" })).toThrow('"toString" is not supported; supported are');
  });

  it("say what they wrap", () => {
    expect(refusal({ model_type: "llava", text_config: { model_type: "llama" } })).toThrow(
      'a wrapper for more than text around "llama"',
    );
    expect(refusal({ model_type: "gemma3", text_config: { model_type: "mamba" } })).toThrow("Mamba");
    expect(refusal({ model_type: "gemma3", text_config: [] })).toThrow("text_config should be an object");
  });

  it("of a family are refused by what they have", () => {
    const hybrid = { model_type: "granitemoehybrid", hidden_size: 8, num_attention_heads: 2, vocab_size: 8 };
    const layers = { num_hidden_layers: 1, layer_types: ["attention"] };
    expect(refusal({ ...hybrid, ...layers, num_local_experts: 8 })).toThrow("8 experts");
    expect(refusal({ ...hybrid, ...layers, num_local_experts: 0, layer_types: ["mamba"] })).toThrow("Mamba");
    expect(readModelConfig({ ...hybrid, ...layers, num_local_experts: 0 }).ropes).toEqual([]);
    expect(refusal({ ...configOf(alone), use_bidirectional_attention: true })).toThrow("encoder");
  });
});
