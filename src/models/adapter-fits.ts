// Whether an adapter read from a folder belongs to a model: its names, its shapes, its values. What merging, exporting
// and serving ask before they use one.

import type { LoadedAdapter } from "../formats/peft.ts";
import { UserError } from "../util/errors.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";

/** Holds an adapter's names and shapes to a model's. UserError where they differ, or a value is not finite. */
export function checkFits(config: DecoderConfig, adapter: LoadedAdapter): void {
  const shapes = new Map(
    weightSpecs(config).flatMap((spec) => (spec.kind === "linear" ? [[spec.name, spec.shape]] : [])),
  );
  const base = `is this the adapter's base model (${adapter.config.baseModel ?? "not named"})?`;
  const refuseNonFinite = (name: string, values: Float32Array) => {
    if (!values.every(Number.isFinite))
      throw new UserError(`adapter: "${name}" holds NaN or infinite values; the adapter is damaged`);
  };
  for (const [name, { a, b }] of adapter.modules) {
    const shape = shapes.get(`${name}.weight`);
    if (!shape) {
      throw new UserError(
        `adapter: it adapts "${name}", which is not a linear layer of this model's blocks; ${base}`,
      );
    }
    if (a.shape[1] !== shape[1] || b.shape[0] !== shape[0]) {
      throw new UserError(
        `adapter: "${name}" is for a layer [${b.shape[0]}, ${a.shape[1]}], but this model's is [${shape}]; ${base}`,
      );
    }
    refuseNonFinite(name, a.values);
    refuseNonFinite(name, b.values);
  }
  const table = [config.vocabularySize, config.width];
  for (const [name, { shape, values }] of adapter.replacements) {
    if (name !== `${embeddingName}.weight` && name !== `${headName}.weight`) {
      throw new UserError(
        `adapter: it replaces "${name}"; only ${embeddingName} and ${headName} can be replaced`,
      );
    }
    if (shape[0] !== table[0] || shape[1] !== table[1])
      throw new UserError(`adapter: "${name}" has shape [${shape}], but the base model's is [${table}]`);
    refuseNonFinite(name, values);
  }
}
