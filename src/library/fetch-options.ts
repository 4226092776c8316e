// Fetches from the hub what options name, before they are used. Which options name a model or rows of data is their
// definition's to say (config/define.ts); what is fetched, and where to, is formats/fetch-named.ts.

import { basename } from "node:path";
import type { OptionsDefinition } from "../config/define.ts";
import { type DataChoice, sourcesOf } from "../data/data-source.ts";
import { fetchData, fetchModel } from "../formats/fetch-named.ts";
import { ggufPlace } from "../formats/gguf-place.ts";
import type { HubHooks } from "../formats/hub.ts";
import { locateGguf } from "../formats/locate-model.ts";
import { unpackGguf } from "../models/gguf/unpack.node.ts";
import { UserError } from "../util/errors.ts";

export async function fetchOptions<Options>(
  definition: OptionsDefinition<Options>,
  options: Readonly<Options>,
  hooks: HubHooks = {},
): Promise<void> {
  for (const [key, { names }] of Object.entries(definition.fields)) {
    const value = options[key as keyof Options];
    if (names === undefined || value === undefined) continue;
    if (names === "data") {
      for (const { path } of sourcesOf(value as DataChoice)) await fetchData(path, hooks);
    } else if (typeof value === "string") {
      await fetchModel(value, names === "model" ? "all" : "config", hooks);
      const gguf = locateGguf(value);
      if (gguf !== undefined) await unpackGguf(gguf);
    }
  }
}

/** An error that speaks of the folder which was made of a GGUF file, speaking of the file as options name it. */
export function inGivenNames<Options>(
  definition: OptionsDefinition<Options>,
  options: Readonly<Options>,
  error: unknown,
): unknown {
  if (!(error instanceof UserError)) return error;
  for (const [key, { names }] of Object.entries(definition.fields)) {
    const value = options[key as keyof Options];
    const file = names !== undefined && typeof value === "string" ? locateGguf(value) : undefined;
    if (file === undefined) continue;
    const { folder } = ggufPlace(file);
    error.message = error.message
      .replaceAll(folder, String(value))
      .replaceAll(basename(folder), String(value));
  }
  return error;
}
