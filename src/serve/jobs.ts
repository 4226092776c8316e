// What the server and its engine thread say to each other: plain data, since it crosses a thread. The server's side is
// engine-thread.ts, the thread's worker.ts.

import type { Sampling } from "../generate/sampler.ts";
import type { ChatMessage } from "../text/chat-template.ts";

export interface StartOptions {
  readonly model: string;
  readonly adapters: Readonly<Record<string, string>>;
  readonly backend: string;
  readonly precision: "auto" | "fp32" | "bf16" | "fp16";
  readonly threads: number;
  readonly chatTemplate?: string;
  /** Requests that run at the same time. */
  readonly slots: number;
  /** Most tokens of a sequence; the model's own limit where absent. */
  readonly context?: number;
}

export type Prompt =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "ids"; readonly ids: readonly number[] }
  | {
      readonly kind: "chat";
      readonly messages: readonly ChatMessage[];
      readonly tools?: readonly unknown[];
      readonly variables?: Readonly<Record<string, unknown>>;
    };

export interface Job {
  /** An adapter's name; absent for the base. */
  readonly adapter?: string;
  readonly prompt: Prompt;
  /** Must fit the context. Absent: as many as fit, up to mostNewTokens. */
  readonly maxNewTokens?: number;
  readonly mostNewTokens: number;
  readonly sampling: Sampling;
  readonly stop: readonly string[];
  readonly logprobs?: number;
}

export interface TokenReport {
  readonly token: string;
  readonly logprob: number;
  readonly top: readonly { readonly token: string; readonly logprob: number }[];
}

export interface Piece {
  readonly text: string;
  /** Where log-probabilities were asked for: the tokens drawn since the last piece. */
  readonly tokens: readonly TokenReport[];
}

export interface JobResult {
  readonly finishReason: "stop" | "length";
  readonly promptTokens: number;
  readonly completionTokens: number;
}

export interface EngineFacts {
  readonly modelType: string;
  readonly device: string;
  readonly context: number;
  readonly cacheBytes: number;
  readonly hasChatTemplate: boolean;
  /** Whether the template shows tools to the model. */
  readonly takesTools: boolean;
}

export type ToEngine =
  | { readonly kind: "job"; readonly id: number; readonly job: Job }
  | { readonly kind: "cancel"; readonly id: number }
  | { readonly kind: "load"; readonly id: number; readonly name: string; readonly path: string }
  | { readonly kind: "drop"; readonly id: number; readonly name: string }
  | { readonly kind: "close"; readonly id: number };

export type FromEngine =
  | { readonly kind: "ready"; readonly facts: EngineFacts }
  | { readonly kind: "piece"; readonly id: number; readonly piece: Piece }
  | { readonly kind: "done"; readonly id: number; readonly result?: JobResult }
  | {
      readonly kind: "failed";
      readonly id?: number;
      readonly name: string;
      readonly message: string;
      readonly stack?: string;
    };
