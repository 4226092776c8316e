// Reads the goldens of this folder and recreates the tiny models they speak of. No weights are stored:
// tools/golden/tiny_models.py and this file compute the same ones from (seed, stream, index).
// Not a test by itself; load-golden.test.ts holds both sides together. How to regenerate: tools/golden/README.md.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import { BugError } from "../../src/util/errors.ts";
import { randomBits } from "../../src/util/rng.ts";

/** A tensor in a golden: base64 of little-endian float32. */
export interface FloatArray {
  readonly shape: readonly number[];
  readonly f32: string;
}

/** Bytes in a golden. */
export interface ByteArray {
  readonly shape: readonly number[];
  readonly u8: string;
}

export interface NamedShape {
  readonly name: string;
  readonly shape: readonly number[];
}

/** mask[i] = 1: token i is a target, predicted from the tokens before it. mask[0] is always 0. */
export interface GoldenSequence {
  readonly ids: readonly number[];
  readonly mask: readonly number[];
}

/** Ten steps of AdamW. Values are float64 arithmetic; `...Float32` is torch's own float32 run beside them. */
export interface Trajectory {
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  readonly lossesFloat32: readonly number[];
  readonly gradNormsFloat32: readonly number[];
}

interface Evaluation {
  readonly logits: FloatArray; // [T, V]
  /** Largest difference between torch in float32 and these values, relative to the largest magnitude. */
  readonly float32Deviation: number;
}

interface PackedResult {
  /** Over `packed.sequences`: sum over all targets / number of all targets. */
  readonly loss: number;
  readonly lossFloat32: number;
  readonly float32Deviation: number;
  readonly training: Trajectory;
}

export interface ModelGolden {
  readonly name: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly config: Readonly<Record<string, unknown>>;
  readonly configTransformers4: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly tensors: readonly NamedShape[];
  readonly sequence: GoldenSequence & Evaluation & { readonly loss: number; readonly lossFloat32: number };
  readonly packed: {
    readonly sequences: readonly GoldenSequence[];
    readonly loss: number;
    readonly lossFloat32: number;
  };
  /** Only for llama-dynamic: longer than max_position_embeddings. */
  readonly long?: { readonly ids: readonly number[] } & Evaluation;
  readonly training: {
    readonly learningRate: number;
    readonly beta1: number;
    readonly beta2: number;
    readonly epsilon: number;
    readonly weightDecay: number;
    readonly maxGradNorm: number;
    readonly batches: readonly (readonly GoldenSequence[])[];
  };
  readonly lora: PackedResult & {
    readonly rank: number;
    readonly alpha: number;
    readonly targets: string;
    readonly adapter: readonly NamedShape[];
    /** Of the packed loss, by PEFT's saved names. */
    readonly gradients: Readonly<Record<string, FloatArray>>;
  };
  readonly full: PackedResult & { readonly gradients: Readonly<Record<string, SampledGradient>> };
  readonly greedy: readonly {
    readonly prompt: readonly number[];
    readonly ids: readonly number[];
    readonly margin: number;
  }[];
}

/** What is kept of a large gradient: entries[i] is element i * stride of the flattened tensor. */
export interface SampledGradient {
  readonly norm: number;
  readonly sum: number;
  readonly max: number;
  readonly stride: number;
  readonly entries: readonly number[];
}

export const goldenFolder = import.meta.dirname;

/** Names of the models with a golden: MODELS in tools/golden/tiny_models.py. */
export const goldenModelNames: readonly string[] = readdirSync(path.join(import.meta.dirname, "models"))
  .filter((name) => name.endsWith(".json"))
  .map((name) => name.slice(0, -".json".length))
  .sort();

/** Parses test/golden/<name>. The caller states the shape; goldens are our own files. */
export function readGolden<T>(name: string): T {
  return JSON.parse(readFileSync(path.join(goldenFolder, name), "utf8")) as T;
}

export function loadModelGolden(name: string): ModelGolden {
  return readGolden<ModelGolden>(`models/${name}.json`);
}

export function floatsOf(array: FloatArray): Float32Array {
  const bytes = Uint8Array.from(Buffer.from(array.f32, "base64"));
  const values = new Float32Array(bytes.buffer);
  if (values.length !== elementCount(array.shape))
    throw new BugError(`golden: ${values.length} values for shape [${array.shape}]`);
  return values;
}

