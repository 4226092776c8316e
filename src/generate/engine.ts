// A generation engine that runs as long as its owner lives: requests come and go while others run. A pass carries one
// token of every running request, or as much of the new prompts as fits, laid end to end (turns.ts); a finished or
// cancelled request's slot goes to the next one waiting. Requests may each bring an adapter: rows are grouped by adapter,
// the base is read once for all. The pass itself: forward-turns.ts. Which token is drawn: sampler.ts. All requests known
// beforehand: generate.ts.

import type { AdapterSet } from "../models/adapter-set.ts";
import type { Decoder } from "../models/decoder.ts";
import { UserError } from "../util/errors.ts";
import { forwardTurns, type RunTokens } from "./forward-turns.ts";
import { KeyValueCache } from "./kv-cache.ts";
import { nextTurn } from "./next-turn.ts";
import type { GenerationRequest, GenerationResult } from "./request.ts";
import { Sampler } from "./sampler.ts";
import { tokenLogprobs } from "./token-logprobs.ts";
import { chooseTurns } from "./turns.ts";

export type { GenerationRequest, GenerationResult } from "./request.ts";

export interface EngineOptions {
  /** Requests that run at the same time. */
  readonly slots: number;
  /** Most tokens of one sequence, prompt and answer together. */
  readonly capacity: number;
  /** Most tokens of one pass, but for a prompt's smallest piece; longer prompts enter in several. */
  readonly tokensPerPass?: number;
  /** How long a pass with new prompts may keep those waiting that are answering already. */
  readonly passMs?: number;
  /** Milliseconds; performance.now where absent. */
  readonly clock?: () => number;
  /** Tokens of the base, where the decoder has more rows for its adapters' sake. */
  readonly vocabularySize?: number;
}

interface Running {
  readonly request: GenerationRequest;
  readonly slot: number;
  readonly sampler: Sampler;
  readonly generated: number[];
  /** Tokens that enter together: the prompt, or the whole text where its keys and values are computed anew. */
  entering: readonly number[];
  /** They are in: one token goes in at a time. */
  entered: boolean;
  /** Tokens that are yet to be fed in. */
  pending: readonly number[];
  /** The last pass that it took part in. */
  servedIn: number;
  resolve(result: GenerationResult): void;
  reject(error: unknown): void;
}

const usualTokensPerPass = 2048;
const usualPassMs = 100;

type Waiting = Pick<Running, "request" | "resolve" | "reject">;

export class GenerationEngine {
  private readonly cache: KeyValueCache;
  private readonly free: number[];
  private readonly waitingLine: Waiting[] = [];
  private readonly active = new Map<number, Running>();
  private pumping: Promise<void> | undefined;
  private closed = false;
  /** Of a prompt's tokens in recent passes. */
  private msPerToken = Number.POSITIVE_INFINITY;
  private passes = 0;
  /** The last pass that took in long prompts. */
  private lastMany = 0;

  constructor(
    private readonly decoder: Decoder,
    private readonly options: EngineOptions,
  ) {
    this.cache = new KeyValueCache(decoder.backend, decoder.config, options.slots, options.capacity);
    this.free = Array.from({ length: options.slots }, (_, i) => options.slots - 1 - i);
  }

  /** Requests that run, and that wait for a slot. */
  get running(): number {
    return this.active.size;
  }
  get waiting(): number {
    return this.waitingLine.length;
  }

  /** Whether a running or waiting request uses this adapter, so that it must not be freed. */
  uses(adapter: AdapterSet): boolean {
    const requests = [...this.active.values(), ...this.waitingLine];
    return requests.some(({ request }) => request.adapter === adapter);
  }

  /** Runs a request to its end. Rejects with a UserError for one that cannot run. */
  async generate(request: GenerationRequest): Promise<GenerationResult> {
    this.check(request);
    const scores = request.promptLogprobs !== undefined && request.promptIds.length > 1;
    if (request.maxNewTokens <= 0 && !scores) return { tokenIds: [], finishReason: "length" };
    return new Promise((resolve, reject) => {
      this.waitingLine.push({ request, resolve, reject });
      this.pumping ??= this.pump();
    });
  }

  /** Ends every request, as if each was aborted, and frees the cache. */
  async close(): Promise<void> {
    this.closed = true;
    await this.pumping;
    this.cache.free();
  }

  private vocabularyOf(adapter: AdapterSet | undefined): number {
    return adapter?.vocabularySize ?? this.options.vocabularySize ?? this.decoder.config.vocabularySize;
  }

  private check({ promptIds, maxNewTokens, adapter }: GenerationRequest): void {
    if (this.closed) throw new UserError("the generation engine is closed");
    const vocabularySize = this.vocabularyOf(adapter);
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
    if (promptIds.length + maxNewTokens > this.options.capacity) {
      throw new UserError(
        `a prompt of ${promptIds.length} tokens and ${maxNewTokens} new ones do not fit the context of ${this.options.capacity} tokens`,
      );
    }
  }

  private async pump(): Promise<void> {
    while (this.waitingLine.length > 0 || this.active.size > 0) {
      // Messages, timers and aborts get their turn between passes: on a CPU nothing else would ever wait.
      await nextTurn();
      this.dropAborted();
      this.admit();
      if (this.active.size === 0) continue;
      try {
        await this.pass();
      } catch (error) {
        // What state the pass left the cache in is unknown: nobody that runs can go on.
        for (const run of this.active.values()) {
          this.release(run);
          run.reject(error);
        }
      }
    }
    // In the same breath as the last look at the line: who joins it later starts anew.
    this.pumping = undefined;
  }

