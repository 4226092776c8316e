// The goldens of mixtures of experts (tools/golden/mixtures.py), and folders made of them: models in every form that files
// have experts in, and PEFT's adapters. Not a test by itself; test/models/mixtures.test.ts is.

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { TensorToWrite } from "../../src/formats/safetensors-writer.ts";
import { writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { type FloatArray, formulaTensor, type NamedShape, readGolden } from "./load-golden.ts";

interface SampledGradient {
  readonly norm: number;
  readonly sum: number;
  readonly max: number;
  readonly stride: number;
  readonly entries: readonly number[];
}

interface Greedy {
  readonly prompt: readonly number[];
  readonly ids: readonly number[];
}

export interface MixtureGolden {
  readonly config: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly ids: readonly number[];
  readonly tensors: readonly NamedShape[];
  readonly adapterConfig: Readonly<Record<string, unknown>>;
  readonly adapter: readonly NamedShape[];
  readonly logits: FloatArray;
  readonly tunedLogits: FloatArray;
  readonly greedy: readonly Greedy[];
  /** With the first adapter, and with the second. */
  readonly greedyTuned: readonly (readonly Greedy[])[];
  /** Of the mean loss over all tokens but the first, by PEFT's saved names. */
  readonly gradients: Readonly<Record<string, FloatArray>>;
  /** Of full fine-tuning, by the names of parameters in transformers' memory. */
  readonly fullGradients?: Readonly<Record<string, SampledGradient>>;
  readonly training: { readonly learningRate: number; readonly losses: readonly number[] };
}

export const mixtureGoldens = readGolden<{ readonly cases: Readonly<Record<string, MixtureGolden>> }>(
  "mixtures.json",
).cases;

/** Of dense models, in the same form (tools/golden/pairs.py). */
export const pairGoldens = readGolden<{ readonly cases: Readonly<Record<string, MixtureGolden>> }>(
  "pairs.json",
).cases;

function tensorOf(
  { name, shape }: NamedShape,
  seed: number,
  stream: number,
  isAdapter: boolean,
): TensorToWrite {
  const bytes = (from: number, times: number) => () =>
    Uint8Array.from(formulaTensor(seed, stream, shape, 1), (unit) =>
      Math.min(255, from + Math.floor(times * (unit + 1))),
    );
  if (name.endsWith("_blocks")) return { name, dtype: "U8", shape, data: bytes(0, 128) };
  if (name.endsWith("_scales")) return { name, dtype: "U8", shape, data: bytes(122, 2) };
  const matrix = isAdapter || (shape.length > 1 && !name.endsWith("bias"));
  const around = !matrix && !/(?:bias|sinks)$/.test(name);
  const wide = name.includes("embed_tokens") || (around && name.includes(".router."));
  const bound = wide ? 0.5 : around ? 0.1 : 0.25;
  const values = formulaTensor(seed, stream, shape, bound, around ? 1 : 0);
  return { name, dtype: "F32", shape, data: () => encodeFrom(values, "f32") };
}

/** Writes the model's folder, and returns it. */
export async function writeMixture(golden: MixtureGolden, folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "config.json"), JSON.stringify(golden.config));
  const tensors = golden.tensors.map((tensor, n) => tensorOf(tensor, golden.seed, n, false));
  await writeSafetensors(path.join(folder, "model.safetensors"), tensors);
  return folder;
}

/** Writes the folder of the first or second adapter, and returns it. */
export async function writeMixtureAdapter(golden: MixtureGolden, folder: string, which = 0): Promise<string> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "adapter_config.json"), JSON.stringify(golden.adapterConfig));
  const first = 1000 * (which + 1);
  const tensors = golden.adapter.map((tensor, n) => tensorOf(tensor, golden.seed, first + n, true));
  await writeSafetensors(path.join(folder, "adapter_model.safetensors"), tensors);
  return folder;
}
