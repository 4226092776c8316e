// The engine thread: opens backend, model and adapters, and runs generation there, so that the server's own thread
// always answers. It knows tokens and texts, nothing of HTTP. The other side of the messages is engine-thread.ts.

import { parentPort, workerData } from "node:worker_threads";
import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import { beginText } from "../data/render.ts";
import { type LoadedAdapter, readAdapter } from "../formats/peft.ts";
import { continueWith } from "../generate/continue-text.ts";
import { GenerationEngine } from "../generate/engine.ts";
import { KeyValueCache } from "../generate/kv-cache.ts";
import { type AdapterSet, loadAdapterSet } from "../models/adapter-set.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import { loadChatTemplate } from "../text/load-tokenizer.ts";
import { UserError } from "../util/errors.ts";
import type { FromEngine, Job, JobResult, Prompt, StartOptions, ToEngine, TokenReport } from "./jobs.ts";

class EngineHost {
  private readonly adapters = new Map<string, AdapterSet>();
  private readonly signals = new Map<number, { aborted: boolean }>();
  private readonly post: (message: FromEngine) => void;

  private constructor(
    private readonly backend: Backend,
    private readonly model: OpenedModel,
    private readonly template: ChatTemplate | undefined,
    private readonly engine: GenerationEngine,
    private readonly context: number,
    post: (message: FromEngine) => void,
  ) {
    this.post = post;
  }

  static async open(options: StartOptions, post: (message: FromEngine) => void): Promise<EngineHost> {
    const backend = await openBackend(options.backend, options);
    const given = new Map<string, LoadedAdapter>();
    for (const [name, path] of Object.entries(options.adapters)) given.set(name, await readAdapter(path));
    const model = await openModel(backend, options.model, { roomFor: [...given.values()] });
    const source =
      options.chatTemplate === undefined ? undefined : await loadChatTemplate(options.chatTemplate);
    const template = ChatTemplate.of(model.tokenizer, source);
    const context = Math.min(options.context ?? model.config.maxPositions, model.config.maxPositions);
    const { decoder } = model.loaded;
    const engine = new GenerationEngine(decoder, {
      slots: options.slots,
      capacity: context,
      vocabularySize: model.vocabularySize,
    });
    const host = new EngineHost(backend, model, template, engine, context, post);
    for (const [name, adapter] of given) await host.put(name, adapter);
    post({
      kind: "ready",
      facts: {
        modelType: model.config.modelType,
        device: backend.description,
        context,
        cacheBytes: KeyValueCache.sizeBytes(backend, model.config, options.slots, context),
        hasChatTemplate: template !== undefined,
        takesTools: /\btools\b/.test(source ?? model.tokenizer.chatTemplate ?? ""),
      },
    });
    return host;
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
        await this.load(message.name, message.path);
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
    const { tokenizer } = this.model;
    const promptIds = this.encode(job.prompt);
    const room = this.context - promptIds.length;
    if (room < Math.max(1, job.maxNewTokens ?? 1)) {
      throw new ContextError(
        `the prompt has ${promptIds.length} tokens; with ${job.maxNewTokens ?? 1} new ones it does not fit the context of ${this.context} tokens`,
      );
    }
    const adapter = job.adapter === undefined ? undefined : this.adapters.get(job.adapter);
    if (job.adapter !== undefined && !adapter)
      throw new UserError(`the adapter "${job.adapter}" was dropped`);
    const signal = { aborted: false };
    this.signals.set(id, signal);
    let tokens: TokenReport[] = [];
    const flush = (text: string) => {
      this.post({ kind: "piece", id, piece: { text, tokens } });
      tokens = [];
    };
    try {
      const { tokenIds, finishReason } = await continueWith(
        (request) => this.engine.generate(request),
        tokenizer,
        promptIds,
        {
          maxNewTokens: job.maxNewTokens ?? Math.min(room, job.mostNewTokens),
          sampling: job.sampling,
          stop: job.stop,
          signal,
          adapter,
          logprobs: job.logprobs,
          onText: flush,
          onToken: (drawn, logprobs) => {
            if (!logprobs) return;
            const top = logprobs.top.map((each) => ({ token: this.spell(each.id), logprob: each.logprob }));
            tokens.push({ token: this.spell(drawn), logprob: logprobs.logprob, top });
          },
        },
      );
      if (tokens.length > 0) flush("");
      return { finishReason, promptTokens: promptIds.length, completionTokens: tokenIds.length };
    } finally {
      this.signals.delete(id);
    }
  }

  private encode(prompt: Prompt): number[] {
    const { tokenizer } = this.model;
    if (prompt.kind === "ids") return [...prompt.ids];
    if (prompt.kind === "text") return beginText(tokenizer, prompt.text);
    if (!this.template) {
      throw new UserError(
        "this model has no chat template, so it takes no messages; use /v1/completions, or start the server with --chat-template",
      );
    }
    const { messages, tools, variables } = prompt;
    const text = this.template.render(messages, { tools, variables, addGenerationPrompt: true });
    return tokenizer.encode(text, { addSpecialTokens: false });
  }

  /** A token's text as it stands inside a text: SentencePiece drops the space of a first word. */
  private spell(id: number): string {
    const { tokenizer } = this.model;
    const text = (ids: number[]) => tokenizer.decode(ids, { skipSpecialTokens: false });
    return text([id, id]).slice(text([id]).length) || (tokenizer.tokenOf(id) ?? "");
  }

  private async load(name: string, path: string): Promise<void> {
    await this.put(name, await readAdapter(path));
  }

  private async put(name: string, adapter: LoadedAdapter): Promise<void> {
    const { loaded, vocabularySize } = this.model;
    const set = loadAdapterSet(loaded.decoder, adapter, vocabularySize);
    await this.drop(name);
    this.adapters.set(name, set);
  }

  /** New requests do not find it any more; its memory goes when the last that uses it has ended. */
  private async drop(name: string): Promise<void> {
    const set = this.adapters.get(name);
    if (!set) return;
    this.adapters.delete(name);
    const free = () => {
      if (this.engine.uses(set)) setTimeout(free, 50).unref();
      else set.free();
    };
    free();
  }

  private async close(): Promise<void> {
    for (const signal of this.signals.values()) signal.aborted = true;
    await this.engine.close();
    for (const set of this.adapters.values()) set.free();
    await this.model.close();
    this.backend.close();
  }
}

/** Told apart by its name on the other side: the client asked for more than fits. */
class ContextError extends UserError {
  override name = "ContextError";
}

function failure(error: unknown, id?: number): FromEngine {
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return { kind: "failed", id, name, message, stack };
}

if (parentPort && (workerData as { lowrankServing?: StartOptions } | undefined)?.lowrankServing) {
  const port = parentPort;
  const post = (message: FromEngine) => port.postMessage(message);
  const opening = EngineHost.open((workerData as { lowrankServing: StartOptions }).lowrankServing, post);
  opening.catch((error: unknown) => {
    post(failure(error));
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
        (error: unknown) => post(failure(error, message.id)),
      );
  });
}
