// Phi-3, 3.5, 4 and 4-mini: q, k and v are rows of one projection, gate and up of another; LongRoPE, a share of each head
// that turns, and one window for all layers where config.json says so.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import { eachLayer, type Json, type LayerRope, readCommon, readWindow } from "./decoder-config.ts";

/** Where config.json names no length: the class has one, and it is stronger than what stands in the RoPE's object. */
const defaults = { vocab_size: 32_064, original_max_position_embeddings: 4096 };

/** The names that LongRoPE had in the first releases. */
function withLongRope(json: Json, key: string): Json {
  const rope = json[key] as Json | null | undefined;
  const type = rope?.rope_type ?? rope?.type;
  return type === "su" || type === "yarn" ? { [key]: { ...rope, rope_type: "longrope" } } : {};
}

export const phi3: Architecture = {
  modelType: "phi3",
  gguf: {
    name: "phi3",
    interleaves: false,
    longRope: true,
    metadata({ layers, heads, width }) {
      const { headWidth, window } = layers[0]!;
      refuseInGguf(
        "phi3",
        "has heads that are wider or narrower than the model",
        heads * headWidth !== width,
      );
      // 0 marks Phi-4, and later releases of llama.cpp read windows that this one leaves out.
      return { "attention.sliding_window": { type: "u32", value: window } };
    },
  },
  readConfig(json) {
    const given = { ...defaults, ...json };
    const renamed = { ...withLongRope(given, "rope_scaling"), ...withLongRope(given, "rope_parameters") };
    const common = readCommon(
      { ...given, ...renamed },
      { theta: 10000, tied: false, maxPositions: 4096, normEpsilon: 1e-5, partialByDefault: true },
    );
    const window = readWindow(given);
    const [{ rope }] = common.ropes as [LayerRope];
    // Its frequencies change with the text's length, and what came before is turned as it would be had it been so long.
    const keptUpTo = rope.type === "longrope" ? rope.originalMaxPositions : undefined;
    return {
      ...common,
      ...{ fusedQkv: true, fusedGateUp: true, keptUpTo },
      layers: eachLayer(common, () => ({ window })),
    };
  },
};
