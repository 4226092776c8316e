// What a new adapter's configuration asks of a model: which tensors train whole beside it, and what is refused before
// anything is attached (adapter.ts).

import {
  type AdapterConfig,
  type ModuleSettings,
  savedWholeMatcher,
  settingsReader,
} from "../formats/peft.ts";
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { UserError } from "../util/errors.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";
import type { LoadedDecoder } from "./load-model.ts";

const tables = [`${embeddingName}.weight`, `${headName}.weight`];

/** What a new adapter's configuration says to train embedding and head whole; tied, they stay one table. */
export function wholeTables({
  decoder,
}: LoadedDecoder): Pick<AdapterConfig, "modulesToSave" | "ensureWeightTying"> {
  const [embedding, head] = [embeddingName, headName].map((name) => name.slice(name.lastIndexOf(".") + 1));
  return decoder.config.tied
    ? { modulesToSave: [embedding!], ensureWeightTying: true }
    : { modulesToSave: [embedding!, head!], ensureWeightTying: false };
}

/** The base's tensors that a new adapter trains whole. UserError for modules that the model has not. */
export function wholeNames(model: DecoderConfig, config: AdapterConfig): string[] {
  const names = weightSpecs({ ...model, tied: false }).map(({ name }) => name);
  const moduleOf = (name: string) => name.slice(0, name.lastIndexOf("."));
  for (const asked of config.modulesToSave) {
    if (names.some((name) => savedWholeMatcher([asked])(moduleOf(name)))) continue;
    const known = [...new Set(names.map(moduleOf).map((name) => name.slice(name.lastIndexOf(".") + 1)))];
    throw new UserError(
      `adapter: ${asked} is to train whole, and no module of this model is called that; its modules are ${known.join(", ")}`,
    );
  }
  const saved = savedWholeMatcher(config.modulesToSave);
  const whole = names.filter((name) => saved(moduleOf(name)));
  const onHost = weightSpecs(model).find((spec) => spec.onHost && whole.includes(spec.name));
  if (onHost) {
    throw new UserError(
      `adapter: ${onHost.name} is to train whole, but beside an adapter this table stays in the host's memory and is frozen; leave it out of the modules to save, or use --method full`,
    );
  }
  if (!(config.ensureWeightTying && model.tied && whole.some((name) => tables.includes(name)))) return whole;
  return [...tables, ...whole.filter((name) => !tables.includes(name))];
}

/** UserError for what PiSSA is not made of here. */
export function refusePissa(config: AdapterConfig, settings: ReadonlyMap<string, ModuleSettings>): void {
  const found = [headName, embeddingName].filter((name) => settings.has(name));
  if (found.length > 0)
    throw new UserError(
      `adapter: --init pissa is for linear layers of the blocks; leave ${found.join(", ")} out of the targets`,
    );
  if (adapterKind(config.kind).attach)
    throw new UserError(
      `adapter: --init pissa does not go with --adapter ${config.kind}; use --adapter lora, or --init default`,
    );
}

/** A pattern that matches no adapted layer is a typing mistake. */
export function refuseIdlePatterns(config: AdapterConfig, adapted: readonly string[]): void {
  for (const patterns of [config.rankPattern, config.alphaPattern]) {
    for (const [pattern, value] of Object.entries(patterns)) {
      // Where only this pattern sets the rank, it matches what gets another than a rank that nobody asked for.
      const read = settingsReader({
        ...config,
        rank: -1,
        rankPattern: { [pattern]: value },
        alphaPattern: {},
      });
      if (adapted.some((name) => read(name).rank !== -1)) continue;
      throw new UserError(
        `adapter: the pattern ${JSON.stringify(pattern)} matches the end of no adapted layer's path, such as ${adapted[0]}`,
      );
    }
  }
}
