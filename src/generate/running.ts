// A request of the generation engine from when it is asked to its answer: what is known of its text, and what happened to it.
// Not here: what is done with it (engine.ts).

import type { GenerationRequest, GenerationResult } from "./request.ts";
import { Sampler } from "./sampler.ts";

export interface Running {
  readonly request: GenerationRequest;
  /** -1: it waits for one. */
  slot: number;
  readonly sampler: Sampler;
  readonly generated: number[];
  /** Tokens that enter together: the prompt, or the whole text where its keys and values are computed anew. */
  entering: readonly number[];
  /** The text's tokens behind those, which go in one at a time. */
  following: number[];
  /** The last pass that it took part in. */
  servedIn: number;
  told: number;
  /** Tokens of the prompt that were there already when it first entered. */
  cachedTokens: number;
  resolve(result: GenerationResult): void;
  reject(error: unknown): void;
}

/** A request that waits for its slot. */
export function newRun(
  request: GenerationRequest,
  resolve: Running["resolve"],
  reject: Running["reject"],
): Running {
  return {
    ...{ request, resolve, reject, slot: -1, sampler: new Sampler(request.sampling), generated: [] },
    ...{ entering: request.promptIds, following: [], servedIn: 0, told: 0, cachedTokens: 0 },
  };
}
