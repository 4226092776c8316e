// The worker's side of a model: does what the page asks, one thing at a time, and tells what happens. Requests and replies
// are protocol.ts's.

import { openModelFolder } from "../../formats/model-folder.ts";
import { readFolderConfig } from "../../models/folder-config.ts";
import { openText } from "../../text/open-text.ts";
import { BugError, errorToData, UserError } from "../../util/errors.ts";
import type { AttachOptions, Method, Methods, ModelInfo, Reply, Request, RowsFile } from "../protocol.ts";
import { readWhole, tree } from "../storage/tree.ts";
import { type ChosenDevice, chooseDevice, requireBuffers } from "./device.ts";
import { mountFolders, type StorageState } from "./mount.ts";
import { placeModel } from "./place-model.ts";
import { isAdapterFile, Runs, type Stop } from "./runs.ts";
import { Voice } from "./voice.ts";

interface Held {
  readonly info: ModelInfo;
  readonly folder: string;
  readonly device: ChosenDevice;
  readonly precision: "auto" | "fp32" | "fp16";
  readonly runs: Runs;
}

type Emit<M extends Method> = (event: Methods[M]["event"]) => void;
type Handlers = {
  [M in Method]: (args: Methods[M]["args"], emit: Emit<M>) => Promise<Methods[M]["result"]>;
};

export class Host {
  private held: Held | undefined;
  private attached: AttachOptions = {};
  private voice: Voice | undefined;
  private training: Stop | undefined;
  private storage: StorageState | undefined;
  /** The last thing asked for: the next one waits for it. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly version: string,
    private readonly post: (reply: Reply) => void,
  ) {}

  async take({ id, method, args }: Request): Promise<void> {
    try {
      const handler = this.handlers[method] as (
        args: unknown,
        emit: (event: unknown) => void,
      ) => Promise<unknown>;
      if (!handler) throw new BugError(`the worker knows no ${method}`);
      const work = () => handler.call(this, args, (event) => this.post({ id, kind: "event", event }));
      this.post({ id, kind: "result", result: await (atOnce.has(method) ? work() : this.inTurn(work)) });
    } catch (error) {
      this.post({ id, kind: "error", error: errorToData(error) });
    }
  }

  private readonly handlers: Handlers = {
    open: async (request, emit) => {
      this.storage ??= await mountFolders(this.version);
      const { folder } = await placeModel(request, emit);
      const device = await chooseDevice(request.backend);
      const opened = await openModelFolder(folder);
      try {
        requireBuffers(opened, device);
        const config = await readFolderConfig(opened);
        for (const message of config.notes) emit({ type: "warning", message });
        const text = await openText({ model: folder });
        let parameters = 0;
        for (const { shape } of opened.tensors.values()) parameters += shape.reduce((n, size) => n * size, 1);
        const { adapter: _, ...shown } = device;
        const info: ModelInfo = {
          ...{ name: request.name, architecture: config.modelType, parameters, device: shown },
          ...{ hasChatTemplate: text.template !== undefined, storage: this.storage },
        };
        const { precision = "auto" } = request;
        const runs = new Runs(request.name, folder, device, precision);
        this.held = { info, folder, device, precision, runs };
        return info;
      } finally {
        await opened.close();
      }
    },
    attach: async (options) => {
      this.model.runs.check(options);
      this.attached = options;
      return undefined;
    },
    train: async (args, emit) =>
      this.trainWith((stop) => this.model.runs.start(this.attached, args, emit, stop)),
    resume: async ({ run, options = {} }, emit) =>
      this.trainWith((stop) => this.model.runs.resume(run, options, emit, stop)),
    pause: async () => {
      if (this.training) this.training.interrupted = true;
      return undefined;
    },
    runs: async () => this.model.runs.list(),
    removeRun: async ({ run }) => {
      await this.silence();
      return void (await this.model.runs.remove(run));
    },
    generate: async ({ prompts, options }, emit) => {
      const voice = await this.speak(options.adapter);
      const settled = options.adapter === undefined || options.adapter;
      const given = { ...options, adapter: settled };
      return voice.answer(prompts, given, (index, piece) => emit({ type: "text", index, piece }));
    },
    adapter: async ({ run }) => {
      const { out } = await this.model.runs.finished(run);
      const files: RowsFile[] = [];
      for (const [name, node] of tree.folder(out).children) {
        if (node.kind !== "file" || !isAdapterFile(name)) continue;
        let bytes = await readWhole(node.body);
        // Where the base lies in the worker's file system means nothing to whoever reads the adapter.
        if (name === "adapter_config.json") bytes = namingBase(bytes, this.model.info.name);
        files.push({ name, content: new Blob([bytes]) });
      }
      return files;
    },
  };

  private get model(): Held {
    if (!this.held) throw new BugError("no model is open in this worker");
    return this.held;
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.training) throw new UserError("a run is at work; wait for its end, or pause() it first");
    const next = this.last.then(work);
    this.last = next.catch(() => {});
    return next;
  }

  private async trainWith<T>(work: (stop: Stop) => Promise<T>): Promise<T> {
    // The device's memory is the run's alone.
    await this.silence();
    this.training = { interrupted: false };
    try {
      return await work(this.training);
    } finally {
      this.training = undefined;
    }
  }

  private async silence(): Promise<void> {
    const { voice } = this;
    this.voice = undefined;
    await voice?.close();
  }

  private async speak(adapter: boolean | string | undefined): Promise<Voice> {
    const { folder: model, device, precision, runs } = this.model;
    const named = typeof adapter === "string" ? adapter : undefined;
    const wanted = adapter === true || named !== undefined;
    // The base alone answers from whatever is open.
    if (adapter === false && this.voice) return this.voice;
    const run = await runs.finished(named).catch((error: unknown) => {
      if (wanted) throw error;
      return undefined;
    });
    if (this.voice && this.voice.choice.run?.out === run?.out) return this.voice;
    await this.silence();
    this.voice = await Voice.open({ model, backend: device.backend, precision, run });
    return this.voice;
  }
}

/** What need not wait for a run to end. */
const atOnce: ReadonlySet<Method> = new Set(["pause", "runs"]);

function namingBase(bytes: Uint8Array<ArrayBuffer>, name: string): Uint8Array<ArrayBuffer> {
  const config = JSON.parse(new TextDecoder().decode(bytes));
  const named = { ...config, base_model_name_or_path: name };
  return new TextEncoder().encode(`${JSON.stringify(named, null, 2)}\n`);
}
