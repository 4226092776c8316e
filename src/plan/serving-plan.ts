// What serving a shape takes: keys and values of a token in each type that a cache may have, what weights and a pass take beside
// them, and how many tokens fit. The cache is generate/kv-cache.ts; what a server counts on, memory/serving-memory.ts.

import { type CacheType, cachedTokenBytes, cachedWidth, cacheTypes } from "../generate/cache-type.ts";
import { passBytes } from "../memory/serving-memory.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import type { MethodPlan } from "./memory-plan.ts";

/** As `lowrank serve` has them unless it is told otherwise. */
const [usualSlots, usualContext] = [8, 4096];
/** Rows whose logits exist at a time. */
const fewRows = 16;

export interface ServingPlan {
  readonly slots: number;
  readonly context: number;
  /** Of a token, keys and values of all layers. */
  readonly tokenBytes: Partial<Readonly<Record<CacheType, number>>>;
  readonly weights: readonly {
    readonly name: string;
    readonly title: string;
    readonly weightBytes: number;
    /** Of a pass of 2,048 tokens, beside weights and cache. */
    readonly passBytes: number;
    /** Tokens of all requests together that fit beside these; absent where no limit was given. */
    readonly tokens?: Partial<Readonly<Record<CacheType, number>>>;
  }[];
}

export function planServing(
  config: DecoderConfig,
  methods: readonly MethodPlan[],
  limitBytes: number | undefined,
): ServingPlan {
  const has8Bits = config.layers.every((layer) => cachedWidth(layer) === 0 || layer.headWidth % 32 === 0);
  const types = cacheTypes.filter((type) => type !== "q8_0" || has8Bits);
  const bytesOf = (type: CacheType) => cachedTokenBytes(config, type, { floatType: "f32" });
  const byType = (value: (type: CacheType) => number) =>
    Object.fromEntries(types.map((type) => [type, value(type)])) as ServingPlan["tokenBytes"];
  const own = passBytes(config, fewRows);
  const served = methods.filter(({ method }) => method !== "full");
  return {
    slots: usualSlots,
    context: Math.min(usualContext, config.maxPositions),
    tokenBytes: byType(bytesOf),
    weights: served.map(({ name, title, variants }) => {
      const { weights, scales } = variants[0]!.ledger.live;
      const weightBytes = weights + scales;
      const free = limitBytes === undefined ? undefined : Math.max(0, limitBytes - weightBytes - own);
      const tokens = free === undefined ? {} : { tokens: byType((type) => Math.floor(free / bytesOf(type))) };
      return { name, title, weightBytes, passBytes: own, ...tokens };
    }),
  };
}
