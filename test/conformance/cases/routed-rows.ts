// Routings that cases of a mixture's kernels share.

import { Random } from "../../../src/util/rng.ts";

/** Different experts for every token; some may be nobody's. */
export function choices(t: number, experts: number, k: number, seed = 9): number[] {
  const random = new Random(seed, 3);
  return Array.from({ length: t }, () => {
    const own: number[] = [];
    while (own.length < k) {
      const e = random.nextInt(experts);
      if (!own.includes(e)) own.push(e);
    }
    return own;
  }).flat();
}

/** Where each pair stands, as sortByExpert has it. */
export function ordered(chosen: readonly number[], experts: number, k: number) {
  const order = chosen.map((_, pair) => pair).sort((a, b) => chosen[a]! - chosen[b]! || a - b);
  const slots = new Array<number>(chosen.length);
  for (const [slot, pair] of order.entries()) slots[pair] = slot;
  const offsets = Array.from({ length: experts + 1 }, (_, e) => chosen.filter((own) => own < e).length);
  return { slots, offsets, tokens: order.map((pair) => Math.floor(pair / k)) };
}
