// PiSSA (Meng et al. 2024): A and B begin as the weight's leading singular vectors, and what they begin as is taken off the
// weight, so that training starts from the base model and moves its principal part. The base stays as it is: the first
// factors are kept beside the trained ones and subtracted in every pass, which holds for any kind of weight, bits
// included, and makes of the result a plain LoRA of twice the rank on the unchanged base, as PEFT converts it.

import type { Backend } from "../backend/backend.ts";
import { BugError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import { leadingTriplets } from "./leading-triplets.ts";
import type { Anchor, Linear } from "./module.ts";
import type { FlatParameters, ParameterGroup, ParameterSpec } from "./parameters.ts";

export const adapterInits = ["default", "pissa"] as const;
export type AdapterInit = (typeof adapterInits)[number];

/** They lie in the flat buffers, so that checkpoints hold them, in a group that no update moves. */
export const anchorGroup: ParameterGroup = { rate: 0, decays: false };

export function anchorSpecs(layer: string, outputs: number, inputs: number, rank: number): ParameterSpec[] {
  return [
    { name: `${layer}.anchor_a`, shape: [rank, inputs] },
    { name: `${layer}.anchor_b`, shape: [outputs, rank] },
  ];
}

export function isAnchor(name: string): boolean {
  return /\.anchor_[ab]$/.test(name);
}

/** The anchor of a layer, without gradients. */
export function anchorOf(layer: string, flat: FlatParameters): Anchor {
  const [a, b] = ["a", "b"].map((part) => flat.get(`${layer}.anchor_${part}`));
  if (!a || !b) throw new BugError(`the first factors of ${layer} are missing from the flat buffer`);
  return { a: { name: a.name, tensor: a.tensor }, b: { name: b.name, tensor: b.tensor } };
}

/** Gives factors and anchors of the layers their first values. */
export async function initializePissa(
  backend: Backend,
  layers: readonly Linear[],
  flat: FlatParameters,
  seed: number,
): Promise<void> {
  if (backend.holdsNothing) return;
  const random = new Random(seed, 0x9155);
  for (const { adapter, weight, inputs, outputs } of layers) {
    if (!adapter?.anchor) continue;
    const { a, b, scale, anchor } = adapter;
    const rank = a.tensor.shape[0]!;
    const matrix = "frozen" in weight ? weight.frozen : weight.parameter.tensor;
    const { values, left, right } = await leadingTriplets(backend, matrix, rank, random);
    const [first, second] = [new Float32Array(rank * inputs), new Float32Array(outputs * rank)];
    for (let r = 0; r < rank; r++) {
      const root = Math.sqrt(values[r]! / scale);
      for (let i = 0; i < inputs; i++) first[r * inputs + i] = root * right[r]![i]!;
      for (let o = 0; o < outputs; o++) second[o * rank + r] = root * left[r]![o]!;
    }
    flat.set(a, first);
    flat.set(b, second);
    flat.set(anchor.a, first);
    flat.set(
      anchor.b,
      second.map((value) => -scale * value),
    );
  }
}
