// A generation engine that runs as long as its owner lives: requests come and go while others run. A pass carries one
// token of every running request, or as much of the new prompts as fits, laid end to end (turns.ts); a finished or
// cancelled request's slot goes to the next one waiting. Requests may each bring an adapter: rows are grouped by adapter,
// the base is read once for all. Which token is drawn: sampler.ts. All requests known beforehand: generate.ts.

import { Tape } from "../autograd/tape.ts";
import type { Tensor } from "../backend/backend.ts";
import type { AdapterSet } from "../models/adapter-set.ts";
import type { Decoder } from "../models/decoder.ts";
import type { AdapterRows } from "../nn/module.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import { KeyValueCache } from "./kv-cache.ts";
import { Sampler, type Sampling } from "./sampler.ts";
import { type TokenLogprobs, tokenLogprobs } from "./token-logprobs.ts";
import { chooseTurns } from "./turns.ts";

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
  /** Turned true from outside, ends the request before its next token. */
  readonly signal?: { readonly aborted: boolean };
}

export interface GenerationResult {
  /** New tokens, without the stop token. */
  readonly tokenIds: number[];
  readonly finishReason: "stop" | "length";
}

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

/** A run's tokens of the coming pass, in pieces. */
interface RunTokens {
  readonly run: Running;
  readonly ids: readonly number[];
  readonly pieces: readonly number[];
}

const inference = { training: false, seed: 0, pass: 0 };

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
    if (request.maxNewTokens <= 0) return { tokenIds: [], finishReason: "length" };
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

  private dropAborted(): void {
    const gone = (request: GenerationRequest) => this.closed || request.signal?.aborted === true;
    for (const run of this.active.values()) {
      if (gone(run.request)) this.finish(run, "stop");
    }
    for (let i = this.waitingLine.length - 1; i >= 0; i--) {
      const { request, resolve } = this.waitingLine[i]!;
      if (!gone(request)) continue;
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
    const logits = await this.forward(turns);
    const tokens = turns.reduce((sum, { ids }) => sum + ids.length, 0);
    if (this.lastMany === this.passes) this.msPerToken = (now() - startedAt) / tokens;
    const { vocabularySize } = this.decoder.config;
    let row = 0;
    for (const { run, ids } of turns) {
      run.pending = run.pending.slice(ids.length);
      if (run.pending.length > 0) continue;
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
  private choose(): RunTokens[] {
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

  /** Logits after the last token of everyone whose prompt is in with this pass: [n, V]. */
  private async forward(turns: readonly RunTokens[]): Promise<Float32Array> {
    const { decoder, cache } = this;
    const { backend } = decoder;
    const tokens = turns.flatMap(({ run, pieces }) =>
      pieces.map((count) => ({ run, slot: run.slot, count })),
    );
    const { segments, starts } = cache.begin(tokens);
    // A prompt that enters in several passes is as long in the first as in the last.
    const placed = decoder.ropeCache.place(
      tokens.map(({ run, count }, i) => {
        const start = starts[i]!;
        return { start, count, length: Math.max(run.entering.length, start + count) };
      }),
    );
    const places = [...placed.rows];
    const all: number[] = [];
    const prompts = turns.some(({ run }) => !run.entered);
    const lastRows: number[] = [];
    const adapterRows: AdapterRows[] = [];
    const headRows: AdapterRows[] = [];
    for (const { run, ids, pieces } of turns) {
      const start = all.length;
      for (const id of ids) all.push(id);
      if (ids.length === run.pending.length) lastRows.push(all.length - 1);
      if (!run.request.adapter) continue;
      // A piece of a prompt has its adapter's products alone; answers with the same adapter share them.
      let from = start;
      for (const count of pieces) {
        extendRows(adapterRows, run.request.adapter, from, from + count, prompts);
        from += count;
      }
      if (ids.length === run.pending.length)
        extendRows(headRows, run.request.adapter, lastRows.length - 1, lastRows.length);
    }
    const { few, many } = backend.rowsAlike;
    if (prompts && many) {
      // Rows of no sequence: then the device computes these, too, in the way of many rows.
      for (; all.length <= few; all.push(0)) places.push(0);
    }
    const uploads = [all, places, lastRows].map((values) => {
      const buffer = backend.allocate(Math.max(4, 4 * values.length), "workspace");
      backend.write(buffer, encodeFrom(values, "i32"));
      return viewOf(buffer, [values.length], "i32");
    }) as [Tensor, Tensor, Tensor];
    const perLayer = decoder.perLayer?.rows(all);
    try {
      using tape = new Tape(backend, false);
      const hidden = decoder.forward(
        tape,
        { ids: uploads[0], rows: uploads[1], tables: placed.tables, segments, perLayer },
        { context: { ...inference, adapterRows }, cache },
      );
      if (lastRows.length === 0) {
        tape.run();
        return new Float32Array(0);
      }
      const logits = decoder.logits(tape, hidden, uploads[2], { ...inference, adapterRows: headRows });
      tape.run([logits]);
      return decodeToF32(await backend.read(logits.data.buffer), logits.dtype);
    } finally {
      for (const tensor of [...uploads, ...(perLayer ? [perLayer] : [])]) backend.free(tensor.buffer);
    }
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
    if (request.stopIds.includes(id)) {
      this.finish(run, "stop");
      return;
    }
    generated.push(id);
    this.expect(run, id);
    const logprobs = raw && tokenLogprobs(raw, id, request.logprobs!);
    if (request.onToken?.(id, logprobs) === false) this.finish(run, "stop");
    else if (generated.length >= request.maxNewTokens) this.finish(run, "length");
  }
}

/** Adds rows of an adapter; rows that follow its earlier ones join them. */
function extendRows(
  groups: AdapterRows[],
  { layers, replaced, embedding }: AdapterSet,
  start: number,
  end: number,
  apart = false,
): void {
  const before = groups.at(-1);
  if (!apart && before?.layers === layers && before.end === start)
    groups[groups.length - 1] = { ...before, end };
  else groups.push({ start, end, layers, replaced, embedding });
}

/** Resolves after whatever else was waiting to run. */
const nextTurn: () => Promise<void> =
  typeof setImmediate === "function"
    ? () => new Promise((resolve) => setImmediate(resolve))
    : () => new Promise((resolve) => setTimeout(resolve, 0));
