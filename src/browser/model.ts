// A model open in a page: attach, train, generate, save. The page's side, which holds no number of it; everything happens in
// a worker (host/host.ts).

import type { TrainEvent, TrainSummary } from "../train/events.ts";
import { UsageError, UserError } from "../util/errors.ts";
import { Connection } from "./connection.ts";
import type {
  Answer,
  AttachOptions,
  GenerateInput,
  ModelInfo,
  OpenRequest,
  ProgressEvent,
  RowsFile,
  RunInfo,
  RunOptions,
  WireSource,
} from "./protocol.ts";
import { type NamedFiles, namedFiles } from "./sources.ts";

/** Where a model comes from. */
export type ModelSource =
  /** A folder's files; `keep` (true unless given) stores them for the next visit. */
  | { readonly files: NamedFiles | Iterable<File> | FileSystemDirectoryHandle; readonly keep?: boolean }
  /** A folder of files on a server: URL/config.json and so on. Fetched into storage, once. */
  | { readonly url: string | URL }
  /** owner/name[@revision] on the hub, or another server with its interface. */
  | { readonly hub: string; readonly endpoint?: string }
  /** What an earlier visit stored, by its name. */
  | { readonly stored: string };

export interface OpenOptions {
  /** What it is called in storage; by default after the source's last part. */
  readonly name?: string;
  /** "auto" (default): WebGPU where there is an adapter, else plain loops, which are slow. */
  readonly backend?: "auto" | "webgpu" | "reference";
  readonly precision?: "auto" | "fp32" | "fp16";
  readonly onProgress?: (event: ProgressEvent) => void;
  readonly onWarning?: (message: string) => void;
  /** lowrank-worker.js beside lowrank.js, for pages whose security policy allows no worker from a blob. */
  readonly worker?: string | URL;
}

/** Rows: objects, a File as `--data` takes it (.jsonl, .json, .csv, .tsv), or JSON Lines as text. */
export type Rows = readonly object[] | File | string;

export interface TrainOptions extends RunOptions {
  /** Rows to evaluate on, every `evalEvery` steps and at the end. */
  readonly evalRows?: Rows;
  /** Rows that the base knows, to see what training makes it forget. */
  readonly forgetRows?: Rows;
  /** Aborting finishes the step, saves a checkpoint and ends the run; resume() continues it. */
  readonly signal?: AbortSignal;
}

/** A run. Iterating gives its events from the first on; leaving the loop early pauses it. */
export interface BrowserRun extends AsyncIterable<TrainEvent> {
  /** Resolves when it has ended, "done" or "interrupted"; rejects with its error. */
  readonly finished: Promise<TrainSummary>;
  /** Asks it to finish its step, save and end. */
  pause(): Promise<void>;
}

export interface AnswerOptions extends GenerateInput {
  /** Called with each piece of text as it becomes certain, and its prompt's index. */
  readonly onText?: (piece: string, index: number) => void;
}

const hubEndpoint = "https://huggingface.co";
const modelName = /^[\w][\w.-]{0,100}$/;

/** Opens a model. UserError for whatever is missing, unsupported or too large. */
export async function openModel(source: ModelSource, options: OpenOptions = {}): Promise<BrowserModel> {
  const { onProgress, onWarning, worker, backend = "auto", precision } = options;
  const wire = await wireSource(source);
  const name = options.name ?? defaultName(source);
  if (!modelName.test(name))
    throw new UsageError(`openModel(): name: expected a plain name; got ${JSON.stringify(name)}.`);
  // So that the browser does not drop the model when space is short; it may say no.
  await navigator.storage?.persist?.().catch(() => false);
  const connection = Connection.start(worker);
  try {
    const request: OpenRequest = { name, source: wire, backend, precision };
    const info = await connection.ask("open", request, (event) => {
      if (event.type === "progress") onProgress?.(event);
      else onWarning?.(event.message);
    });
    return new BrowserModel(info, connection);
  } catch (error) {
    connection.close();
    throw error;
  }
}

async function wireSource(source: ModelSource): Promise<WireSource> {
  if ("stored" in source) return { kind: "stored" };
  if ("url" in source) return { kind: "url", url: new URL(source.url, document.baseURI).href };
  if ("files" in source)
    return { kind: "files", files: await namedFiles(source.files), keep: source.keep ?? true };
  const [repo = "", revision = "main"] = source.hub.split("@");
  if (!/^[\w.-]+\/[\w.-]+$/.test(repo))
    throw new UsageError(
      `openModel(): hub: expected owner/name[@revision]; got ${JSON.stringify(source.hub)}.`,
    );
  return { kind: "hub", repo, revision, endpoint: source.endpoint ?? hubEndpoint };
}

