// Registries of what blocks are made of, by the names that configurations give: what mixes a layer's tokens, and what
// follows it. Adding a kind = one file + one line here.

import { attention } from "./attention.ts";
import type { BlockPart } from "./block-part.ts";
import { gatedMlp } from "./gated-mlp.ts";

export const mixers = { attention } as const;
export const mlps = { dense: gatedMlp } as const;

export type MixerName = keyof typeof mixers;
export type MlpName = keyof typeof mlps;

/** A kind as code that runs any of them sees it: a block holds the parts of the table that its layer's kind has. */
export const mixerOf = (name: MixerName): BlockPart => mixers[name] as unknown as BlockPart;
export const mlpOf = (name: MlpName): BlockPart => mlps[name] as unknown as BlockPart;