export function bytesOf(array: ByteArray): Uint8Array {
  return Uint8Array.from(Buffer.from(array.u8, "base64"));
}

/** center + unit * bound, unit = bits / 2^31 - 1 in [-1, 1): computed in float64, rounded once to float32. */
export function formulaTensor(
  seed: number,
  stream: number,
  shape: readonly number[],
  bound: number,
  center = 0,
): Float32Array {
  const values = new Float32Array(elementCount(shape));
  const scratch = new Uint32Array(4);
  for (let i = 0; i < values.length; i++) {
    values[i] = center + (randomBits(seed, stream, i, scratch) / 2 ** 31 - 1) * bound;
  }
  return values;
}

/** The base weights of a tiny model by name: tensor n (sorted by name) is stream n. */
export function goldenWeights(golden: Pick<ModelGolden, "seed" | "tensors">): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  golden.tensors.forEach(({ name, shape }, stream) => {
    const { bound, center } = formulaOf(name, shape);
    weights.set(name, formulaTensor(golden.seed, stream, shape, bound, center));
  });
  return weights;
}

/** The stretch that a weight's elements lie in. */
function formulaOf(name: string, shape: readonly number[]): { bound: number; center: number } {
  if (shape.length === 2) return { bound: name.includes("embed_tokens") ? 0.5 : 0.25, center: 0 };
  if (shape.length === 3) return { bound: 0.5, center: 0 };
  if (name.endsWith("A_log")) return { bound: 1, center: -2 };
  return { bound: 0.1, center: name.endsWith("bias") ? 0 : 1 };
}

/** Streams of adapter tensors start here; A and B alike are unit * 0.25. */
const adapterStream = 1000;
const adapterBound = 0.25;

/** Adapter weights by PEFT's saved names; `adapter` is sorted by name. DoRA's magnitudes lie around 1. */
export function goldenAdapter(seed: number, adapter: readonly NamedShape[]): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  adapter.forEach(({ name, shape }, n) => {
    const center = name.includes("lora_magnitude_vector") ? 1 : 0;
    weights.set(name, formulaTensor(seed, adapterStream + n, shape, adapterBound, center));
  });
  return weights;
}

export interface ModelFolderOptions {
  /** Which transformers' spelling of config.json; 5 when absent. */
  readonly spelling?: 4 | 5;
  readonly dtype?: "f32" | "bf16" | "f16";
}

/** Writes config.json and model.safetensors of a tiny model into `folder` (created), and returns `folder`. */
export function writeModelFolder(
  golden: Pick<ModelGolden, "seed" | "tensors" | "config" | "configTransformers4">,
  folder: string,
  options: ModelFolderOptions = {},
): string {
  mkdirSync(folder, { recursive: true });
  const dtype = options.dtype ?? "f32";
  const dtypeName = { f32: "float32", bf16: "bfloat16", f16: "float16" }[dtype];
  const config =
    options.spelling === 4
      ? { ...golden.configTransformers4, torch_dtype: dtypeName }
      : { ...golden.config, dtype: dtypeName };
  writeFileSync(path.join(folder, "config.json"), JSON.stringify(config, null, 2));
  writeSafetensors(path.join(folder, "model.safetensors"), golden.tensors, goldenWeights(golden), dtype);
  return folder;
}

/** Writes adapter_model.safetensors of formula weights beside the given adapter_config.json content. */
export function writeAdapterFolder(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  seed: number,
  adapter: readonly NamedShape[],
): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "adapter_config.json"), JSON.stringify(config, null, 2));
  writeSafetensors(
    path.join(folder, "adapter_model.safetensors"),
    adapter,
    goldenAdapter(seed, adapter),
    "f32",
  );
  return folder;
}

/** A safetensors file by a second, deliberately separate writer, so that formats/safetensors.ts is tested by it. */
function writeSafetensors(
  file: string,
  tensors: readonly NamedShape[],
  values: ReadonlyMap<string, Float32Array>,
  dtype: "f32" | "bf16" | "f16",
): void {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const { name, shape } of tensors) {
    const bytes = encodeFrom(values.get(name)!, dtype);
    header[name] = { dtype: dtype.toUpperCase(), shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
    parts.push(bytes);
  }
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (Buffer.byteLength(text) % 8)) % 8); // data starts on a multiple of 8
  const size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(Buffer.byteLength(text)), true);
  writeFileSync(file, Buffer.concat([size, Buffer.from(text), ...parts]));
}
