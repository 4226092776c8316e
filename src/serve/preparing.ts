// What the server and its preparing threads say to each other: plain data, since it crosses a thread. The server's side
// is preparers.ts, a thread's preparer.ts.

import type { AdapterBase } from "../models/adapter-set.ts";
import type { ErrorData } from "../util/errors.ts";
import type { ReadAdapter } from "./jobs.ts";
import type { ChatSettings, CompletionSettings } from "./requests.ts";

export interface PreparerOptions {
  readonly model: string;
  /** What the base is called in requests. */
  readonly modelName: string;
  readonly chatTemplate?: string;
  /** Adapters that requests may name. */
  readonly adapters: readonly KnownAdapter[];
  /** URL of another module that makes a Preparer (tests). */
  readonly preparer?: string;
}

export interface KnownAdapter {
  readonly name: string;
  readonly path: string;
  /** Differs from load to load, so that a name given anew is read anew. */
  readonly version: number;
}

/** What every request is held to. */
export interface RequestLimits {
  /** Most tokens of a sequence. */
  readonly context: number;
  /** Most new tokens of a choice. */
  readonly maxTokens: number;
}

interface PreparedPrompts {
  /** Absent for the base. */
  readonly adapter?: string;
  readonly prompts: readonly Int32Array[];
}
/** A request whose prompts are token ids, each encoded once whatever `n` is. */
export type Prepared = PreparedChat | PreparedCompletion;
export interface PreparedChat extends PreparedPrompts {
  readonly route: "chat";
  readonly settings: ChatSettings;
  /** Whether tools were shown to the model, so that its text may call them. */
  readonly toolsShown: boolean;
}
export interface PreparedCompletion extends PreparedPrompts {
  readonly route: "completion";
  readonly settings: CompletionSettings;
  /** Of the prompts, where they are to be told again. */
  readonly texts: readonly string[];
  /** Log-probabilities that are asked for of the prompts' own tokens. */
  readonly promptNumbers: number;
}

export interface PreparerFacts {
  readonly hasChatTemplate: boolean;
  /** What counts before the model's own tokenizer and template, in words. */
  readonly notes: readonly string[];
}

export type ToPreparer =
  | {
      readonly kind: "request";
      readonly route: Prepared["route"];
      readonly body: Uint8Array;
      readonly limits: RequestLimits;
      /** Not 0 once the client is gone. */
      readonly gone: Int32Array;
    }
  | { readonly kind: "adapter"; readonly path: string; readonly base: AdapterBase };

/** News that asks for no answer. */
export type PreparerNews =
  | { readonly kind: "known"; readonly adapter: KnownAdapter }
  | { readonly kind: "forgotten"; readonly name: string };

export type PreparerAnswer = Prepared | ReadAdapter;

export type FromPreparer<Answer, Facts> =
  | { readonly kind: "ready"; readonly facts: Facts }
  | { readonly kind: "done"; readonly answer: Answer }
  | { readonly kind: "failed"; readonly error: ErrorData };
