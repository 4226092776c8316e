// An adapter on the device that is attached to no layer: generation applies it to the rows of the requests that ask for
// it, so that several adapters share one base and one batch. Attaching one to all rows is adapter.ts's affair.

import type { LoadedAdapter } from "../formats/peft.ts";
import type { AdapterRows } from "../nn/module.ts";
import { FlatParameters } from "../nn/parameters.ts";
import { BugError, UserError } from "../util/errors.ts";
import { checkFits } from "./adapter-fits.ts";
import type { Decoder } from "./decoder.ts";

export interface AdapterSet {
  readonly layers: AdapterRows["layers"];
  free(): void;
}

/** UserError when the adapter does not fit the model, or replaces whole weights, which all rows would share. */
export function loadAdapterSet(decoder: Decoder, adapter: LoadedAdapter): AdapterSet {
  checkFits(decoder.config, adapter);
  if (adapter.replacements.size > 0) {
    throw new UserError(
      `adapter: it replaces ${[...adapter.replacements.keys()].join(", ")} whole, so it cannot share a base with others; merge it and use the merged model`,
    );
  }
  const specs = [...adapter.modules].flatMap(([name, { a, b }]) => [
    { name: `${name}.lora_a`, shape: a.shape },
    { name: `${name}.lora_b`, shape: b.shape },
  ]);
  const flat = new FlatParameters(decoder.backend, specs, "adapters", false);
  const layers = new Map<
    string,
    { a: FlatParameters["entries"][0]; b: FlatParameters["entries"][0]; scale: number }
  >();
  for (const [name, pair] of adapter.modules) {
    const [a, b] = [flat.get(`${name}.lora_a`), flat.get(`${name}.lora_b`)];
    if (!a || !b) throw new BugError(`adapter of ${name} is missing from the flat buffer`);
    flat.set(a, pair.a.values);
    flat.set(b, pair.b.values);
    layers.set(name, { a, b, scale: adapter.settings.get(name)!.scale });
  }
  return { layers, free: () => flat.free() };
}
