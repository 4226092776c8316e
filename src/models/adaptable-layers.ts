// What of a model adapters may attach to, from its configuration alone: linear layers and stacks of experts, and which of
// them "all-linear" means. As PEFT has it for each architecture, but for routers, which train only when they are named.

import type { DecoderConfig } from "./decoder-config.ts";
import { weightSpecs } from "./decoder-weights.ts";

export interface AdaptableLayer {
  readonly name: string;
  readonly outputs: number;
  readonly inputs: number;
  /** A stack of so many. */
  readonly experts?: number;
  readonly router: boolean;
}

/** Layers of the blocks that can be adapted, in order. */
export function adaptableLayers(config: DecoderConfig): AdaptableLayer[] {
  return weightSpecs(config).flatMap(({ name, shape, kind, part }) => {
    if (kind !== "linear" && kind !== "experts") return [];
    const [outputs, inputs] = shape.slice(-2) as [number, number];
    const layer = { name: name.replace(/\.weight$/, ""), outputs, inputs, router: part === "router" };
    return [kind === "experts" ? { ...layer, experts: shape[0]! } : layer];
  });
}

/** Those of "all-linear". */
export function allLinear(config: DecoderConfig): AdaptableLayer[] {
  const experts = config.mixture?.allLinear ?? true;
  return adaptableLayers(config).filter((layer) => !layer.router && (experts || layer.experts === undefined));
}

/** Parameters of factors of this rank on a layer. */
export function factorCount({ inputs, outputs, experts = 1 }: AdaptableLayer, rank: number): number {
  return experts * rank * (inputs + outputs);
}
