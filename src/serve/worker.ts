// The engine thread: opens backend and model, takes adapters, and runs passes there, nothing else that lasts: prompts come
// as token ids and adapters as numbers (preparer.ts makes both), and what remains is done in pieces between passes. It
// knows tokens and texts, nothing of HTTP. The other side of the messages is engine-thread.ts.

import { parentPort, workerData } from "node:worker_threads";
import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import { type LoadedAdapter, readAdapter } from "../formats/peft.ts";
import { blockTokens } from "../generate/cache-memory.ts";
import { cachedTokenBytes, chooseCacheType } from "../generate/cache-type.ts";
import { continueWith } from "../generate/continue-text.ts";
import { GenerationEngine } from "../generate/engine.ts";
import type { TokenLogprobs } from "../generate/token-logprobs.ts";
import { freeForCache } from "../memory/serving-memory.ts";
import { type AdapterSet, adapterSetSteps } from "../models/adapter-set.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { OverlaidDecoder } from "../text/overlaid-decoder.ts";
import { Tokenizer } from "../text/tokenizer.ts";
import { errorToData, UserError } from "../util/errors.ts";
import type {
  EngineLoad,
  FromEngine,
  Job,
  JobResult,
  ReadAdapter,
  StartOptions,
  ToEngine,
  TokenReport,
} from "./jobs.ts";
import { RequestError } from "./request-error.ts";
import { promptTeller, type Speech, spell } from "./spell.ts";

interface ServedAdapter {
  readonly set: AdapterSet;
  readonly speech: Speech;
}

const loadEveryMs = 500;

/** What all slots need, or what is free if that is less, and one sequence in any case. */
function usualCacheBytes(
  backend: Backend,
  config: DecoderConfig,
  slots: number,
  context: number,
  tokenBytes: number,
): number {
  const sequence = Math.ceil(context / blockTokens) * blockTokens * tokenBytes;
  const free = freeForCache(backend, config) ?? Number.POSITIVE_INFINITY;
  return Math.max(sequence, Math.min(slots * sequence, free));
}

class EngineHost {
  private readonly adapters = new Map<string, ServedAdapter>();
  private readonly speech: Speech;
  /** Dropped and still in use. */
  private readonly leaving = new Set<AdapterSet>();
  private closing = false;
  private telling = false;
  private readonly signals = new Map<number, { aborted: boolean }>();
  private readonly post: (message: FromEngine) => void;

  private constructor(
    private readonly backend: Backend,
    private readonly model: OpenedModel,
    private readonly engine: GenerationEngine,
    private readonly context: number,
    post: (message: FromEngine) => void,
  ) {
    this.post = post;
    this.speech = { decoder: model.tokenizer, spelt: new Map() };
  }

  static async open(options: StartOptions, post: (message: FromEngine) => void): Promise<EngineHost> {
    const backend = await openBackend(options.backend, options);
    const roomFor: LoadedAdapter[] = [];
    for (const path of options.roomFor) roomFor.push(await readAdapter(path));
    const model = await openModel(backend, options.model, { roomFor });
    const context = Math.min(options.context ?? model.config.maxPositions, model.config.maxPositions);
    const { decoder } = model.loaded;
    const { vocabularySize } = model;
    const { slots } = options;
    const cacheType = chooseCacheType(backend, model.config, options.cacheType, options.precision);
    const tokenBytes = cachedTokenBytes(model.config, cacheType, backend);
    const cacheBytes =
      options.cacheBytes ?? usualCacheBytes(backend, model.config, slots, context, tokenBytes);
    const engine = new GenerationEngine(decoder, {
      ...{ slots, capacity: context, vocabularySize, cacheType, cacheBytes },
    });
    const host = new EngineHost(backend, model, engine, context, post);
    post({
      kind: "ready",
      facts: {
        base: { config: model.config, vocabularySize },
        modelType: model.config.modelType,
        device: backend.description,
        context,
        cache: {
          type: cacheType,
          bytes: engine.cacheUse.blocks * engine.cacheUse.blockBytes,
          tokens: engine.cacheUse.blocks * engine.cacheUse.blockTokens,
          tokenBytes,
        },
        load: host.loadNow,
      },
    });
    return host;
  }

  private get loadNow(): EngineLoad {
    return { ...this.engine.cacheUse, putOff: this.engine.putOff };
  }

  /** Now, and from time to time as long as requests run. */
  private tellLoad(): void {
    this.post({ kind: "load", load: this.loadNow });
    if (this.telling || this.engine.running + this.engine.waiting === 0) return;
    this.telling = true;
    setTimeout(() => {
      this.telling = false;
      if (!this.closing) this.tellLoad();
    }, loadEveryMs).unref();
  }

  async handle(message: ToEngine): Promise<JobResult | undefined> {
    switch (message.kind) {
      case "job":
        return this.run(message.id, message.job);
      case "cancel": {
        const signal = this.signals.get(message.id);
        if (signal) signal.aborted = true;
        return undefined;
      }
      case "load":
        await this.load(message.name, message.read);
        return undefined;
      case "drop":
        await this.drop(message.name);
        return undefined;
      case "close":
        await this.close();
        return undefined;
    }
  }

