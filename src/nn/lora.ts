// Attaches LoRA adapters (Hu et al. 2021) to linear layers: A starts uniform in +-1/sqrt(in), B at zero, so that
// training starts from the base model exactly. Which layers and ranks: formats/peft.ts matches targets.

import type { Parameter } from "../autograd/tape.ts";
import type { Backend } from "../backend/backend.ts";
import { BugError, UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import { type AdapterKind, type AdapterKindName, adapterKind } from "./adapter-kinds/index.ts";
import { type Adaptable, isExperts } from "./module.ts";
import { FlatParameters, oneGroup, type ParameterGroup, type ParameterSpec } from "./parameters.ts";
import { type AdapterInit, anchorGroup, anchorOf, anchorSpecs, isAnchor } from "./pissa.ts";

export interface AdapterChoice {
  readonly rank: number;
  /** s in y += s B A x: alpha / rank, or alpha / sqrt(rank) when rank-stabilised. */
  readonly scale: number;
}

export interface AttachOptions {
  /** By layer name; layers not named stay bare. */
  readonly choices: ReadonlyMap<string, AdapterChoice>;
  readonly dropout: number;
  readonly seed: number;
  /** LoRA when absent. */
  readonly kind?: AdapterKindName;
  /** How the factors begin; initialize() gives the values that need the weights. */
  readonly init?: AdapterInit;
  /** Further parameters that train in full, e.g. the embedding: appended to the flat buffer. */
  readonly extra?: readonly ParameterSpec[];
  /** False: inference; no gradients. */
  readonly trains?: boolean;
  /** Parameters that are updated otherwise than the rest. */
  readonly groupOf?: (spec: ParameterSpec) => ParameterGroup;
}

/** Creates the flat trainable buffer, attaches an adapter to each chosen layer and initialises it. */
export function attachAdapters(
  backend: Backend,
  layers: readonly Adaptable[],
  options: AttachOptions,
): FlatParameters {
  const kind = adapterKind(options.kind ?? "lora");
  const anchored = options.init === "pissa";
  const groupOf = anchored
    ? (spec: ParameterSpec) => (isAnchor(spec.name) ? anchorGroup : (options.groupOf?.(spec) ?? oneGroup))
    : options.groupOf;
  const chosen = layers.filter((layer) => options.choices.has(layer.name));
  // A projection of a few numbers a token takes whatever rank the others have, as in PEFT; what begins as the weight's own
  // singular vectors cannot.
  const roomiest = chosen.reduce((most, { inputs, outputs }) => Math.max(most, Math.min(inputs, outputs)), 0);
  refuseOnExperts(chosen.find(isExperts)?.name, options, kind);
  for (const layer of chosen) {
    const { rank } = options.choices.get(layer.name)!;
    const largest = Math.min(layer.inputs, layer.outputs);
    if (rank > (anchored ? largest : roomiest)) {
      throw new UserError(
        `rank ${rank} is larger than ${layer.name} [${layer.outputs}, ${layer.inputs}] allows; use a rank of at most ${largest}, or leave that layer out of the targets`,
      );
    }
  }
  const specs = chosen.flatMap((layer) => {
    const { rank } = options.choices.get(layer.name)!;
    return [
      ...factorSpecs(layer, rank),
      ...kind.tensors.map(({ name, shape }) => ({
        name: `${layer.name}.${name}`,
        shape: shape(layer.outputs, layer.inputs, rank),
      })),
      ...(anchored ? anchorSpecs(layer.name, layer.outputs, layer.inputs, rank) : []),
    ];
  });
  const flat = new FlatParameters(
    backend,
    [...specs, ...(options.extra ?? [])],
    "adapters",
    options.trains ?? true,
    groupOf,
  );
  const random = new Random(options.seed, 0x10a0);
  for (const [index, layer] of chosen.entries()) {
    const [a, b] = [flat.get(`${layer.name}.lora_a`), flat.get(`${layer.name}.lora_b`)];
    if (!a || !b) throw new BugError(`adapter of ${layer.name} is missing from the flat buffer`);
    const bound = 1 / Math.sqrt(layer.inputs);
    if (!backend.holdsNothing) {
      const values = new Float32Array(a.tensor.shape[0]! * layer.inputs);
      for (let i = 0; i < values.length; i++) values[i] = (2 * random.nextFloat() - 1) * bound;
      flat.set(a, values);
    }
    const { scale } = options.choices.get(layer.name)!;
    const tensors = kindTensors(kind, layer.name, flat);
    const anchor = anchored ? anchorOf(layer.name, flat) : undefined;
    layer.adapter = { a, b, scale, dropout: options.dropout, index, tensors, anchor };
  }
  return flat;
}

/** Experts have factors of their own each, side by side. */
function factorSpecs(layer: Adaptable, rank: number): ParameterSpec[] {
  const { name, inputs, outputs } = layer;
  const experts = isExperts(layer) ? layer.experts : undefined;
  return [
    { name: `${name}.lora_a`, shape: [(experts ?? 1) * rank, inputs] },
    { name: `${name}.lora_b`, shape: experts === undefined ? [outputs, rank] : [experts, outputs, rank] },
  ];
}

/** As PEFT, which adapts parameters that are no linear layer in one way alone. */
function refuseOnExperts(experts: string | undefined, options: AttachOptions, kind: AdapterKind): void {
  if (experts === undefined) return;
  const leave = "leave the experts out of the targets";
  if (options.dropout > 0)
    throw new UserError(
      `adapter: dropout does not go with adapters of experts (${experts}), in PEFT neither; use --dropout 0, or ${leave}`,
    );
  if (kind.attach || kind.tensors.length > 0)
    throw new UserError(
      `adapter: experts (${experts}) are adapted by plain LoRA alone; use --adapter lora, or ${leave}`,
    );
  if (options.init === "pissa")
    throw new UserError(
      `adapter: --init pissa is not made for experts (${experts}); use --init default, or ${leave}`,
    );
}

/** The kind's own tensors of a layer, from the flat buffer. */
export function kindTensors(
  kind: AdapterKind,
  layer: string,
  flat: FlatParameters,
): ReadonlyMap<string, Parameter> {
  return new Map(
    kind.tensors.map(({ name }) => {
      const parameter = flat.get(`${layer}.${name}`);
      if (!parameter) throw new BugError(`${name} of ${layer} is missing from the flat buffer`);
      return [name, parameter] as const;
    }),
  );
}

/**
 * Lets the kind do its part on layers that have an adapter. Their weights, and the factors' values, are in place; `fresh`:
 * the kind's own tensors are given their first values.
 */
export function attachKind(
  backend: Backend,
  layers: readonly Adaptable[],
  name: AdapterKindName,
  fresh: boolean,
): void {
  const kind = adapterKind(name);
  for (const layer of layers) {
    const { adapter } = layer;
    if (!adapter || !kind.attach || isExperts(layer)) continue;
    const attachment = kind.attach(backend, { ...layer, ...adapter }, fresh);
    layer.adapter = { ...adapter, attachment };
  }
}
