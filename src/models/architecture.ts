// What an architecture's file supplies: how to read its config.json. The forward pass that the LLaMA family
// shares is decoder.ts; the registry is index.ts.

import type { DecoderConfig, Json } from "./decoder-config.ts";

export interface Architecture {
  /** As in config.json's model_type. */
  readonly modelType: string;
  readConfig(json: Json): DecoderConfig;
}
