// An adapter on a decoder: from the user's words or a PEFT folder to flat trainable parameters attached to the
// layers, and back to the tensors a PEFT folder holds. Matching and files are formats/peft.ts's, what a loaded adapter
// does to which weight is adapter-plan.ts's.

import type { Parameter } from "../autograd/tape.ts";
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
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { attachAdapters, attachKind } from "../nn/lora.ts";
import { type Adaptable, isExperts, type Linear } from "../nn/module.ts";
import { FlatParameters, type ParameterGroup, type ParameterSpec } from "../nn/parameters.ts";
import { type AdapterInit, initializePissa } from "../nn/pissa.ts";
import { BugError, UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import { adaptableLayers, allLinear } from "./adaptable-layers.ts";
import { planAdapter, scaleOf, transposed } from "./adapter-plan.ts";
import type { Decoder } from "./decoder.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";
import { ownB, peftB } from "./expert-factors.ts";
import { configOfJoined, joinedFactors } from "./joined-factors.ts";
import type { LoadedDecoder } from "./load-model.ts";
import { refuseIdlePatterns, refusePissa, wholeNames } from "./new-adapter.ts";
import { lastParts } from "./target-names.ts";

const embeddingTable = `${embeddingName}.weight`;
const headTable = `${headName}.weight`;

export interface DecoderAdapter {
  /** Of the adapter as read() gives it. */
  readonly config: AdapterConfig;
  /** Gives a fresh adapter the first values that need the weights; to await before its first use. */
  initialize(): Promise<void>;
  readonly flat: FlatParameters;
  /** What adapter_model.safetensors holds, read from the device. */
  read(): Promise<AdapterWeights>;
  /** Runs on the decoder as it is without the adapter. */
  without<T>(run: () => Promise<T>): Promise<T>;
  /** Takes the adapter off the decoder and frees it. */
  free(): void;
}

/** Attaches a fresh adapter to every layer that the configuration names. */
export function attachNewAdapter(
  loaded: LoadedDecoder,
  config: AdapterConfig,
  seed: number,
  options: Pick<AttachedParts, "groupOf" | "init"> = {},
): DecoderAdapter {
  const { decoder } = loaded;
  const all = typeof config.targets === "string" && config.targets.toLowerCase() === "all-linear";
  const layers = (all ? allLinear : adaptableLayers)(decoder.config).map((layer) => layer.name);
  const names = all ? layers : [...layers, headName, embeddingName];
  const settings = matchTargets(config, names);
  const unmatched = unmatchedTargets(config, names);
  if (unmatched.length > 0) {
    const known = lastParts(names);
    throw new UserError(
      `adapter: of the targets, ${unmatched.join(", ")} match no linear layer of this model; its layers are named ${known.join(", ")}`,
    );
  }
  refuseIdlePatterns(config, [...settings.keys()]);
  if (options.init === "pissa") refusePissa(config, settings);
  if (settings.has(embeddingName) && !adapterKind(config.kind).adaptsEmbeddings) {
    throw new UserError(
      `adapter: ${embeddingName} is a target, and an embedding is not adapted in the way of ${config.kind}; leave it out, or train it whole`,
    );
  }
  const attached = new Attached(decoder, config, settings, {
    seed,
    trains: true,
    whole: wholeNames(decoder.config, config),
    ...options,
  });
  try {
    attached.attachKind(true);
  } catch (error) {
    attached.free();
    throw error;
  }
  return attached;
}

/**
 * Attaches an adapter read from a PEFT folder, to train on or (trains: false) to use. The decoder has the adapter's
 * vocabulary already (vocabularyOf, resizedSource).
 */
export function attachLoadedAdapter(
  loaded: LoadedDecoder,
  adapter: LoadedAdapter,
  options: { trains: boolean; dropout?: number } & Pick<AttachedParts, "groupOf">,
): DecoderAdapter {
  const { decoder } = loaded;
  const plan = planAdapter(decoder.config, adapter);
  if (plan.base.vocabularySize !== decoder.config.vocabularySize)
    throw new UserError(
      `adapter: its vocabulary is ${plan.base.vocabularySize}, and the model was opened with ${decoder.config.vocabularySize}; open the model with the adapter`,
    );
  if (plan.tiedFactors && options.trains) {
    throw new UserError(
      "adapter: the factors of its embedding serve the tied head too (ensure_weight_tying), which is not trained here; it can be used, merged and exported",
    );
  }
  const config = { ...adapter.config, dropout: options.dropout ?? adapter.config.dropout };
  const settings = new Map(adapter.settings);
  for (const [name, { a }] of plan.linears) {
    if (settings.has(name)) continue; // experts always have theirs
    const scale = scaleOf(adapter, name);
    settings.set(name, { rank: a.shape[0]!, alpha: scale * a.shape[0]!, scale });
  }
  const attached = new Attached(decoder, config, settings, {
    seed: 0,
    trains: options.trains,
    groupOf: options.groupOf,
    replaced: plan.replaced,
    fixed: plan.fixed,
  });
  try {
    for (const [name, pair] of plan.linears) {
      attached.set(`${name}.lora_a`, pair.a);
      attached.set(`${name}.lora_b`, ownB(name, pair, decoder.config));
      for (const [own, tensor] of pair.tensors ?? []) attached.set(`${name}.${own}`, tensor);
    }
    if (plan.embedding) {
      attached.set(`${embeddingName}.lora_a`, plan.embedding.b);
      attached.set(`${embeddingName}.lora_b`, transposed(plan.embedding.a));
    }
    attached.attachKind(false);
  } catch (error) {
    attached.free();
    throw error;
  }
  return attached;
}

export interface AttachedParts {
  readonly init?: AdapterInit;
  /** Parameters that are updated otherwise than the rest. */
  readonly groupOf?: (spec: ParameterSpec) => ParameterGroup;
  readonly seed: number;
  readonly trains: boolean;
  readonly replaced?: ReadonlyMap<string, TensorValues>;
  readonly fixed?: ReadonlyMap<string, TensorValues>;
  /** Names of the base's tensors that train whole, from the base's own values. */
  readonly whole?: readonly string[];
}

class Attached implements DecoderAdapter {
  readonly flat: FlatParameters;
  private readonly fixedFlat: FlatParameters | undefined;
  private readonly layers: readonly Adaptable[];
  private readonly undo: (() => void)[] = [];
  /** What was done to the decoder beside attaching to layers, in order; each returns what undoes it. */
  private readonly effects: (() => () => void)[] = [];
  /** Whole tensors by the base's names for them; two tables of a tie are one parameter. */
  private readonly replaced = new Map<string, Parameter>();
  private readonly fixed: ReadonlyMap<string, TensorValues>;
  private initialized: Promise<void> | undefined;

  constructor(
    private readonly decoder: Decoder,
    private readonly trained: AdapterConfig,
    settings: ReadonlyMap<string, ModuleSettings>,
    private readonly parts: AttachedParts,
  ) {
    const { backend } = decoder;
    const config = trained;
    this.layers = [...decoder.layers, decoder.head];
    this.fixed = parts.fixed ?? new Map();
    const ofTable = settings.get(embeddingName);
    this.flat = attachAdapters(backend, this.layers, {
      choices: settings,
      dropout: config.dropout,
      seed: parts.seed,
      kind: config.kind,
      extra: [
        ...(ofTable ? tableSpecs(decoder, ofTable.rank) : []),
        ...this.wholeSpecs(parts.whole ?? []),
        ...specsOf(parts.replaced),
      ],
      trains: parts.trains,
      groupOf: parts.groupOf,
      init: parts.init,
    });
    if (ofTable) this.adaptEmbedding(ofTable.scale, parts.seed);
    this.copyWhole(parts.whole ?? []);
    this.put(this.flat, parts.replaced, this.replaced);
    if (this.fixed.size > 0) {
      this.fixedFlat = new FlatParameters(backend, specsOf(this.fixed), "adapters", false);
      this.put(this.fixedFlat, this.fixed, new Map());
    }
  }

  /** Puts whole tensors in the places of the decoder's. */
  private put(
    flat: FlatParameters,
    tensors: ReadonlyMap<string, TensorValues> | undefined,
    into: Map<string, Parameter>,
  ): void {
    const made = new Map<TensorValues, Parameter>();
    for (const [name, tensor] of tensors ?? []) {
      const parameter = made.get(tensor) ?? flat.get(name);
      if (!parameter) throw new BugError(`whole tensor ${name} is missing from the flat buffer`);
      if (!made.has(tensor)) flat.set(parameter, tensor.values);
      made.set(tensor, parameter);
      into.set(name, parameter);
      this.replace(name, parameter);
    }
  }

  private replace(name: string, parameter: Parameter): void {
    this.effects.push(() => this.decoder.replace(name, parameter));
    this.undo.push(this.decoder.replace(name, parameter));
  }

  /** Which of its own names a whole tensor trains under: tables that stay tied are one. */
  private ownerOf(name: string): string {
    const { trained: config, decoder } = this;
    const keepsTie = config.ensureWeightTying && decoder.config.tied;
    return keepsTie && name === headTable ? embeddingTable : name;
  }

  private wholeSpecs(names: readonly string[]): ParameterSpec[] {
    const owners = new Set(names.map((name) => this.ownerOf(name)));
    const all = weightSpecs({ ...this.decoder.config, tied: false });
    return all.filter(({ name }) => owners.has(name)).map(({ name, shape }) => ({ name, shape }));
  }

  /** Puts trained copies in the places of the base's own tensors. */
  private copyWhole(names: readonly string[]): void {
    const { decoder, flat } = this;
    const { backend } = decoder;
    // Both are read before either is replaced.
    const from = new Map(names.map((name) => [name, decoder.weight(name)] as const));
    for (const name of names) {
      const [owner, weight] = [this.ownerOf(name), from.get(name)!];
      const parameter = flat.get(owner);
      if (!parameter) throw new BugError(`${owner} is missing from the flat buffer`);
      if ("kind" in weight) {
        throw new UserError(
          `adapter: ${name} is to train whole and is quantised to 4 bits; leave it out of the modules to save, or use --method lora`,
        );
      }
      if (owner === name) {
        // The flat buffer begins as zeros.
        if (weight.dtype === parameter.tensor.dtype) backend.addInPlace({ x: weight, y: parameter.tensor });
        else backend.cast({ x: weight, y: parameter.tensor });
      }
      this.replaced.set(name, parameter);
      this.replace(name, parameter);
    }
  }

  /** As PEFT begins an embedding's factors: zeros beside a normal distribution. */
  private adaptEmbedding(scale: number, seed: number): void {
    const { decoder, flat } = this;
    const [a, b] = [flat.get(`${embeddingName}.lora_a`), flat.get(`${embeddingName}.lora_b`)];
    if (!a || !b) throw new BugError("the embedding's factors are missing from the flat buffer");
    if (!decoder.backend.holdsNothing) {
      const random = new Random(seed, 0x10e0);
      const [width, rank] = b.tensor.shape as [number, number];
      flat.set(
        b,
        Float32Array.from({ length: width * rank }, () => random.nextNormal()),
      );
    }
    const put = () => {
      decoder.embeddingAdapter = { a, b, scale };
      return () => void (decoder.embeddingAdapter = undefined);
    };
    this.effects.push(put);
    this.undo.push(put());
  }

  /** Sets a parameter's values, whose shape the plan has held to the model. */
  set(name: string, { values }: TensorValues): void {
    const parameter = this.flat.get(name);
    if (!parameter) throw new BugError(`${name} is missing from the flat buffer`);
    this.flat.set(parameter, values);
  }

  get config(): AdapterConfig {
    return this.parts.init === "pissa" ? configOfJoined(this.trained) : this.trained;
  }

  initialize(): Promise<void> {
    const { decoder, layers, flat, parts } = this;
    this.initialized ??=
      parts.init === "pissa"
        ? initializePissa(
            decoder.backend,
            layers.filter((layer): layer is Linear => !isExperts(layer)),
            flat,
            parts.seed,
          )
        : Promise.resolve();
    return this.initialized;
  }

  /** The kind's part, once weights and factors have their values. */
  attachKind(fresh: boolean): void {
    const { decoder, layers, trained: config } = this;
    attachKind(decoder.backend, layers, config.kind, fresh);
    if (decoder.head.adapter?.attachment && config.dropout > 0) {
      throw new UserError(
        `adapter: dropout on ${headName} does not go with ${config.kind} here; use --dropout 0, or leave ${headName} out of the targets`,
      );
    }
  }

  async read(): Promise<AdapterWeights> {
    const { flat, decoder } = this;
    const valuesOf = async (parameter: Parameter): Promise<TensorValues> => ({
      shape: parameter.tensor.shape,
      values: await flat.read(parameter),
    });
    const modules = new Map<string, AdapterPair>();
    for (const layer of this.layers) {
      const { name, adapter } = layer;
      if (!adapter) continue;
      const tensors = new Map<string, TensorValues>();
      for (const [own, parameter] of adapter.tensors) tensors.set(own, await valuesOf(parameter));
      const [a, b] = [await valuesOf(adapter.a), await valuesOf(adapter.b)];
      const { anchor, scale } = adapter;
      if (isExperts(layer)) {
        modules.set(name, { a, b: peftB(name, b, decoder.config), experts: layer.experts, tensors });
        continue;
      }
      if (!anchor) modules.set(name, { a, b, tensors });
      else modules.set(name, joinedFactors(a, b, await valuesOf(anchor.a), await valuesOf(anchor.b), scale));
    }
    if (decoder.embeddingAdapter) {
      const { a, b } = decoder.embeddingAdapter;
      modules.set(embeddingName, {
        a: transposed(await valuesOf(a)),
        b: await valuesOf(b),
        embedding: true,
      });
    }
    const replacements = new Map<string, TensorValues>();
    for (const [name, parameter] of this.replaced) replacements.set(name, await valuesOf(parameter));
    return { modules, replacements, baseTensors: this.fixed };
  }

  async without<T>(run: () => Promise<T>): Promise<T> {
    const attached = this.layers.map((layer) => layer.adapter);
    for (const layer of this.layers) layer.adapter = undefined;
    for (const undo of this.undo.splice(0).reverse()) undo();
    try {
      return await run();
    } finally {
      for (const [i, layer] of this.layers.entries()) layer.adapter = attached[i];
      this.undo.push(...this.effects.map((effect) => effect()));
    }
  }

  free(): void {
    for (const layer of this.layers) {
      layer.adapter?.attachment?.free();
      layer.adapter = undefined;
    }
    for (const undo of this.undo.reverse()) undo();
    this.flat.free();
    this.fixedFlat?.free();
  }
}

function tableSpecs({ config }: Decoder, rank: number): ParameterSpec[] {
  return [
    { name: `${embeddingName}.lora_a`, shape: [config.vocabularySize, rank] },
    { name: `${embeddingName}.lora_b`, shape: [config.width, rank] },
  ];
}

/** One parameter for each tensor, under the first of its names. */
function specsOf(tensors: ReadonlyMap<string, TensorValues> = new Map()): ParameterSpec[] {
  const seen = new Set<TensorValues>();
  return [...tensors].flatMap(([name, tensor]) => {
    if (seen.has(tensor)) return [];
    seen.add(tensor);
    return [{ name, shape: tensor.shape }];
  });
}
