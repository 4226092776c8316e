// A generation engine that runs as long as its owner lives: requests come and go while others run. A pass carries one
// token of every running request, or as much of the new prompts as fits, laid end to end (turns.ts); a finished or
// cancelled request's slot goes to the next one waiting. Requests may each bring an adapter: rows are grouped by adapter,
// the base is read once for all. What prompts begin with is computed once (kv-cache.ts). Where its memory ends, the request
// that came last is put off: its text enters again later, in the steps in which it came to be, so that its answer has the
// same bits. The pass itself: forward-turns.ts. Which token is drawn: sampler.ts. All requests known beforehand: generate.ts.

import type { AdapterSet } from "../models/adapter-set.ts";
import type { Decoder } from "../models/decoder.ts";
import { UserError } from "../util/errors.ts";
import type { CacheType } from "./cache-type.ts";
import { forwardTurns, PassMemory, type RunTokens } from "./forward-turns.ts";
import { type CacheUse, KeyValueCache } from "./kv-cache.ts";
import { nextTurn } from "./next-turn.ts";
import { checkRequest, type GenerationRequest, type GenerationResult } from "./request.ts";
import { newRun, type Running } from "./running.ts";
import { type TokenLogprobs, tokenLogprobs } from "./token-logprobs.ts";
import { chooseTurns, sharedPiece, sharedPieces } from "./turns.ts";

export type { GenerationRequest, GenerationResult } from "./request.ts";

export interface EngineOptions {
  /** Requests that run at the same time. */
  readonly slots: number;
  /** Most tokens of one sequence, prompt and answer together. */
  readonly capacity: number;
  /** What keys and values are stored as; f32 where absent. */
  readonly cacheType?: CacheType | "auto";
  /** What keys and values may take; as much as all slots need where absent. */
  readonly cacheBytes?: number;
  /** Most tokens of one pass, but for a prompt's smallest piece; longer prompts enter in several. */
  readonly tokensPerPass?: number;
  /** How long a pass with new prompts may keep those waiting that are answering already. */
  readonly passMs?: number;
  /** Milliseconds; performance.now where absent. */
  readonly clock?: () => number;
  /** Tokens of the base, where the decoder has more rows for its adapters' sake. */
  readonly vocabularySize?: number;
}

const usualTokensPerPass = 2048;
const usualPassMs = 100;

export class GenerationEngine {
  private readonly cache: KeyValueCache;
  private readonly memory: PassMemory;
  private readonly free: number[];
  private readonly waitingLine: Running[] = [];
  /** By slot, in the order in which they were admitted. */
  private readonly active = new Map<number, Running>();
  private pumping: Promise<void> | undefined;
  private closed = false;
  /** Of a prompt's tokens in recent passes. */
  private msPerToken = Number.POSITIVE_INFINITY;
  private passes = 0;
  /** The last pass that took in long prompts. */
  private lastMany = 0;
  private puttingOff = 0;

  constructor(
    private readonly decoder: Decoder,
    private readonly options: EngineOptions,
  ) {
    const { slots, capacity, cacheType: type, cacheBytes: memoryBytes } = options;
    this.cache = new KeyValueCache(decoder.backend, decoder.config, { slots, capacity, type, memoryBytes });
    this.memory = new PassMemory(decoder.backend);
    this.free = Array.from({ length: options.slots }, (_, i) => options.slots - 1 - i);
  }

  /** Requests that run, and that wait for a slot. */
  get running(): number {
    return this.active.size;
  }
  get waiting(): number {
    return this.waitingLine.length;
  }

  /** How often a request was put off, its keys and values to be computed anew. */
  get putOff(): number {
    return this.puttingOff;
  }
  get cacheUse(): CacheUse {
    return this.cache.use;
  }

  /** Gives up what is kept of an adapter's prompts. Nobody uses the adapter any more. */
  forget(adapter: AdapterSet): void {
    this.cache.forget(adapter);
  }

  /** Whether a running or waiting request uses this adapter, so that it must not be freed. */
  uses(adapter: AdapterSet): boolean {
    const requests = [...this.active.values(), ...this.waitingLine];
    return requests.some(({ request }) => request.adapter === adapter);
  }

  /** Runs a request to its end. Rejects with a UserError for one that cannot run. */
  async generate(request: GenerationRequest): Promise<GenerationResult> {
    if (this.closed) throw new UserError("the generation engine is closed");
    checkRequest(request, this.vocabularyOf(request.adapter), this.options.capacity);
    const scores = request.promptLogprobs !== undefined && request.promptIds.length > 1;
    if (request.maxNewTokens <= 0 && !scores) return { tokenIds: [], finishReason: "length" };
    return new Promise((resolve, reject) => {
      this.waitingLine.push(newRun(request, resolve, reject));
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
        for (const run of [...this.active.values()]) {
          this.release(run);
          run.reject(error);
        }
        this.cache.forgetUnused();
        this.memory.free();
      }
    }
    // While nobody runs, weights may be put elsewhere.
    this.memory.free();
    // In the same breath as the last look at the line: who joins it later starts anew.
    this.pumping = undefined;
  }

