// What an architecture's file supplies: how to read its config.json, and its like in GGUF. The forward pass that the LLaMA family
// shares is decoder.ts; the registry is index.ts.

import type { DecoderConfig, Json } from "./decoder-config.ts";

export interface Architecture {
  /** As in config.json's model_type. */
  readonly modelType: string;
  /** How llama.cpp has it: its name there, and whether it turns neighbouring elements of a head. Absent: not at all. */
  readonly gguf?: { readonly name: string; readonly interleaves: boolean };
  readConfig(json: Json): DecoderConfig;
}
