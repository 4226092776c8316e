// An adapter on the device that is attached to no layer: generation applies it to the rows of the requests that ask for
// it, so that several adapters share one base and one batch. Attaching one to all rows is adapter.ts's affair.

import type { Parameter } from "../autograd/tape.ts";
import type { LoadedAdapter, TensorValues } from "../formats/peft.ts";
import type { AdapterRows, Factors, TableFactors } from "../nn/module.ts";
import { FlatParameters, type ParameterSpec } from "../nn/parameters.ts";
import { BugError, UserError } from "../util/errors.ts";
import { planAdapter, scaleOf, transposed } from "./adapter-plan.ts";
import type { Decoder } from "./decoder.ts";
import { embeddingName, headName } from "./decoder-weights.ts";

export interface AdapterSet extends Pick<AdapterRows, "layers" | "replaced" | "embedding"> {
  /** Token ids that a request with this adapter may hold, and be answered with. */
  readonly vocabularySize: number;
  free(): void;
}

/**
 * UserError when the adapter does not fit the model. `baseVocabulary` is the base's own, where the decoder was given
 * more rows for the sake of its adapters.
 */
export function loadAdapterSet(
  decoder: Decoder,
  adapter: LoadedAdapter,
  baseVocabulary = decoder.config.vocabularySize,
): AdapterSet {
  const { backend, config } = decoder;
  const plan = planAdapter({ ...config, vocabularySize: baseVocabulary }, adapter);
  const { vocabularySize } = plan.base;
  if (vocabularySize > config.vocabularySize) {
    throw new UserError(
      `adapter: its vocabulary of ${vocabularySize} is larger than the ${config.vocabularySize} that the base was opened with; name the adapter when the base is opened`,
    );
  }
  const parts = new Map<string, TensorValues>();
  for (const [name, { a, b }] of plan.linears) parts.set(`${name}.lora_a`, a).set(`${name}.lora_b`, b);
  const table = plan.embedding && { a: plan.embedding.b, b: transposed(plan.embedding.a) };
  if (table) parts.set("table.lora_a", table.a).set("table.lora_b", table.b);
  for (const [name, tensor] of [...plan.fixed, ...plan.replaced]) parts.set(name, tensor);
  const rowsOf = (name: string, { shape }: TensorValues) =>
    isTable(name) ? [config.vocabularySize, ...shape.slice(1)] : shape;
  const specs: ParameterSpec[] = [...parts].map(([name, tensor]) => ({ name, shape: rowsOf(name, tensor) }));
  const flat = new FlatParameters(backend, specs, "adapters", false);
  const put = (name: string): Parameter => {
    const parameter = flat.get(name);
    if (!parameter) throw new BugError(`${name} is missing from the flat buffer`);
    // Rows beyond the adapter's vocabulary stay zero; no token of a request reaches them.
    flat.set(parameter, parts.get(name)!.values);
    return parameter;
  };
  const layers = new Map<string, Factors>();
  for (const name of plan.linears.keys())
    layers.set(name, { a: put(`${name}.lora_a`), b: put(`${name}.lora_b`), scale: scaleOf(adapter, name) });
  const embedding: TableFactors | undefined = table && {
    a: put("table.lora_a"),
    b: put("table.lora_b"),
    scale: plan.embedding!.scale,
  };
  const replaced = new Map<string, Parameter>();
  for (const name of new Set([...plan.fixed.keys(), ...plan.replaced.keys()])) replaced.set(name, put(name));
  return { layers, replaced, embedding, vocabularySize, free: () => flat.free() };
}

/** Whether a part's rows are tokens. */
function isTable(name: string): boolean {
  return [`${embeddingName}.weight`, `${headName}.weight`, `${headName}.lora_b`, "table.lora_a"].includes(
    name,
  );
}
