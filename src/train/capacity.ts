// Whether an adapter is large enough for what its data teach: bits in the targets against bits that its parameters hold. A
// rule of thumb, and both sides of it are estimates: about 1 bit a target token, distinct rows counted once, and about 2
// bits a parameter. An adapter beyond it does not fail, but falls behind full fine-tuning little by little.
// Sources: "LoRA Without Regret" (Schulman and Thinking Machines Lab, 2025-09-29); 2 bits a parameter: Allen-Zhu and Li
// 2024, "Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws" (arXiv 2404.05405).

import type { Finding } from "../data/preflight.ts";

export const bitsPerToken = 1;
export const bitsPerParameter = 2;
export const capacitySource =
  "LoRA Without Regret (Schulman et al., Thinking Machines, 2025-09-29); Allen-Zhu and Li 2024 for 2 bits a parameter";

export interface Capacity {
  /** Of distinct rows. */
  readonly targetTokens: number;
  readonly targetBits: number;
  readonly trainableParameters: number;
  readonly capacityBits: number;
  /** targetBits over capacityBits. */
  readonly share: number;
  readonly source: string;
}

export function capacityOf(
  data: { readonly samples: number; readonly duplicates: number; readonly targetTokens: number },
  trainableParameters: number,
): Capacity {
  const distinct = data.samples > 0 ? 1 - data.duplicates / data.samples : 0;
  const targetTokens = Math.round(data.targetTokens * distinct);
  const targetBits = bitsPerToken * targetTokens;
  const capacityBits = bitsPerParameter * trainableParameters;
  const share = targetBits / capacityBits;
  return { targetTokens, targetBits, trainableParameters, capacityBits, share, source: capacitySource };
}

/** "the targets hold about 8.4 Mbit, the 2.4M trained parameters about 4.9 Mbit (172%)". */
export function capacityText({ targetBits, trainableParameters, capacityBits, share }: Capacity): string {
  const percent = `${Number((100 * share).toPrecision(2))}%`;
  return `the targets hold about ${inBits(targetBits)} (${bitsPerToken} bit a token), ${inMillions(trainableParameters)} trained parameters about ${inBits(capacityBits)} (${bitsPerParameter} bits each): ${percent}`;
}

/** What speaks against an adapter of this size. */
export function capacityFindings(capacity: Capacity, rank: number): Finding[] {
  if (capacity.share <= 1) return [];
  const enough = 2 ** Math.ceil(Math.log2(rank * capacity.share));
  return [
    {
      code: "capacity",
      level: "warn",
      message: `${capacityText(capacity)}; the adapter may fall behind full fine-tuning, and --rank ${enough} would hold them (${capacity.source})`,
      rows: [],
    },
  ];
}

function inBits(bits: number): string {
  for (const [unit, size] of [
    ["Gbit", 1e9],
    ["Mbit", 1e6],
    ["kbit", 1e3],
  ] as const) {
    if (bits >= size) return `${Number((bits / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(bits)} bits`;
}

function inMillions(count: number): string {
  if (count >= 1e6) return `${Number((count / 1e6).toPrecision(3))}M`;
  return count.toLocaleString("en-US");
}
