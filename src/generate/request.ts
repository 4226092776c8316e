// What is asked of the generation engine, and what it answers. The engine is engine.ts.

import type { AdapterSet } from "../models/adapter-set.ts";
import { UserError } from "../util/errors.ts";
import type { PromptLogprobs } from "./prompt-logprobs.ts";
import type { Sampling } from "./sampler.ts";
import type { TokenLogprobs } from "./token-logprobs.ts";

export interface GenerationRequest {
  readonly promptIds: readonly number[];
  readonly maxNewTokens: number;
  readonly stopIds: readonly number[];
  readonly sampling: Sampling;
  /** Applied to this request's rows alone. */
  readonly adapter?: AdapterSet;
  /** Ask for each token's log-probability and those of this many likeliest ones. */
  readonly logprobs?: number;
  /** Called with each new token, the stop token excluded; returning false ends the request. */
  readonly onToken?: (id: number, logprobs?: TokenLogprobs) => boolean | undefined;
  /** Called with the stop token that ends the request. */
  readonly onStop?: (id: number, logprobs?: TokenLogprobs) => void;
  /**
   * Ask for the log-probability of each token of the prompt, given those before it, and of this many likeliest ones in its
   * place. They are asked for without new tokens, too.
   */
  readonly promptLogprobs?: number;
  /** Told of them while the prompt enters, in its order, from its second token on. */
  readonly onPrompt?: (told: PromptLogprobs) => void;
  /** Turned true from outside, ends the request before its next token. */
  readonly signal?: { readonly aborted: boolean };
}

export interface GenerationResult {
  /** New tokens, without the stop token. */
  readonly tokenIds: number[];
  readonly finishReason: "stop" | "length";
  /** Tokens of the prompt whose keys and values were there already; 0 where absent. */
  readonly cachedTokens?: number;
}

/** UserError for a request that cannot run on this vocabulary and context. */
export function checkRequest(
  { promptIds, maxNewTokens }: GenerationRequest,
  vocabularySize: number,
  capacity: number,
): void {
  if (promptIds.length === 0) {
    throw new UserError(
      "cannot generate from an empty prompt: the tokenizer adds no BOS token, so give at least one character",
    );
  }
  for (const id of promptIds) {
    if (id < 0 || id >= vocabularySize) {
      throw new UserError(
        `token id ${id} of the prompt is outside the model's vocabulary of ${vocabularySize}; tokenizer and model do not belong together`,
      );
    }
  }
  if (promptIds.length + maxNewTokens > capacity) {
    throw new UserError(
      `a prompt of ${promptIds.length} tokens and ${maxNewTokens} new ones do not fit the context of ${capacity} tokens`,
    );
  }
}