  /** Nobody waits for the request any more. */
  private gone({ signal }: GenerationRequest): boolean {
    return this.closed || signal?.aborted === true;
  }

  private dropAborted(): void {
    for (const run of [...this.active.values()]) {
      if (this.gone(run.request)) this.finish(run, "stop");
    }
    for (let i = this.waitingLine.length - 1; i >= 0; i--) {
      const { request, resolve, generated } = this.waitingLine[i]!;
      if (!this.gone(request)) continue;
      this.waitingLine.splice(i, 1);
      resolve({ tokenIds: generated, finishReason: "stop" });
    }
  }

  private admit(): void {
    while (this.free.length > 0 && this.waitingLine.length > 0 && this.fits(this.waitingLine[0]!)) {
      const next = this.waitingLine.shift()!;
      next.slot = this.free.pop()!;
      this.active.set(next.slot, next);
    }
  }

  /** Whether there are blocks for its text so far and a token, beside what those that run need for theirs. */
  private fits(next: Running): boolean {
    if (this.active.size === 0) return true;
    const { cache } = this;
    const tokensOf = ({ entering, following }: Running) => entering.length + following.length;
    let promised = 0;
    for (const run of this.active.values()) promised += cache.lacking(run.slot, tokensOf(run));
    const slot = this.free.at(-1)!;
    const room = cache.availableBlocks - promised;
    const needed = cache.lacking(slot, Math.min(this.options.capacity, tokensOf(next) + 1));
    if (needed <= room || !this.shares(next)) return needed <= room;
    return (
      needed -
        cache.heldBlocksOf(
          next.request.adapter,
          sharedPieces(next.entering, this.decoder.backend.rowsAlike),
        ) <=
      room
    );
  }

  /** Whether it takes over and leaves what others' prompts begin with, which one RoPE table must serve. */
  private shares({ request, entering }: Running): boolean {
    if (!this.cache.shares || entering.length > this.decoder.ropeCache.oneTable) return false;
    // Whoever asks for its prompt's own log-probabilities needs all of its rows.
    return request.promptLogprobs === undefined;
  }

  private finish(run: Running, finishReason: GenerationResult["finishReason"]): void {
    this.release(run);
    const { generated, cachedTokens } = run;
    run.resolve({ tokenIds: generated, finishReason, ...(cachedTokens > 0 ? { cachedTokens } : {}) });
  }

  private release(run: Running): void {
    const { slot } = run;
    this.active.delete(slot);
    this.cache.clear(slot);
    this.free.push(slot);
    run.slot = -1;
  }

  /** One forward pass, and one new token for everyone whose prompt is in. */
  private async pass(): Promise<void> {
    const turns = this.secure(this.choose());
    if (turns.length === 0) return;
    const now = this.options.clock ?? (() => performance.now());
    const startedAt = now();
    const { decoder, cache } = this;
    const drawable = await forwardTurns(decoder, cache, turns, this.memory, {
      vocabularyOf: ({ adapter }) => this.vocabularyOf(adapter),
      gone: (request) => this.gone(request),
      greedy: (run) => this.greedy(run as Running),
    });
    const tokens = turns.reduce((sum, { ids }) => sum + ids.length, 0);
    if (this.lastMany === this.passes) this.msPerToken = (now() - startedAt) / tokens;
    const { vocabularySize } = this.decoder.config;
    let row = 0;
    for (const turn of turns) this.leave(turn);
    for (const { run } of turns) {
      const fed = cache.lengthOf(run.slot);
      run.told = fed + 1;
      if (fed < run.entering.length + run.following.length) continue;
      if (run.request.maxNewTokens <= 0) {
        this.finish(run, "length");
        continue;
      }
      if ("likeliest" in drawable) this.advance(run, drawable.likeliest[row++]!);
      else {
        const start = row++ * vocabularySize;
        const end = start + this.vocabularyOf(run.request.adapter);
        this.draw(run, drawable.logits.subarray(start, end));
      }
    }
  }

  /** Whole pieces of a prompt that this pass took in are there for others. */
  private leave({ run, pieces }: RunTokens<Running>): void {
    const { piece } = this.decoder.backend.rowsAlike;
    let start = this.cache.lengthOf(run.slot) - pieces.reduce((sum, tokens) => sum + tokens, 0);
    if (start >= run.entering.length || !this.cache.shares) return;
    if (run.entering.length > this.decoder.ropeCache.oneTable) return;
    for (const tokens of pieces) {
      const ids = run.entering.slice(start, start + tokens);
      if (tokens === piece && start % piece === 0)
        this.cache.publish(run.slot, run.request.adapter, start, ids);
      start += tokens;
    }
  }

