// LoRA+ (Hayou et al. 2024): B learns at a multiple of A's rate. Which parameter belongs to which group, and which of them
// have weight decay, as peft 0.21 (optimizers/loraplus.py): every vector goes with B, a bias without decay.

import type { ParameterGroup, ParameterSpec } from "./parameters.ts";

/** Groups for B's rate = ratio x A's. */
export function loraPlusGroups(ratio: number): (spec: ParameterSpec) => ParameterGroup {
  return ({ name, shape }) => ({
    rate: name.endsWith(".lora_b") || shape.length === 1 ? ratio : 1,
    decays: !name.endsWith(".bias"),
  });
}
