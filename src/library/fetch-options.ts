// Fetches from the hub what options name, before they are used. Which options name a model or rows of data is their
// definition's to say (config/define.ts); what is fetched, and where to, is formats/fetch-named.ts.

import type { OptionsDefinition } from "../config/define.ts";
import { type DataChoice, sourcesOf } from "../data/data-source.ts";
import { fetchData, fetchModel } from "../formats/fetch-named.ts";
import type { HubHooks } from "../formats/hub.ts";
import { locateGguf } from "../formats/locate-model.ts";
import { unpackGguf } from "../models/gguf/unpack.node.ts";

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
