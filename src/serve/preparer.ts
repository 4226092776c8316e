// A preparing thread: makes token ids of requests (prepare-request.ts), or reads adapters and holds them to the model, away
// from the engine and the server. It may be ended at any moment, so it keeps nothing that cannot be read again. The other
// side of the messages is preparers.ts.

import { setPriority } from "node:os";
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { readAdapter } from "../formats/peft.ts";
import { type AdapterBase, adapterParts } from "../models/adapter-set.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { overlayOf } from "../text/overlaid-decoder.ts";
import { errorToData, UserError } from "../util/errors.ts";
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
import { unknownModel } from "./unknown-model.ts";

class Preparer {
  private readonly adapters = new Map<string, KnownAdapter>();
  private readonly voices = new Map<KnownAdapter, Promise<OpenedText>>();
  private readonly base: Promise<OpenedText>;

  constructor(private readonly options: PreparerOptions) {
    for (const adapter of options.adapters) this.adapters.set(adapter.name, adapter);
    const { model, chatTemplate } = options;
    this.base = openText({ model, chatTemplate });
  }

  async facts(): Promise<PreparerFacts> {
    const { template, notes } = await this.base;
    return { hasChatTemplate: template !== undefined, notes };
  }

  hear(news: PreparerNews): void {
    const name = news.kind === "known" ? news.adapter.name : news.name;
    const before = this.adapters.get(name);
    if (before) this.voices.delete(before);
    if (news.kind === "known") this.adapters.set(name, news.adapter);
    else this.adapters.delete(name);
  }

  async answer(task: ToPreparer): Promise<PreparerAnswer> {
    if (task.kind === "adapter") return this.readParts(task.path, task.base);
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
      voice = this.openText(adapter.path);
      this.voices.set(adapter, voice);
    }
    return { adapter: model, voice: await voice };
  }

  private async openText(adapter: string): Promise<OpenedText> {
    const { model, chatTemplate } = this.options;
    return openText({ model, adapter, chatTemplate }, await this.base);
  }

  private async readParts(path: string, base: AdapterBase): Promise<ReadAdapter> {
    const parts = adapterParts(base, await readAdapter(path));
    const [ofBase, { tokenizer, notes }] = [await this.base, await this.openText(path)];
    if (tokenizer.vocabSize > parts.vocabularySize) {
      throw new UserError(
        `${path}: the tokenizer beside the adapter has ${tokenizer.vocabSize} tokens, but embedding and head only ${parts.vocabularySize} rows; they do not belong together`,
      );
    }
    const overlay = overlayOf(ofBase.tokenizer, tokenizer);
    const decoding = overlay ? undefined : tokenizer.decodingFiles;
    return { parts, speech: { eosIds: tokenizer.eosIds, overlay: overlay ?? [], decoding }, notes };
  }
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
        (error: unknown) => post({ kind: "failed", error: errorToData(error) }),
      );
    }
  });
  await preparer.facts().then(
    (facts) => post({ kind: "ready", facts }),
    (error: unknown) => post({ kind: "failed", error: errorToData(error) }),
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
