// Gemma 4 as llama.cpp has it: what it must be told, and what it computes in another way and is therefore refused. Read in
// llama.cpp's src/models/gemma4.cpp and, for keys that layers share, src/llama-model.cpp.

import type { GgufValue } from "../../formats/gguf.ts";
import { type GgufArchitecture, refuseInGguf } from "../architecture.ts";
import type { DecoderConfig } from "../decoder-config.ts";
import { perLayerNames } from "../decoder-weights.ts";
import { expertMetadata } from "../mixture-config.ts";

const name = "gemma4";

export const gemma4Gguf: GgufArchitecture = {
  name,
  interleaves: false,
  activations: ["geluTanh"],
  windows: true,
  ropeFactors: "always",
  tokenizer: "gemma4",
  // Of the products, this one alone is made there without asking for adapters.
  unadapted: [perLayerNames.projection],
  metadata,
};

function metadata(config: DecoderConfig): Readonly<Record<string, GgufValue>> {
  const { layers, ropes, perLayer, logitSoftCap } = config;
  const refuse = (what: string, refused: boolean) => refuseInGguf(name, what, refused);
  refuse("has biases in attention", config.qkvBias);
  const isSliding = layers.map(({ rope }) => rope === 1);
  const [full, sliding] = [false, true].map((of) => layers[isSliding.indexOf(of)]);
  if (!full || !sliding) {
    refuse("has no layer with an attention window", true);
    return {};
  }
  refuse("has layers of the windowed kind without a window", sliding.window === 0);
  const [ofFull, ofSliding] = ropes.map(({ rope }) => rope.type);
  refuse(`turns its windowed layers by "${ofSliding}"`, ofSliding !== "default");
  refuse(`turns layers that see everything by "${ofFull}"`, !["default", "proportional"].includes(ofFull!));
  const shared = layers.filter(({ keysFrom }) => keysFrom !== undefined).length;
  const own = layers.length - shared;
  // A layer without keys attends there to one of the last two that have some: the last where it sees everything.
  const elsewhere = layers.some(
    ({ keysFrom }, i) => keysFrom !== undefined && keysFrom !== own - (isSliding[i] ? 2 : 1),
  );
  refuse(
    "shares keys of other layers than of the last two that have their own",
    elsewhere || (shared > 0 && own < 2),
  );
  const u32 = (value: number): GgufValue => ({ type: "u32", value });
  return {
    "attention.key_length": u32(full.headWidth),
    "attention.value_length": u32(full.headWidth),
    "attention.key_length_swa": u32(sliding.headWidth),
    "attention.value_length_swa": u32(sliding.headWidth),
    "rope.dimension_count": u32(full.headWidth),
    "rope.dimension_count_swa": u32(sliding.headWidth),
    "rope.freq_base_swa": { type: "f32", value: ropes[1]!.rope.theta },
    "attention.sliding_window": u32(sliding.window),
    "attention.sliding_window_pattern": { type: "array", of: "bool", value: isSliding },
    "attention.shared_kv_layers": u32(shared),
    embedding_length_per_layer_input: u32(perLayer?.width ?? 0),
    // Without the key logits are capped at 30.
    final_logit_softcapping: { type: "f32", value: logitSoftCap },
    ...(full.experts ? expertMetadata(config) : {}),
  };
}