  /** Those of the turns that have blocks for their tokens; where there are none left, who came last is put off. */
  private secure(turns: readonly RunTokens<Running>[]): RunTokens<Running>[] {
    for (const { run, ids } of turns) {
      while (run.slot >= 0 && !this.cache.reserve(run.slot, this.cache.lengthOf(run.slot) + ids.length)) {
        const last = [...this.active.values()].at(-1)!;
        const alone = this.active.size === 1;
        this.release(last);
        if (alone) last.reject(new UserError("no memory is left for the keys and values of this request"));
        else {
          this.puttingOff++;
          if (last.generated.length === 0) last.cachedTokens = 0;
          this.waitingLine.unshift(last);
        }
      }
    }
    return turns.filter(({ run }) => run.slot >= 0);
  }

  /** Tokens of prompts that the next pass takes: what passes may have, or, beside answers, what their time allows. */
  private roomForTokens(): number {
    const most = this.options.tokensPerPass ?? usualTokensPerPass;
    const waits = [...this.active.values()].some(({ generated }) => generated.length > 0);
    return waits ? Math.min(most, (this.options.passMs ?? usualPassMs) / this.msPerToken) : most;
  }

  /** Who takes part in the pass and with which tokens, rows of one adapter beside each other. */
  private choose(): RunTokens<Running>[] {
    const candidates = this.unlike().map((running) => {
      const [promptTokens, fedTokens] = [running.entering.length, this.cache.lengthOf(running.slot)];
      return {
        running,
        promptTokens,
        fedTokens,
        answering: fedTokens >= promptTokens,
        servedIn: running.servedIn,
      };
    });
    // The prompts of which least is in come first: a long one delays no short one by more than a pass.
    candidates.sort((a, b) => a.fedTokens - b.fedTokens);
    const { rowsAlike } = this.decoder.backend;
    const pass = chooseTurns(candidates, rowsAlike, this.roomForTokens(), this.lastMany);
    this.passes++;
    if (pass.prompts) this.lastMany = this.passes;
    const turns = pass.turns.map(({ run: { running }, pieces }) => {
      running.servedIn = this.passes;
      const { entering, following, request } = running;
      const fed = this.cache.lengthOf(running.slot);
      const end = fed + pieces.reduce((sum, tokens) => sum + tokens, 0);
      const entered = fed >= entering.length;
      const ids = entered
        ? following.slice(fed - entering.length, end - entering.length)
        : entering.slice(fed, end);
      const draws = end === entering.length + following.length && request.maxNewTokens > 0;
      return { run: running, ids, pieces, draws };
    });
    const groups = new Map<AdapterSet | undefined, typeof turns>();
    for (const turn of turns) {
      const { adapter } = turn.run.request;
      groups.set(adapter, [...(groups.get(adapter) ?? []), turn]);
    }
    return [...groups.values()].flat();
  }

  /**
   * Those that run, once each has taken over what there is of its prompt, without those whose next piece another of them has
   * before it, too: they wait for that.
   */
  private unlike(): Running[] {
    const { cache, decoder } = this;
    const next = new Set<string>();
    return [...this.active.values()].filter((run) => {
      if (!this.shares(run)) return true;
      const { slot, entering } = run;
      const { adapter } = run.request;
      for (;;) {
        const ids = sharedPiece(entering, cache.lengthOf(slot), decoder.backend.rowsAlike);
        if (!ids) return true;
        if (cache.adopt(slot, adapter, ids)) {
          if (run.generated.length === 0) run.cachedTokens += ids.length;
          continue;
        }
        const key = `${cache.placeOf(slot, adapter)}:${cache.lengthOf(slot)}:${ids.join()}`;
        const isFirst = !next.has(key);
        next.add(key);
        return isFirst;
      }
    });
  }

  /** What goes in next: the new token, or the whole text once what is kept of it no longer serves. */
  private expect(run: Running, id: number): void {
    const { promptIds } = run.request;
    const { keptUpTo } = this.decoder.config;
    if (keptUpTo === undefined || promptIds.length + run.generated.length !== keptUpTo + 1) {
      run.following.push(id);
      return;
    }
    this.cache.clear(run.slot);
    run.entering = [...promptIds, ...run.generated];
    run.following = [];
  }

  /** The likeliest of all the model's tokens is what it goes on with. */
  private greedy({ request, sampler }: Running): boolean {
    const all = this.vocabularyOf(request.adapter) === this.decoder.config.vocabularySize;
    return all && sampler.greedy && request.logprobs === undefined;
  }

  private draw(run: Running, logits: Float32Array): void {
    const { request, generated } = run;
    const raw = request.logprobs === undefined ? undefined : logits.slice();
    const id = run.sampler.next(logits, () => [...request.promptIds, ...generated]);
    this.advance(run, id, raw && tokenLogprobs(raw, id, request.logprobs!));
  }

  private advance(run: Running, id: number, logprobs?: TokenLogprobs): void {
    const { request, generated } = run;
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
