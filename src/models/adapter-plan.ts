// What an adapter read from a folder does to a model: whether it belongs to it, which size it gives the vocabulary, what
// takes the place of which weight, and what becomes of tied tables. Attaching (adapter.ts), serving beside others
// (adapter-set.ts), merging and exporting all go by the same plan. As PEFT 0.21 loads: a module saved whole is this
// adapter's own copy, so one of two tied tables leaves the other as it was, unless the tie is to be kept; a tensor of
// the base itself is read into the base, and reaches both.

import type { AdapterPair, LoadedAdapter, TensorValues } from "../formats/peft.ts";
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { UserError } from "../util/errors.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";

const embeddingTable = `${embeddingName}.weight`;
const headTable = `${headName}.weight`;

export interface AdapterPlan {
  /** The base as the adapter wants it: with its vocabulary. */
  readonly base: DecoderConfig;
  /** Embedding and head are still one table. */
  readonly tied: boolean;
  /** Whole tensors that train, by name; two tables that stay tied are one object under two names. */
  readonly replaced: ReadonlyMap<string, TensorValues>;
  /** Whole tensors that are the base's own. */
  readonly fixed: ReadonlyMap<string, TensorValues>;
  /** Factors of linear layers by path, the head's among them. */
  readonly linears: ReadonlyMap<string, AdapterPair>;
  /** The head's factors are the embedding's, turned round. */
  readonly tiedFactors: boolean;
  /** Factors of the embedding table as of a linear layer [V, C]: A [rank, C], B [V, rank]. */
  readonly embedding?: AdapterPair & { readonly scale: number };
}

/** The vocabulary that an adapter's tables have: its own, or the base's. UserError where its tensors disagree. */
export function vocabularyOf(config: DecoderConfig, adapter: LoadedAdapter): number {
  const sizes = new Map<string, number>();
  for (const tables of [adapter.replacements, adapter.baseTensors ?? new Map<string, TensorValues>()]) {
    for (const name of [embeddingTable, headTable]) {
      const rows = tables.get(name)?.shape[0];
      if (rows !== undefined) sizes.set(name, rows);
    }
  }
  const embedding = adapter.modules.get(embeddingName)?.a.shape[1];
  if (embedding !== undefined) sizes.set(`${embeddingName}'s factors`, embedding);
  const head = adapter.modules.get(headName)?.b.shape[0];
  if (head !== undefined) sizes.set(`${headName}'s factors`, head);
  const [first, ...rest] = [...sizes];
  for (const [name, rows] of rest) {
    if (rows !== first![1]) {
      throw new UserError(
        `adapter: ${first![0]} has ${first![1]} rows and ${name} has ${rows}; the tables of one adapter have one vocabulary`,
      );
    }
  }
  return first?.[1] ?? config.vocabularySize;
}

/** Holds an adapter to a model and says what it does. UserError for names, shapes or values that do not fit. */
export function planAdapter(config: DecoderConfig, adapter: LoadedAdapter): AdapterPlan {
  const base = { ...config, vocabularySize: vocabularyOf(config, adapter) };
  const { replaced, fixed, tied } = tables(base, adapter);
  checkWhole(base, adapter, [...replaced, ...fixed]);
  const linears = new Map(adapter.modules);
  const given = linears.get(embeddingName);
  linears.delete(embeddingName);
  const keeps = given !== undefined && adapter.config.ensureWeightTying && base.tied;
  const ofHead = linears.get(headName);
  // Tied factors are one pair, and PEFT reads the head's into it last.
  const factors: AdapterPair | undefined =
    keeps && ofHead ? { a: transposed(ofHead.b), b: transposed(ofHead.a), embedding: true } : given;
  if (keeps && !ofHead) linears.set(headName, { a: transposed(given.b), b: transposed(given.a) });
  checkFactors(base, adapter, linears, factors);
  const embedding = factors && {
    a: transposed(factors.b),
    b: transposed(factors.a),
    scale: adapter.settings.get(embeddingName)!.scale,
  };
  const untied = factors !== undefined || linears.has(headName);
  return {
    base,
    tied: tied && (keeps || !untied),
    tiedFactors: keeps,
    replaced,
    fixed,
    linears,
    embedding,
  };
}

/** Scale of a linear layer's factors. */
export function scaleOf(adapter: LoadedAdapter, module: string): number {
  // A head that is tied to an adapted embedding has the embedding's.
  return (adapter.settings.get(module) ?? adapter.settings.get(embeddingName)!).scale;
}