  private async run(id: number, job: Job): Promise<JobResult> {
    const served = job.adapter === undefined ? undefined : this.adapters.get(job.adapter);
    if (job.adapter !== undefined && !served) {
      const dropped = `the adapter "${job.adapter}" was dropped`;
      throw new RequestError(dropped, "model", 404, "model_not_found");
    }
    const speech = served?.speech ?? this.speech;
    const promptIds = Array.from(job.promptIds);
    const room = this.context - promptIds.length;
    const signal = { aborted: false };
    this.signals.set(id, signal);
    setImmediate(() => this.tellLoad());
    let tokens: TokenReport[] = [];
    const flush = (text: string) => {
      this.post({ kind: "piece", id, piece: { text, tokens } });
      tokens = [];
    };
    const report = (drawn: number, logprobs: TokenLogprobs | undefined) => {
      if (!logprobs) return;
      const top = logprobs.top.map((each) => ({ ...each, token: spell(speech, each.id) }));
      tokens.push({ id: drawn, token: spell(speech, drawn), logprob: logprobs.logprob, top });
    };
    let stops = 0;
    const onPrompt =
      job.promptLogprobs === undefined
        ? undefined
        : promptTeller(speech, job.promptIds, (prompt) =>
            this.post({ kind: "piece", id, piece: { text: "", tokens: [], prompt } }),
          );
    try {
      const {
        tokenIds,
        finishReason,
        cachedTokens = 0,
      } = await continueWith((request) => this.engine.generate(request), speech.decoder, promptIds, {
        maxNewTokens: job.maxNewTokens ?? Math.min(room, job.mostNewTokens),
        sampling: job.sampling,
        stop: job.stop,
        signal,
        adapter: served?.set,
        logprobs: job.logprobs,
        onText: flush,
        onToken: report,
        onStop(drawn, logprobs) {
          if (!job.tellStop) return;
          stops++;
          report(drawn, logprobs);
        },
        promptLogprobs: job.promptLogprobs,
        onPrompt,
      });
      if (tokens.length > 0) flush("");
      const completionTokens = tokenIds.length + stops;
      return { finishReason, promptTokens: promptIds.length, cachedTokens, completionTokens };
    } finally {
      this.signals.delete(id);
      this.tellLoad();
    }
  }

  /** Its numbers go to the device a few milliseconds at a time, and passes run in between. */
  private async load(name: string, { parts, speech }: ReadAdapter): Promise<void> {
    const steps = adapterSetSteps(this.model.loaded.decoder, parts);
    let set: AdapterSet | undefined;
    while (!set) {
      if (this.closing) {
        steps.return(undefined as never);
        throw new UserError("the server is closing");
      }
      const step = steps.next();
      if (step.done) set = step.value;
      else await new Promise((resolve) => setImmediate(resolve));
    }
    const { decoding, eosIds, overlay } = speech;
    const base = decoding ? new Tokenizer(decoding) : this.model.tokenizer;
    const decoder = new OverlaidDecoder(base, overlay, eosIds);
    await this.drop(name);
    this.adapters.set(name, { set, speech: { decoder, spelt: new Map() } });
  }

  /** New requests do not find it any more; its memory goes when the last that uses it has ended. */
  private async drop(name: string): Promise<void> {
    const served = this.adapters.get(name);
    if (!served) return;
    this.adapters.delete(name);
    const { set } = served;
    this.leaving.add(set);
    const free = () => {
      if (!this.leaving.has(set)) return;
      if (this.engine.uses(set)) {
        setTimeout(free, 50).unref();
        return;
      }
      this.leaving.delete(set);
      this.engine.forget(set);
      set.free();
    };
    free();
  }

  private async close(): Promise<void> {
    this.closing = true;
    for (const signal of this.signals.values()) signal.aborted = true;
    await this.engine.close();
    for (const { set } of this.adapters.values()) set.free();
    for (const set of this.leaving) set.free();
    this.leaving.clear();
    await this.model.close();
    this.backend.close();
  }
}

if (parentPort && (workerData as { lowrankServing?: StartOptions } | undefined)?.lowrankServing) {
  const port = parentPort;
  const post = (message: FromEngine) => port.postMessage(message);
  const opening = EngineHost.open((workerData as { lowrankServing: StartOptions }).lowrankServing, post);
  opening.catch((error: unknown) => {
    post({ kind: "failed", error: errorToData(error) });
    port.close();
  });
  port.on("message", (message: ToEngine) => {
    opening
      .then((host) => host.handle(message))
      .then(
        (result) => {
          if (message.kind !== "cancel") post({ kind: "done", id: message.id, result });
          if (message.kind === "close") port.close();
        },
        (error: unknown) => post({ kind: "failed", id: message.id, error: errorToData(error) }),
      );
  });
}
