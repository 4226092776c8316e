// An adapter on a decoder: from the user's words or a PEFT folder to flat trainable parameters attached to the
// layers, and back to the tensors a PEFT folder holds. Matching and files are formats/peft.ts's.

import type { Backend } from "../backend/backend.ts";
import {
  type AdapterConfig,
  type AdapterPair,
  type AdapterWeights,
  type LoadedAdapter,
  type ModuleSettings,
  matchTargets,
  type TensorValues,
  unmatchedTargets,
} from "../formats/peft.ts";
import { attachAdapters } from "../nn/lora.ts";
import type { FlatParameters, ParameterSpec } from "../nn/parameters.ts";
import { UserError } from "../util/errors.ts";
import type { Decoder } from "./decoder.ts";
import { embeddingName, headName } from "./decoder-weights.ts";
import type { LoadedDecoder } from "./load-model.ts";

export interface DecoderAdapter {
  readonly config: AdapterConfig;
  readonly flat: FlatParameters;
  /** What adapter_model.safetensors holds, read from the device. */
  read(): Promise<AdapterWeights>;
  /** Takes the adapter off the decoder and frees it. */
  free(): void;
}

const shortNames: Readonly<Record<string, string>> = {
  q: "q_proj",
  k: "k_proj",
  v: "v_proj",
  o: "o_proj",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
};

/** --targets in PEFT's terms: all-linear, attention, a comma list of names (short or full), or /regex/. */
export function parseTargets(text: string): string | string[] {
  if (text === "all-linear") return text;
  if (text === "attention") return ["q_proj", "k_proj", "v_proj", "o_proj"];
  if (text.length > 2 && text.startsWith("/") && text.endsWith("/")) return text.slice(1, -1);
  return text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "")
    .map((name) => shortNames[name] ?? name);
}

/** Attaches a fresh adapter to every layer that the configuration names. */
export function attachNewAdapter(loaded: LoadedDecoder, config: AdapterConfig, seed: number): DecoderAdapter {
  if (config.modulesToSave.length > 0) {
    throw new UserError(
      "a new adapter cannot train whole modules; continue from an adapter that has them with --init-adapter",
    );
  }
  const { decoder } = loaded;
  const names = decoder.linears.map((layer) => layer.name);
  const settings = matchTargets(config, names);
  const unmatched = unmatchedTargets(config, names);
  if (unmatched.length > 0) {
    const known = [...new Set(names.map((name) => name.slice(name.lastIndexOf(".") + 1)))];
    throw new UserError(
      `adapter: of the targets, ${unmatched.join(", ")} match no linear layer of this model; its layers are named ${known.join(", ")}`,
    );
  }
  return attach(decoder, config, settings, { seed, trains: true, replaced: [] });
}

/** Attaches an adapter read from a PEFT folder, to train on or (trains: false) to use. */
export function attachLoadedAdapter(
  loaded: LoadedDecoder,
  adapter: LoadedAdapter,
  options: { trains: boolean; dropout?: number },
): DecoderAdapter {
  const { decoder } = loaded;
  const names = new Set(decoder.linears.map((layer) => layer.name));
  for (const name of adapter.modules.keys()) {
    if (!names.has(name)) {
      throw new UserError(
        `adapter: it adapts "${name}", which is not a linear layer of this model's blocks; is this the adapter's base model (${adapter.config.baseModel ?? "not named"})?`,
      );
    }
  }
  const replaced: ParameterSpec[] = [];
  for (const [name, { shape }] of adapter.replacements) {
    if (name !== `${embeddingName}.weight` && name !== `${headName}.weight`) {
      throw new UserError(
        `adapter: it replaces "${name}"; only ${embeddingName} and ${headName} can be replaced`,
      );
    }
    const expected = [decoder.config.vocabularySize, decoder.config.width];
    if (shape[0] !== expected[0] || shape[1] !== expected[1]) {
      throw new UserError(`adapter: "${name}" has shape [${shape}], but the base model's is [${expected}]`);
    }
    replaced.push({ name, shape });
  }
  const config = { ...adapter.config, dropout: options.dropout ?? adapter.config.dropout };
  const attached = attach(decoder, config, adapter.settings, { seed: 0, trains: options.trains, replaced });
  try {
    for (const [name, pair] of adapter.modules) {
      setChecked(attached.flat, `${name}.lora_a`, pair.a);
      setChecked(attached.flat, `${name}.lora_b`, pair.b);
    }
    for (const [name, values] of adapter.replacements) setChecked(attached.flat, name, values);
  } catch (error) {
    attached.free();
    throw error;
  }
  return attached;
}

function setChecked(flat: FlatParameters, name: string, { shape, values }: TensorValues): void {
  const parameter = flat.get(name);
  const expected = parameter?.tensor.shape;
  if (
    !parameter ||
    !expected ||
    expected.length !== shape.length ||
    expected.some((size, i) => size !== shape[i])
  ) {
    throw new UserError(
      `adapter: "${name}" has shape [${shape}], but this model needs [${expected}]; is this its base model?`,
    );
  }
  if (!values.every(Number.isFinite))
    throw new UserError(`adapter: "${name}" holds NaN or infinite values; the adapter is damaged`);
  flat.set(parameter, values);
}

function attach(
  decoder: Decoder,
  config: AdapterConfig,
  settings: ReadonlyMap<string, ModuleSettings>,
  options: { seed: number; trains: boolean; replaced: readonly ParameterSpec[] },
): DecoderAdapter {
  const backend: Backend = decoder.backend;
  const flat = attachAdapters(backend, decoder.linears, {
    choices: settings,
    dropout: config.dropout,
    seed: options.seed,
    extra: options.replaced,
    trains: options.trains,
  });
  const before = { embedding: decoder.embeddingTable, head: decoder.head };
  const embedding = flat.get(`${embeddingName}.weight`);
  const head = flat.get(`${headName}.weight`);
  if (embedding) decoder.embeddingTable = embedding;
  if (head) decoder.head = { parameter: head };
  return {
    config,
    flat,
    async read() {
      const modules = new Map<string, AdapterPair>();
      for (const layer of decoder.linears) {
        if (!layer.adapter) continue;
        const { a, b } = layer.adapter;
        modules.set(layer.name, {
          a: { shape: a.tensor.shape, values: await flat.read(a) },
          b: { shape: b.tensor.shape, values: await flat.read(b) },
        });
      }
      const replacements = new Map<string, TensorValues>();
      for (const { name } of options.replaced) {
        const parameter = flat.get(name)!;
        replacements.set(name, { shape: parameter.tensor.shape, values: await flat.read(parameter) });
      }
      return { modules, replacements };
    },
    free() {
      for (const layer of decoder.linears) layer.adapter = undefined;
      decoder.embeddingTable = before.embedding;
      decoder.head = before.head;
      flat.free();
    },
  };
}
