// A preparing thread: makes token ids of requests (prepare-request.ts), or reads adapters and holds them to the model, away
// from the engine and the server. It may be ended at any moment, so it keeps nothing that cannot be read again. The other
// side of the messages is preparers.ts.

import { setPriority } from "node:os";
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { readAdapter } from "../formats/peft.ts";
import { type AdapterBase, adapterParts } from "../models/adapter-set.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import { loadChatTemplate, loadTokenizer } from "../text/load-tokenizer.ts";
import { type ReadAdapter, transferOf } from "./jobs.ts";
import { prepareRequest, type Voice } from "./prepare-request.ts";
import type {
  FromPreparer,
  KnownAdapter,
  PreparerAnswer,
  PreparerFacts,
  PreparerNews,
  PreparerOptions,
  ToPreparer,
} from "./preparing.ts";
import { RequestError } from "./request-error.ts";
import { sendError } from "./sent-errors.ts";
import { unknownModel } from "./unknown-model.ts";

class Preparer {
  private readonly adapters = new Map<string, KnownAdapter>();
  private readonly voices = new Map<KnownAdapter, Promise<Voice>>();
  private readonly base: Promise<Voice>;

  constructor(private readonly options: PreparerOptions) {
    for (const adapter of options.adapters) this.adapters.set(adapter.name, adapter);
    this.base = this.readBase();
  }

  async facts(): Promise<PreparerFacts> {
    return { hasChatTemplate: (await this.base).template !== undefined };
  }

  hear(news: PreparerNews): void {
    const name = news.kind === "known" ? news.adapter.name : news.name;
    const before = this.adapters.get(name);
    if (before) this.voices.delete(before);
    if (news.kind === "known") this.adapters.set(name, news.adapter);
    else this.adapters.delete(name);
  }

  async answer(task: ToPreparer): Promise<PreparerAnswer> {
    if (task.kind === "adapter") return readParts(task.path, task.base);
    const { route, body, limits, gone } = task;
    return prepareRequest(route, body, {
      limits,
      find: (model) => this.find(model),
      check() {
        if (Atomics.load(gone, 0) !== 0) throw new RequestError("the client is gone");
      },
    });
  }

  private async find(model: string): Promise<{ adapter: string | undefined; voice: Voice }> {
    if (model === this.options.modelName) return { adapter: undefined, voice: await this.base };
    const adapter = this.adapters.get(model);
    if (!adapter) throw unknownModel(model, [this.options.modelName, ...this.adapters.keys()]);
    let voice = this.voices.get(adapter);
    if (!voice) {
      voice = this.base;
      this.voices.set(adapter, voice);
    }
    return { adapter: model, voice: await voice };
  }

  private async readBase(): Promise<Voice> {
    const { model, chatTemplate } = this.options;
    const tokenizer = await loadTokenizer(model);
    const source = chatTemplate === undefined ? undefined : await loadChatTemplate(chatTemplate);
    const template = ChatTemplate.of(tokenizer, source);
    return { tokenizer, template, takesTools: /\btools\b/.test(source ?? tokenizer.chatTemplate ?? "") };
  }
}

async function readParts(path: string, base: AdapterBase): Promise<ReadAdapter> {
  return { parts: adapterParts(base, await readAdapter(path)), speech: {} };
}

function memoryOf(answer: PreparerAnswer): ArrayBuffer[] {
  if ("parts" in answer) return transferOf(answer);
  return answer.prompts.map(({ buffer }) => buffer as ArrayBuffer);
}

async function serve(port: MessagePort, preparer: Preparer): Promise<void> {
  const post = (message: FromPreparer<PreparerAnswer, PreparerFacts>, transfer: ArrayBuffer[] = []) =>
    port.postMessage(message, transfer);
  port.on("message", (message: ToPreparer | PreparerNews) => {
    if (message.kind === "known" || message.kind === "forgotten") preparer.hear(message);
    else {
      preparer.answer(message).then(
        (answer) => post({ kind: "done", answer }, memoryOf(answer)),
        (error: unknown) => post({ kind: "failed", error: sendError(error) }),
      );
    }
  });
  await preparer.facts().then(
    (facts) => post({ kind: "ready", facts }),
    (error: unknown) => post({ kind: "failed", error: sendError(error) }),
  );
}

const given = (workerData as { lowrankPreparer?: PreparerOptions } | undefined)?.lowrankPreparer;
if (parentPort && given) {
  // On Linux a thread's alone: whoever makes tokens gives way to whoever computes them.
  if (process.platform === "linux") {
    try {
      setPriority(0, 5);
    } catch {
      // A sandbox may forbid it; then all threads weigh the same.
    }
  }
  void serve(parentPort, new Preparer(given));
}