  /** Nobody waits for the request any more. */
  private gone({ signal }: GenerationRequest): boolean {
    return this.closed || signal?.aborted === true;
  }

  private dropAborted(): void {
    for (const run of this.active.values()) {
      if (this.gone(run.request)) this.finish(run, "stop");
    }
    for (let i = this.waitingLine.length - 1; i >= 0; i--) {
      const { request, resolve } = this.waitingLine[i]!;
      if (!this.gone(request)) continue;
      this.waitingLine.splice(i, 1);
      resolve({ tokenIds: [], finishReason: "stop" });
    }
  }

  private admit(): void {
    while (this.free.length > 0 && this.waitingLine.length > 0) {
      const next = this.waitingLine.shift()!;
      const slot = this.free.pop()!;
      const { promptIds, sampling } = next.request;
      this.active.set(slot, {
        ...next,
        slot,
        sampler: new Sampler(sampling),
        generated: [],
        entering: promptIds,
        entered: false,
        pending: promptIds,
        servedIn: 0,
      });
    }
  }

  private finish(run: Running, finishReason: GenerationResult["finishReason"]): void {
    this.release(run);
    run.resolve({ tokenIds: run.generated, finishReason });
  }

  private release({ slot }: Running): void {
    this.active.delete(slot);
    this.cache.clear(slot);
    this.free.push(slot);
  }

  /** One forward pass, and one new token for everyone whose prompt is in. */
  private async pass(): Promise<void> {
    const turns = this.choose();
    const now = this.options.clock ?? (() => performance.now());
    const startedAt = now();
    const { decoder, cache } = this;
    const logits = await forwardTurns(decoder, cache, turns, {
      vocabularyOf: ({ adapter }) => this.vocabularyOf(adapter),
      gone: (request) => this.gone(request),
    });
    const tokens = turns.reduce((sum, { ids }) => sum + ids.length, 0);
    if (this.lastMany === this.passes) this.msPerToken = (now() - startedAt) / tokens;
    const { vocabularySize } = this.decoder.config;
    let row = 0;
    for (const { run, ids } of turns) {
      run.pending = run.pending.slice(ids.length);
      if (run.pending.length > 0) continue;
      if (run.request.maxNewTokens <= 0) {
        this.finish(run, "length");
        continue;
      }
      const start = row * vocabularySize;
      this.advance(run, logits.subarray(start, start + this.vocabularyOf(run.request.adapter)));
      row++;
    }
  }

  /** Tokens of prompts that the next pass takes: what passes may have, or, beside answers, what their time allows. */
  private roomForTokens(): number {
    const most = this.options.tokensPerPass ?? usualTokensPerPass;
    const waits = [...this.active.values()].some(({ generated }) => generated.length > 0);
    return waits ? Math.min(most, (this.options.passMs ?? usualPassMs) / this.msPerToken) : most;
  }

  /** Who takes part in the pass and with which tokens, rows of one adapter beside each other. */
  private choose(): RunTokens<Running>[] {
    const candidates = [...this.active.values()].map((running) => ({
      running,
      promptTokens: running.entering.length,
      fedTokens: running.entering.length - running.pending.length,
      answering: running.entered,
      servedIn: running.servedIn,
    }));
    // The prompts of which least is in come first: a long one delays no short one by more than a pass.
    candidates.sort((a, b) => a.fedTokens - b.fedTokens);
    const { rowsAlike } = this.decoder.backend;
    const pass = chooseTurns(candidates, rowsAlike, this.roomForTokens(), this.lastMany);
    this.passes++;
    if (pass.many) this.lastMany = this.passes;
    const turns = pass.turns.map(({ run: { running }, pieces }) => {
      running.servedIn = this.passes;
      const count = pieces.reduce((sum, tokens) => sum + tokens, 0);
      return { run: running, ids: running.pending.slice(0, count), pieces };
    });
    const groups = new Map<AdapterSet | undefined, typeof turns>();
    for (const turn of turns) {
      const { adapter } = turn.run.request;
      groups.set(adapter, [...(groups.get(adapter) ?? []), turn]);
    }
    return [...groups.values()].flat();
  }

  /** What goes in next: the new token, or the whole text once what is kept of it no longer serves. */
  private expect(run: Running, id: number): void {
    const { promptIds } = run.request;
    const { keptUpTo } = this.decoder.config;
    run.entered = keptUpTo === undefined || promptIds.length + run.generated.length !== keptUpTo + 1;
    if (run.entered) {
      run.pending = [id];
      return;
    }
    this.cache.clear(run.slot);
    run.entering = [...promptIds, ...run.generated];
    run.pending = run.entering;
  }

  private advance(run: Running, logits: Float32Array): void {
    const { request, generated } = run;
    const raw = request.logprobs === undefined ? undefined : logits.slice();
    const id = run.sampler.next(logits, () => [...request.promptIds, ...generated]);
    const logprobs = raw && tokenLogprobs(raw, id, request.logprobs!);
    if (request.stopIds.includes(id)) {
      request.onStop?.(id, logprobs);
      this.finish(run, "stop");
      return;
    }
    generated.push(id);
    this.expect(run, id);
    if (request.onToken?.(id, logprobs) === false) this.finish(run, "stop");
    else if (generated.length >= request.maxNewTokens) this.finish(run, "length");
  }
}
