// Tiny models of every architecture whose vocabulary is bytes, and adapters of random numbers for them, on disk: what
// merging, exporting and serving are tested on.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import {
  type AdapterConfig,
  type AdapterPair,
  matchTargets,
  newAdapterConfig,
  writeAdapter,
} from "../../src/formats/peft.ts";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { Random } from "../../src/util/rng.ts";
import { loadModelGolden, type ModelFolderOptions, writeModelFolder } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

/** A folder that is gone when the file's tests are over. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-publish-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes the golden model `name` with a vocabulary of bytes and <s>, </s>, <|im_end|>. */
export function writeTinyModel(folder: string, name = "llama-mha", options: ModelFolderOptions = {}): string {
  const golden = loadModelGolden(name);
  const vocabulary = 264; // 259 tokens; embeddings are often longer than the vocabulary
  const { config, configTransformers4, seed } = golden;
  const tensors = golden.tensors.map((tensor) => ({
    name: tensor.name,
    shape: /embed_tokens|lm_head/.test(tensor.name) ? [vocabulary, ...tensor.shape.slice(1)] : tensor.shape,
  }));
  const ofLayers = "vocab_size_per_layer_input" in config ? { vocab_size_per_layer_input: vocabulary } : {};
  const named = { bos_token_id: 0, eos_token_id: 1, vocab_size: vocabulary, ...ofLayers };
  writeModelFolder(
    {
      seed,
      tensors,
      config: { ...config, ...named },
      configTransformers4: { ...configTransformers4, ...named },
    },
    folder,
    options,
  );
  const files = byteTokenizerFiles();
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(files.tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
  return folder;
}

/** Writes an adapter of random numbers for the model in `model`. */
export async function writeRandomAdapter(
  folder: string,
  model: string,
  given: Partial<AdapterConfig> = {},
  size = 0.1,
  seed = 1,
): Promise<string> {
  const config = newAdapterConfig({ rank: 4, alpha: 8, targets: "all-linear", ...given });
  const specs = weightSpecs(readModelConfig(JSON.parse(readFileSync(join(model, "config.json"), "utf8"))));
  const linears = specs.filter((spec) => spec.kind === "linear");
  const settings = matchTargets(
    config,
    linears.map((spec) => spec.name.replace(/\.weight$/, "")),
  );
  const random = new Random(seed);
  const normal = (shape: readonly [number, number]) => ({
    shape,
    values: Float32Array.from({ length: shape[0] * shape[1] }, () => size * random.nextNormal()),
  });
  const modules = new Map<string, AdapterPair>();
  for (const [name, { rank }] of settings) {
    const [outputs, inputs] = linears.find((spec) => spec.name === `${name}.weight`)!.shape as [
      number,
      number,
    ];
    modules.set(name, { a: normal([rank, inputs]), b: normal([outputs, rank]) });
  }
  const parameters = config.targetParameters ?? [];
  for (const spec of specs) {
    const name = spec.name.replace(/\.weight$/, "");
    if (spec.kind !== "experts" || !parameters.some((parameter) => name.endsWith(parameter))) continue;
    const [experts, outputs, inputs] = spec.shape as [number, number, number];
    const columns = config.rank * experts;
    modules.set(name, { a: normal([columns, inputs]), b: normal([outputs, columns]), experts });
  }
  await writeAdapter(folder, config, { modules });
  return folder;
}
