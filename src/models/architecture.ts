// What an architecture's file supplies: how to read its config.json, and its like in GGUF. The forward pass that they
// share is decoder.ts; the registry is index.ts.

import type { GgufValue } from "../formats/gguf.ts";
import { UserError } from "../util/errors.ts";
import type { DecoderConfig, Json } from "./decoder-config.ts";

/** An architecture as llama.cpp has it. */
export interface GgufArchitecture {
  readonly name: string;
  /** It turns neighbouring elements of a head, so that rows of q and k are interleaved. */
  readonly interleaves: boolean;
  /** Activations that it computes; silu alone when absent. */
  readonly activations?: readonly DecoderConfig["activation"][];
  /** Names of parts of a block that are not those of blocks/. */
  readonly parts?: Readonly<Record<string, string>>;
  /** Gate and up are apart there where they are one matrix here. */
  readonly splitsGateUp?: boolean;
  /** It has attention windows; else every layer sees everything. */
  readonly windows?: boolean;
  /** The final norm's name there, where it is not output_norm. */
  readonly finalNorm?: string;
  /** Layers that do not attend are said to have no key/value heads. */
  readonly headsOfMixers?: boolean;
  /** It has no head but one of its own: a tied one is written as a copy. */
  readonly needsHead?: boolean;
  /** It takes divisors of the plain frequencies, as LLaMA 3's scaling needs; "always": it asks for them, ones too. */
  readonly ropeFactors?: boolean | "always";
  /** It takes models whose YaRN it rounds, as it does with the published one. */
  readonly roundsYarn?: boolean;
  /** It has LongRoPE's factors, and turns a share of each head. */
  readonly longRope?: boolean;
  /** Its name for a BPE tokenizer that falls back to bytes, where it has one of its own for it. */
  readonly tokenizer?: string;
  /** Modules that it multiplies with and never with an adapter's factors. */
  readonly unadapted?: readonly string[];
  /** Keys below `<name>.` besides the usual ones. UserError for a variant that it computes in another way. */
  metadata?(config: DecoderConfig): Readonly<Record<string, GgufValue>>;
}

export interface Architecture {
  /** As in config.json's model_type. */
  readonly modelType: string;
  /** Absent: llama.cpp has it not at all. */
  readonly gguf?: GgufArchitecture;
  readConfig(json: Json): DecoderConfig;
}

/** Refuses what llama.cpp's architecture of this name has no word for. */
export function refuseInGguf(name: string, what: string, refused: boolean): void {
  if (!refused) return;
  throw new UserError(
    `this model ${what}, which llama.cpp's ${name} models do not; it cannot be exported to GGUF`,
  );
}
