// Generation of requests that are all known beforehand: an engine that lives as long as they do. Requests that come
// while others run go to engine.ts directly; text is continue-text.ts's affair.

import type { Decoder } from "../models/decoder.ts";
import { GenerationEngine, type GenerationRequest, type GenerationResult } from "./engine.ts";

export type { GenerationRequest, GenerationResult } from "./engine.ts";

export interface BatchOptions {
  /** Requests that run at the same time. */
  readonly slots?: number;
  readonly onFinished?: (index: number, result: GenerationResult) => void;
}

/** Runs all requests to their ends; results in the order of the requests. */
export async function generateBatch(
  decoder: Decoder,
  requests: readonly GenerationRequest[],
  options: BatchOptions = {},
): Promise<GenerationResult[]> {
  if (requests.length === 0) return [];
  const lengths = requests.map(({ promptIds, maxNewTokens }) => promptIds.length + Math.max(0, maxNewTokens));
  const engine = new GenerationEngine(decoder, {
    slots: Math.min(options.slots ?? 8, requests.length),
    capacity: Math.max(1, ...lengths),
  });
  try {
    return await Promise.all(
      requests.map(async (request, index) => {
        const result = await engine.generate(request);
        options.onFinished?.(index, result);
        return result;
      }),
    );
  } finally {
    await engine.close();
  }
}
