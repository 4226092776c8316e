// What the server and its engine thread say to each other: plain data, since it crosses a thread. The server's side is
// engine-thread.ts, the thread's worker.ts. Not here: how a request becomes token ids (preparing.ts).

import type { CacheType } from "../generate/cache-type.ts";
import type { CacheUse } from "../generate/kv-cache.ts";
import type { PromptLogprobs } from "../generate/prompt-logprobs.ts";
import type { Sampling } from "../generate/sampler.ts";
import type { AdapterBase, AdapterParts } from "../models/adapter-set.ts";
import type { OverlaidToken } from "../text/overlaid-decoder.ts";
import type { TokenizerFiles } from "../text/tokenizer-files.ts";
import type { ErrorData } from "../util/errors.ts";

export interface StartOptions {
  readonly model: string;
  /** Folders of adapters that will be loaded, which may bring more tokens than the model has. */
  readonly roomFor: readonly string[];
  readonly backend: string;
  readonly precision: "auto" | "fp32" | "bf16" | "fp16";
  readonly threads: number;
  /** Requests that run at the same time. */
  readonly slots: number;
  /** Most tokens of a sequence; the model's own limit where absent. */
  readonly context?: number;
  readonly cacheType: CacheType | "auto";
  /** What keys and values may take; as much as all slots need where absent, and what is free where that is less. */
  readonly cacheBytes?: number;
}

export interface Job {
  /** An adapter's name; absent for the base. */
  readonly adapter?: string;
  readonly promptIds: Int32Array;
  /** Must fit the context. Absent: as many as fit, up to mostNewTokens. */
  readonly maxNewTokens?: number;
  readonly mostNewTokens: number;
  readonly sampling: Sampling;
  readonly stop: readonly string[];
  readonly logprobs?: number;
  /** Tell of the stop token, too, and count it. */
  readonly tellStop?: boolean;
  /** Tell of the prompt's own tokens, with this many likeliest ones beside each. */
  readonly promptLogprobs?: number;
}

export interface TokenReport {
  readonly id: number;
  readonly token: string;
  readonly logprob: number;
  readonly top: readonly { readonly id: number; readonly token: string; readonly logprob: number }[];
}

/** Tokens of a prompt in its order, the first of all without numbers: NaN, 0, no likeliest ones. */
export interface PromptPiece extends Omit<PromptLogprobs, "start"> {
  readonly ids: Int32Array;
  /** Of tokens that no earlier piece had. */
  readonly spellings: readonly (readonly [id: number, token: string])[];
}

export interface Piece {
  readonly text: string;
  /** Where log-probabilities were asked for: the tokens drawn since the last piece. */
  readonly tokens: readonly TokenReport[];
  /** Where they were asked for: told before any text. */
  readonly prompt?: PromptPiece;
}

export interface JobResult {
  readonly finishReason: "stop" | "length";
  readonly promptTokens: number;
  /** Of these, those whose keys and values were there already. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

/** How an adapter's answers become text, and end. */
export interface AdapterSpeech {
  readonly eosIds: readonly number[];
  /** Added tokens in which its tokenizer differs from the base's. */
  readonly overlay: readonly OverlaidToken[];
  /** What a decoder of its own is made of, in place of the base's and the overlay: building one takes a moment. */
  readonly decoding?: TokenizerFiles;
}

/** An adapter that was read and held to the model elsewhere: its numbers are ready to go to the device. */
export interface ReadAdapter {
  readonly parts: AdapterParts;
  readonly speech: AdapterSpeech;
  /** What it brought along that counts before the model's own, in words. */
  readonly notes: readonly string[];
}

/** The memory of an adapter's numbers, which goes over to another thread instead of being copied. */
export function transferOf({ parts }: ReadAdapter): ArrayBuffer[] {
  const arrays = [...parts.tensors.values()].map(({ values }) => values);
  const whole = arrays.filter((values) => values.byteLength === values.buffer.byteLength);
  return [...new Set(whole.map(({ buffer }) => buffer as ArrayBuffer))];
}

export interface EngineFacts {
  /** What adapters are held to. */
  readonly base: AdapterBase;
  readonly modelType: string;
  readonly device: string;
  readonly context: number;
  readonly cache: {
    readonly type: CacheType;
    /** The budget, and the tokens that it holds. */
    readonly bytes: number;
    readonly tokens: number;
    readonly tokenBytes: number;
  };
  readonly load: EngineLoad;
}

/** The cache at some moment, and how often a request was put off for want of it. */
export interface EngineLoad extends CacheUse {
  readonly putOff: number;
}

export type ToEngine =
  | { readonly kind: "job"; readonly id: number; readonly job: Job }
  | { readonly kind: "cancel"; readonly id: number }
  | { readonly kind: "load"; readonly id: number; readonly name: string; readonly read: ReadAdapter }
  | { readonly kind: "drop"; readonly id: number; readonly name: string }
  | { readonly kind: "close"; readonly id: number };

export type FromEngine =
  | { readonly kind: "ready"; readonly facts: EngineFacts }
  | { readonly kind: "load"; readonly load: EngineLoad }
  | { readonly kind: "piece"; readonly id: number; readonly piece: Piece }
  | { readonly kind: "done"; readonly id: number; readonly result?: JobResult }
  | { readonly kind: "failed"; readonly id?: number; readonly error: ErrorData };
