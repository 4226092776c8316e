// Registries of what blocks are made of, by the names that configurations give: what mixes a layer's tokens, and what
// follows it. Adding a kind = one file + one line here.

import { invariant } from "../../util/errors.ts";
import type { LayerConfig } from "../decoder-config.ts";
import { attention } from "./attention.ts";
import type { BlockPart, WeightTable } from "./block-part.ts";
import { deltaRule } from "./delta-rule.ts";
import { gatedMlp } from "./gated-mlp.ts";
import { mixture } from "./mixture.ts";
import { mixtureBeside } from "./mixture-beside.ts";
import { shortConvolution } from "./short-convolution.ts";

export const mixers: Readonly<Record<string, BlockPart>> = {
  attention: partOf(attention),
  deltaRule: partOf(deltaRule),
  shortConvolution: partOf(shortConvolution),
};
export const mlps: Readonly<Record<string, BlockPart>> = {
  dense: partOf(gatedMlp),
  mixture: partOf(mixture),
  mixtureBeside: partOf(mixtureBeside),
};

/** The kinds that a layer's configuration names. */
export const mixerOf = ({ mixer }: LayerConfig): BlockPart => found(mixers, mixer);
export const mlpOf = ({ mlp }: LayerConfig): BlockPart => found(mlps, mlp);

function found(kinds: Readonly<Record<string, BlockPart>>, name: string): BlockPart {
  const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
  invariant(kind, `no part of a block is called ${name}`);
  return kind;
}

/** A kind as code that runs any of them sees it: a block holds the parts of the table that its layer's kind has. */
function partOf<T extends WeightTable>(part: BlockPart<T>): BlockPart {
  return part as unknown as BlockPart;
}
