// An adapter on the device that is attached to no layer: generation applies it to the rows of the requests that ask for
// it, so that several adapters share one base and one batch. Attaching one to all rows is adapter.ts's affair.

import type { Parameter } from "../autograd/tape.ts";
import type { DeviceBuffer } from "../backend/backend.ts";
import type { LoadedAdapter, TensorValues } from "../formats/peft.ts";
import { type AdapterKindName, type Attachment, adapterKind } from "../nn/adapter-kinds/index.ts";
import type { AdapterRows, Factors } from "../nn/module.ts";
import { dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";
import { planAdapter, scaleOf, transposed } from "./adapter-plan.ts";
import type { Decoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";
import { ownB } from "./expert-factors.ts";

export interface AdapterSet extends Pick<AdapterRows, "layers" | "replaced" | "embedding"> {
  /** Token ids that a request with this adapter may hold, and be answered with. */
  readonly vocabularySize: number;
  free(): void;
}

/** A decoder as adapters see it: plain data. */
export interface AdapterBase {
  readonly config: DecoderConfig;
  /** Tokens of the base, where the decoder was given more rows for the sake of its adapters. */
  readonly vocabularySize: number;
}

/** What goes to the device for an adapter, held to the model: plain data, made on any thread. */
export interface AdapterParts {
  readonly kind: AdapterKindName;
  /** By part; of tables whose shape has more rows than there are values, the rest is zeros. */
  readonly tensors: ReadonlyMap<string, TensorValues>;
  /** Of each adapted layer, whose parts are named .lora_a and .lora_b. */
  readonly scales: ReadonlyMap<string, number>;
  /** Of the embedding table's factors, where it has some. */
  readonly tableScale?: number;
  /** Names of the parts that take the place of the base's weights. */
  readonly replaced: readonly string[];
  readonly vocabularySize: number;
}

const table = "table";

/** UserError when the adapter does not fit the model. */
export function loadAdapterSet(
  decoder: Decoder,
  adapter: LoadedAdapter,
  baseVocabulary = decoder.config.vocabularySize,
): AdapterSet {
  const { config } = decoder;
  const steps = adapterSetSteps(decoder, adapterParts({ config, vocabularySize: baseVocabulary }, adapter));
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** Reads every value; UserError as loadAdapterSet's. */
export function adapterParts(
  { config, vocabularySize: own }: AdapterBase,
  adapter: LoadedAdapter,
): AdapterParts {
  const plan = planAdapter({ ...config, vocabularySize: own }, adapter);
  const { vocabularySize } = plan.base;
  if (vocabularySize > config.vocabularySize) {
    throw new UserError(
      `adapter: its vocabulary of ${vocabularySize} is larger than the ${config.vocabularySize} that the base was opened with; name the adapter when the base is opened`,
    );
  }
  const tensors = new Map<string, TensorValues>();
  const put = (name: string, { shape, values }: TensorValues) => {
    // Rows beyond the adapter's vocabulary stay zero; no token of a request reaches them.
    tensors.set(name, { shape: isTable(name) ? [config.vocabularySize, ...shape.slice(1)] : shape, values });
  };
  const scales = new Map<string, number>();
  for (const [name, pair] of plan.linears) {
    const { a, tensors: own = [] } = pair;
    put(`${name}.lora_a`, a);
    put(`${name}.lora_b`, ownB(name, pair, config));
    for (const [kept, tensor] of own) put(`${name}.${kept}`, tensor);
    scales.set(name, scaleOf(adapter, name));
  }
  if (plan.embedding) {
    put(`${table}.lora_a`, plan.embedding.b);
    put(`${table}.lora_b`, transposed(plan.embedding.a));
  }
  const replaced = new Map([...plan.fixed, ...plan.replaced]);
  const shared = weightSpecs(config).find((spec) => spec.shared && replaced.has(spec.name));
  if (shared) {
    throw new UserError(
      `adapter: it replaces "${shared.name}" whole, which requests of one pass share; merge it, or open it with the model (--adapter)`,
    );
  }
  for (const [name, tensor] of replaced) put(name, tensor);
  return {
    kind: adapter.config.kind,
    tensors,
    scales,
    tableScale: plan.embedding?.scale,
    replaced: [...replaced.keys()],
    vocabularySize,
  };
}

/** Whether a part's rows are tokens. */
function isTable(name: string): boolean {
  if ([`${embeddingName}.weight`, `${table}.lora_a`].includes(name)) return true;
  return name.startsWith(`${headName}.`) && name !== `${headName}.lora_a`;
}

/** Values that go to the device in one step: some milliseconds of work. */
const stepValues = 2 ** 20;

/**
 * Puts an adapter on the device a few milliseconds at a time, for a thread that has passes to run between them: yields
 * after each piece. Ended early (return()), it frees what it has made.
 */
export function* adapterSetSteps(
  decoder: Decoder,
  parts: AdapterParts,
  mostValues = stepValues,
): Generator<void, AdapterSet, void> {
  const { backend } = decoder;
  const buffers: DeviceBuffer[] = [];
  const attachments: Attachment[] = [];
  const free = () => {
    for (const attachment of attachments) attachment.free();
    for (const buffer of buffers) backend.free(buffer);
  };
  const placed = new Map<string, Parameter>();
  let whole = false;
  try {
    let sinceYield = 0;
    const dtype = backend.floatType;
    for (const [name, { shape, values }] of parts.tensors) {
      const tensor = viewOf(backend.allocate(tensorBytes(shape, dtype), "adapters"), shape, dtype);
      buffers.push(tensor.buffer);
      const count = elementCount(shape);
      for (let at = 0; at < count; at += mostValues) {
        const length = Math.min(mostValues, count - at);
        let piece = values.subarray(at, at + length);
        if (piece.length < length) {
          const padded = new Float32Array(length);
          padded.set(piece);
          piece = padded;
        }
        backend.write(tensor.buffer, encodeFrom(piece, dtype), at * dtypeBytes[dtype]);
        sinceYield += length;
        if (sinceYield < mostValues) continue;
        sinceYield = 0;
        yield;
      }
      placed.set(name, { name, tensor });
    }
    const part = (name: string) => {
      const parameter = placed.get(name);
      invariant(parameter, `the adapter has no ${name}`);
      return parameter;
    };
    const factors = (name: string, scale: number): Factors => {
      return { a: part(`${name}.lora_a`), b: part(`${name}.lora_b`), scale };
    };
    const { tableScale, vocabularySize } = parts;
    const kind = adapterKind(parts.kind);
    const layers = new Map([...parts.scales].map(([name, scale]) => [name, factors(name, scale)]));
    for (const layer of kind.attach ? [...decoder.linears, decoder.head] : []) {
      const { name } = layer;
      const given = layers.get(name);
      if (!given) continue;
      const tensors = new Map(kind.tensors.map((own) => [own.name, part(`${name}.${own.name}`)]));
      const replaced = placed.get(`${name}.weight`);
      const weight = replaced ? { parameter: replaced } : layer.weight;
      const attachment = kind.attach!(backend, { ...layer, ...given, weight, tensors }, false);
      attachments.push(attachment);
      layers.set(name, { ...given, columns: attachment.factors });
      yield;
    }
    const set: AdapterSet = {
      layers,
      replaced: new Map(parts.replaced.map((name) => [name, part(name)])),
      embedding: tableScale === undefined ? undefined : factors(table, tableScale),
      vocabularySize,
      free,
    };
    whole = true;
    return set;
  } finally {
    if (!whole) free();
  }
}