function defaultName(source: ModelSource): string {
  if ("stored" in source) return source.stored;
  if ("hub" in source) return source.hub.split("@")[0]!.split("/").pop()!;
  if ("url" in source)
    return new URL(source.url, document.baseURI).pathname.split("/").filter(Boolean).pop() ?? "model";
  const { files } = source;
  if ("kind" in files && "name" in files) return String(files.name);
  if (Symbol.iterator in files) {
    const [first] = files as Iterable<File>;
    return first?.webkitRelativePath.split("/")[0] || "model";
  }
  return "model";
}

/** An open model. close() it to free its memory; what it stored stays. */
export class BrowserModel {
  /** Made by openModel(). */
  constructor(
    readonly info: ModelInfo,
    private readonly connection: Connection,
  ) {}

  /** What train() trains: adapters of this kind and size. UsageError where an option is wrong. */
  async attach(options: AttachOptions): Promise<void> {
    await this.connection.ask("attach", options);
  }

  /** Fine-tunes on rows, in a run that is kept and can be resumed. */
  train(rows: Rows, { evalRows, forgetRows, signal, ...options }: TrainOptions = {}): BrowserRun {
    return this.begin(signal, (onEvent) =>
      this.connection.ask(
        "train",
        {
          ...{ options, rows: rowsFile(rows, "rows") },
          ...(evalRows && { evalRows: rowsFile(evalRows, "evalRows") }),
          ...(forgetRows && { forgetRows: rowsFile(forgetRows, "forgetRows") }),
        },
        onEvent,
      ),
    );
  }

  /** Goes on with a run of this or an earlier visit, bit for bit as if it had never stopped; the newest unfinished unless named. */
  resume(
    run?: string,
    { signal, ...options }: RunOptions & { readonly signal?: AbortSignal } = {},
  ): BrowserRun {
    return this.begin(signal, (onEvent) => this.connection.ask("resume", { run, options }, onEvent));
  }

  /** Runs of this model that this browser keeps, the newest first. */
  runs(): Promise<RunInfo[]> {
    return this.connection.ask("runs", undefined);
  }

  async removeRun(run: string): Promise<void> {
    await this.connection.ask("removeRun", { run });
  }

  /** Continues a prompt, or several side by side, with the adapter or (adapter: false) without. */
  generate(prompt: string, options?: AnswerOptions): Promise<Answer>;
  generate(prompts: readonly string[], options?: AnswerOptions): Promise<Answer[]>;
  async generate(prompts: string | readonly string[], { onText, ...options }: AnswerOptions = {}) {
    const list = typeof prompts === "string" ? [prompts] : prompts;
    const tell = ({ piece, index }: { piece: string; index: number }) => onText?.(piece, index);
    const answers = await this.connection.ask("generate", { prompts: list, options }, tell);
    return typeof prompts === "string" ? answers[0]! : answers;
  }

  /** The files of a finished run's adapter as PEFT reads them; the newest run's unless named. */
  async saveAdapter(run?: string): Promise<File[]> {
    const files = await this.connection.ask("adapter", { run });
    return files.map(({ name, content }) => new File([content], name));
  }

  /** Ends the worker and frees all memory. A run that is at work is cut, and can be resumed. */
  close(): void {
    this.connection.close();
  }

  private begin(
    signal: AbortSignal | undefined,
    start: (onEvent: (event: TrainEvent) => void) => Promise<TrainSummary>,
  ): BrowserRun {
    const told: TrainEvent[] = [];
    let wake = () => {};
    let ended = false;
    const pause = async () => void (await this.connection.ask("pause", undefined));
    const onAbort = () => void pause().catch(() => {});
    signal?.addEventListener("abort", onAbort);
    const finished = start((event) => {
      told.push(event);
      wake();
    }).finally(() => {
      ended = true;
      signal?.removeEventListener("abort", onAbort);
      wake();
    });
    if (signal?.aborted) onAbort();
    // Whoever iterates is told of the error there.
    finished.catch(() => {});
    return {
      finished,
      pause,
      async *[Symbol.asyncIterator]() {
        try {
          for (let at = 0; ; ) {
            while (at < told.length) yield told[at++]!;
            if (ended) break;
            await new Promise<void>((resolve) => {
              const before = wake;
              wake = () => {
                before();
                resolve();
              };
            });
          }
          await finished;
        } finally {
          if (!ended) await pause().catch(() => {});
        }
      },
    };
  }
}

function rowsFile(rows: Rows, option: string): RowsFile {
  if (typeof rows === "string") return { name: `${option}.jsonl`, content: new Blob([rows]) };
  if (rows instanceof File) return { name: rows.name, content: rows };
  if (!Array.isArray(rows) || rows.length === 0)
    throw new UserError(`${option}: expected a File, JSON Lines as text, or a non-empty array of rows`);
  return { name: `${option}.jsonl`, content: new Blob([rows.map((row) => JSON.stringify(row)).join("\n")]) };
}
