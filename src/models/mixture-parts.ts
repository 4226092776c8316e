// Which parts of a mixture of experts a run trains, said out loud: nothing of it is frozen without a word.

import { isExperts } from "../nn/module.ts";
import type { Decoder } from "./decoder.ts";

/** One sentence; undefined for a model without experts. `full`: every weight trains. */
export function trainedParts(decoder: Decoder, full: boolean): string | undefined {
  const { layers } = decoder.config;
  const mixtures = layers.filter(({ experts }) => experts !== undefined);
  const first = mixtures[0]?.experts;
  if (!first) return undefined;
  const what = `mixture of experts (${first.count} in ${mixtures.length} of ${layers.length} layers, ${first.perToken} a token)`;
  if (full) return `${what}: everything trains, experts and routers too`;
  const parts = [
    { name: "experts", has: decoder.layers.filter(isExperts) },
    {
      name: "routers",
      has: decoder.layers.filter(({ name }) => /\.(?:mlp\.(?:gate|router)|router\.proj)$/.test(name)),
    },
    { name: "shared experts", has: decoder.layers.filter(({ name }) => name.includes(".mlp.shared_expert")) },
    {
      name: "attention",
      has: decoder.layers.filter(({ name }) => /\.(?:self_attn|linear_attn)\./.test(name)),
    },
    {
      name: "dense MLPs",
      has: decoder.layers.filter(({ name }) => /\.mlp\.(?:gate|up|down|gate_up)_proj$/.test(name)),
    },
  ].filter(({ has }) => has.length > 0);
  const of = (name: string, some: number, all: number) =>
    some === all ? name : `${name} (${some} of ${all} weights)`;
  const trained = parts.flatMap(({ name, has }) => {
    const some = has.filter(({ adapter, weight }) => adapter || "parameter" in weight).length;
    return some > 0 ? [of(name, some, has.length)] : [];
  });
  const frozen = parts.flatMap(({ name, has }) =>
    has.some(({ adapter, weight }) => adapter || "parameter" in weight) ? [] : [name],
  );
  const ways = frozen
    .filter((name) => name === "experts" || name === "routers")
    .map((name) => (name === "routers" ? "router" : name));
  const hint = ways.length > 0 ? ` (--targets takes ${ways.join(" and ")})` : "";
  return `${what}: adapters train ${trained.join(", ") || "nothing of it"}; frozen: ${frozen.join(", ") || "nothing"}${hint}`;
}