function tables(
  { tied }: DecoderConfig,
  adapter: LoadedAdapter,
): { replaced: Map<string, TensorValues>; fixed: Map<string, TensorValues>; tied: boolean } {
  const replaced = new Map(adapter.replacements);
  const fixed = new Map(adapter.baseTensors);
  if (!tied) return { replaced, fixed, tied };
  const keeps = adapter.config.ensureWeightTying;
  if (keeps && (replaced.has(embeddingTable) || replaced.has(headTable))) {
    // PEFT reads the head last into the one copy.
    const table = [headTable, embeddingTable]
      .flatMap((name) => [replaced.get(name) ?? (name === headTable ? fixed.get(name) : undefined)])
      .find((found) => found !== undefined)!;
    for (const name of [embeddingTable, headTable]) {
      replaced.set(name, table);
      fixed.delete(name);
    }
    return { replaced, fixed, tied: true };
  }
  const shared = fixed.get(headTable) ?? fixed.get(embeddingTable);
  if (shared) {
    for (const name of [embeddingTable, headTable]) {
      if (replaced.has(name)) fixed.delete(name);
      else fixed.set(name, shared);
    }
  }
  return { replaced, fixed, tied: !replaced.has(embeddingTable) && !replaced.has(headTable) };
}

function checkWhole(
  config: DecoderConfig,
  adapter: LoadedAdapter,
  whole: readonly (readonly [string, TensorValues])[],
): void {
  const shapes = new Map(weightSpecs({ ...config, tied: false }).map((spec) => [spec.name, spec.shape]));
  const onHost = new Set(weightSpecs(config).flatMap((spec) => (spec.onHost ? [spec.name] : [])));
  for (const [name, { shape, values }] of whole) {
    if (onHost.has(name)) {
      throw new UserError(
        `adapter: it replaces "${name}" whole, a table that stays in the host's memory here and cannot be replaced; merge it with PEFT first`,
      );
    }
    const expected = shapes.get(name);
    if (!expected)
      throw new UserError(`adapter: it replaces "${name}", which this model does not have; ${asks(adapter)}`);
    if (shape.length !== expected.length || shape.some((size, i) => size !== expected[i]))
      throw new UserError(`adapter: "${name}" has shape [${shape}], but the base model's is [${expected}]`);
    refuseNonFinite(name, values);
  }
}

function checkFactors(
  config: DecoderConfig,
  adapter: LoadedAdapter,
  linears: ReadonlyMap<string, AdapterPair>,
  embedding: AdapterPair | undefined,
): void {
  const shapes = new Map(
    weightSpecs({ ...config, tied: false }).flatMap((spec) =>
      spec.kind === "embedding" || spec.kind === "vector" ? [] : [[spec.name, spec.shape]],
    ),
  );
  for (const [name, { a, b, experts, embedding: ofTable }] of linears) {
    const full = ofTable ? undefined : shapes.get(`${name}.weight`);
    const shape = full?.slice(-2);
    const count = full && full.length === 3 ? full[0] : undefined;
    if (count !== experts && shape)
      throw new UserError(
        `adapter: "${name}" is for ${experts ?? "no"} experts, but this model has ${count ?? "none"} there; ${asks(adapter)}`,
      );
    if (!shape) {
      throw new UserError(
        `adapter: it adapts "${name}", which is not a linear layer of this model; ${asks(adapter)}`,
      );
    }
    if (a.shape[1] !== shape[1] || b.shape[0] !== shape[0]) {
      throw new UserError(
        `adapter: "${name}" is for a layer [${b.shape[0]}, ${a.shape[1]}], but this model's is [${shape}]; ${asks(adapter)}`,
      );
    }
  }
  const kind = adapterKind(adapter.config.kind);
  if (embedding && !kind.adaptsEmbeddings) {
    throw new UserError(
      `adapter: it adapts "${embeddingName}" in the way of ${adapter.config.kind}, which is not supported; merge it with PEFT first`,
    );
  }
  for (const [name, { a, b, tensors }] of linears) {
    for (const { name: own, peftName, shape } of kind.tensors) {
      const [found, expected] = [tensors?.get(own), shape(b.shape[0]!, a.shape[1]!, a.shape[0]!)];
      if (!found || found.shape.join() !== expected.join())
        throw new UserError(
          `adapter: ${peftName} of "${name}" has shape [${found?.shape ?? "none"}], but this model's layer needs [${expected}]; ${asks(adapter)}`,
        );
      refuseNonFinite(`${name}.${peftName}`, found.values);
    }
  }
  if (embedding && (!embedding.embedding || embedding.b.shape[0] !== config.width)) {
    throw new UserError(
      `adapter: "${embeddingName}" is for an embedding of width ${embedding.b.shape[0]}, but this model's is ${config.width}; ${asks(adapter)}`,
    );
  }
  for (const [name, { a, b }] of adapter.modules) {
    refuseNonFinite(name, a.values);
    refuseNonFinite(name, b.values);
  }
}

function asks(adapter: LoadedAdapter): string {
  return `is this the adapter's base model (${adapter.config.baseModel ?? "not named"})?`;
}

function refuseNonFinite(name: string, values: Float32Array): void {
  if (!values.every(Number.isFinite))
    throw new UserError(`adapter: "${name}" holds NaN or infinite values; the adapter is damaged`);
}

/** [n, m] -> [m, n]. */
export function transposed({ shape, values }: TensorValues): TensorValues {
  const [rows, columns] = shape as [number, number];
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c]!;
  return { shape: [columns, rows], values: out };
}
