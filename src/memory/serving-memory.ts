// What a server's cache of keys and values may take on a device whose model is loaded: what is free there, less what a pass
// takes for itself. Not here: what a training step takes (predict-memory.ts), the cache (generate/).

import type { Backend } from "../backend/backend.ts";
import { activationBytes } from "../models/activation-bytes.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { machineMemory } from "./machine-memory.ts";

/** Shares of what is free that may be planned with, of a machine and of a card, as for runs (fit-memory.ts). */
const [usableShare, usableOnCard] = [0.9, 0.98];
/** Tokens of a pass at the most, as engines have it. */
const passTokens = 2048;

/** Bytes that a pass over `tokens` tokens takes beside weights and cache: those of its widest layer, and logits of a few rows. */
export function passBytes(config: DecoderConfig, fewRows: number, tokens = passTokens): number {
  const layers = config.layers.map((layer) => activationBytes({ ...config, layers: [layer] }, tokens, false));
  return Math.max(...layers) + 2 * 4 * fewRows * config.vocabularySize;
}

/** Undefined where the device does not tell. */
export function freeForCache(
  backend: Pick<Backend, "name" | "deviceMemory" | "rowsAlike">,
  config: DecoderConfig,
): number | undefined {
  const own = passBytes(config, backend.rowsAlike.few);
  if (backend.deviceMemory) {
    const { availableBytes, heldBytes } = backend.deviceMemory();
    return Math.max(0, usableOnCard * availableBytes - heldBytes - own);
  }
  if (backend.name === "webgpu") return undefined;
  return Math.max(0, usableShare * machineMemory().availableBytes - own);
}
