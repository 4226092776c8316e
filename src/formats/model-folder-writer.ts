// Writes a model folder in Hugging Face layout: config.json, and the weights as one file, or as shards with their
// index where they are large. Each file replaces its predecessor atomically; weight files of an earlier model in the
// same folder, which a reader would take for part of this one, go last. The reader is model-folder.ts; tokenizer and
// chat templates beside the weights are side-files.ts.

import { readdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "./atomic-file.ts";
import { type JsonObject, jsonText } from "./json.ts";
import { CONFIG_FILE, GENERATION_CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE } from "./model-folder.ts";
import {
  type TensorSpec,
  type TensorToWrite,
  tensorBytesOf,
  writeSafetensors,
} from "./safetensors-writer.ts";

/** transformers' own bound was 5 GB for years, and every reader copes with it. */
export const SHARD_BYTES = 5e9;

export interface ModelToWrite {
  readonly config: JsonObject;
  /** The configuration, as it was read, whose spelling of numbers is kept. */
  readonly configLike?: JsonObject;
  readonly generationConfig?: JsonObject;
  /** Shards are filled in this order; each tensor's data() is called once, when it is written. */
  readonly tensors: readonly TensorToWrite[];
}

/** Writes the folder, making it if need be; returns the names of the weight files. */
export async function writeModelFolder(
  path: string,
  model: ModelToWrite,
  options: { readonly shardBytes?: number } = {},
): Promise<string[]> {
  const shards = splitIntoShards(model.tensors, options.shardBytes ?? SHARD_BYTES);
  const names = shardNames(shards.length);
  for (const [i, shard] of shards.entries()) await writeSafetensors(join(path, names[i]!), shard);
  if (shards.length > 1) await writeFileAtomic(join(path, INDEX_FILE), jsonText(indexOf(shards, names)));
  await writeFileAtomic(join(path, CONFIG_FILE), jsonText(model.config, model.configLike));
  if (model.generationConfig) {
    await writeFileAtomic(join(path, GENERATION_CONFIG_FILE), jsonText(model.generationConfig));
  }
  await removeStaleWeights(path, names);
  return names;
}

function splitIntoShards(tensors: readonly TensorToWrite[], shardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [[]];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytesOf(tensor);
    if (size > 0 && size + bytes > shardBytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)!.push(tensor);
    size += bytes;
  }
  return shards;
}

/** The contents of the index for these shards under these names. */
export function indexOf(shards: readonly (readonly TensorSpec[])[], names: readonly string[]): JsonObject {
  const weightMap: Record<string, string> = {};
  let totalBytes = 0;
  for (const [i, shard] of shards.entries()) {
    for (const tensor of shard) {
      weightMap[tensor.name] = names[i]!;
      totalBytes += tensorBytesOf(tensor);
    }
  }
  return { metadata: { total_size: totalBytes }, weight_map: weightMap };
}

async function removeStaleWeights(path: string, current: readonly string[]): Promise<void> {
  const keep = new Set(current);
  if (current.length > 1) keep.add(INDEX_FILE);
  for (const name of await readdir(path)) {
    const isWeights =
      name === WEIGHTS_FILE || name === INDEX_FILE || /^model-\d{5}-of-\d{5}\.safetensors$/.test(name);
    if (isWeights && !keep.has(name)) await unlink(join(path, name));
  }
}

/** File names of so many shards. */
export function shardNames(count: number): string[] {
  if (count === 1) return [WEIGHTS_FILE];
  const pad = (n: number) => String(n).padStart(5, "0");
  return Array.from({ length: count }, (_, i) => `model-${pad(i + 1)}-of-${pad(count)}.safetensors`);
}
