// The threads that make token ids of requests, so that the engine's thread does nothing but passes and the server's own
// nothing but messages: parsing, templates and tokenising happen there, and reading adapters on one of its own. Two
// threads at most take requests, one of them for small bodies only, so that a long text keeps no short one waiting.
// What such a thread does is preparer.ts, its deadline bounded-thread.ts.

import { Worker } from "node:worker_threads";
import type { AdapterBase } from "../models/adapter-set.ts";
import { threadFlags } from "../util/thread-flags.node.ts";
import { BoundedThread } from "./bounded-thread.ts";
import type { ReadAdapter } from "./jobs.ts";
import type {
  KnownAdapter,
  Prepared,
  PreparerFacts,
  PreparerNews,
  PreparerOptions,
  RequestLimits,
  ToPreparer,
} from "./preparing.ts";
import { RequestError } from "./request-error.ts";

export interface PreparersOptions extends Omit<PreparerOptions, "adapters"> {
  /** For one request; default 10 s. */
  readonly deadlineMs?: number;
}

interface Waiting {
  readonly request: Extract<ToPreparer, { kind: "request" }>;
  readonly large: boolean;
  resolve(prepared: Prepared): void;
  reject(error: Error): void;
}

type RequestThread = BoundedThread<ToPreparer, Prepared, PreparerFacts>;

const usualDeadlineMs = 10_000;
/** Gigabytes may have to come from a slow disk. */
const adapterDeadlineMs = 120_000;
const mostAdapterReads = 16;
const largeBytes = 64 * 1024;
/** So long a small request waits before a second thread is started. */
const patienceMs = 50;
const mostThreads = 2;
/** Of JavaScript's heap in one thread: a tokenizer takes some 150 MB, a text of 4 MB some 500. */
const heapMegabytes = 2048;

export class Preparers {
  private readonly known = new Map<string, KnownAdapter>();
  private readonly threads: RequestThread[] = [];
  private readonly reader: BoundedThread<ToPreparer, ReadAdapter, PreparerFacts>;
  private readonly line: Waiting[] = [];
  private reading: Promise<unknown> = Promise.resolve();
  private reads = 0;
  private versions = 0;
  private readonly deadlineMs: number;

  private constructor(private readonly options: PreparersOptions) {
    this.deadlineMs = options.deadlineMs ?? usualDeadlineMs;
    this.reader = new BoundedThread({
      open: this.open,
      deadlineMs: adapterDeadlineMs,
      task: "reading the adapter",
    });
  }

  /** Resolves when the model's tokenizer and template are loaded; UserError where they cannot be. */
  static async start(options: PreparersOptions): Promise<{ preparers: Preparers; facts: PreparerFacts }> {
    const preparers = new Preparers(options);
    const facts = await preparers.addThread().ready();
    return { preparers, facts };
  }

  /**
   * A request's body as token ids. Takes the body's memory. UserError for what the body says wrong, RequestError too for
   * one that takes too long. An aborted signal rejects with its reason, at once.
   */
  prepare(
    route: Prepared["route"],
    body: Uint8Array<ArrayBuffer>,
    limits: RequestLimits,
    signal: AbortSignal,
  ): Promise<Prepared> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const gone = new Int32Array(new SharedArrayBuffer(4));
      const large = body.byteLength > largeBytes;
      const onAbort = () => {
        Atomics.store(gone, 0, 1);
        const at = this.line.indexOf(waiting);
        if (at >= 0) this.line.splice(at, 1);
        reject(signal.reason);
      };
      const over = () => signal.removeEventListener("abort", onAbort);
      const waiting: Waiting = {
        request: { kind: "request", route, body, limits, gone },
        large,
        resolve: (prepared) => {
          over();
          resolve(prepared);
        },
        reject: (error) => {
          over();
          reject(error);
        },
      };
      signal.addEventListener("abort", onAbort);
      this.line.push(waiting);
      this.hand();
      if (!large && this.line.includes(waiting)) setTimeout(() => this.widen(), patienceMs).unref();
    });
  }

  /** Reads an adapter and holds it to the model, on a thread of its own. UserError says what is wrong with it. */
  readAdapter(path: string, base: AdapterBase): Promise<ReadAdapter> {
    if (this.reads >= mostAdapterReads) {
      const many = new RequestError(`${this.reads} adapters are being read already`, null, 429, "overloaded");
      return Promise.reject(many);
    }
    this.reads++;
    const read = this.reading.then(() => this.reader.run({ kind: "adapter", path, base }));
    this.reading = read.then(
      () => this.reads--,
      () => this.reads--,
    );
    return read;
  }

  /** From now on requests may name this adapter. */
  learn(name: string, path: string): void {
    const adapter = { name, path, version: ++this.versions };
    this.known.set(name, adapter);
    this.tell({ kind: "known", adapter });
  }

  forget(name: string): void {
    this.known.delete(name);
    this.tell({ kind: "forgotten", name });
  }

  async close(): Promise<void> {
    await Promise.all([...this.threads, this.reader].map((thread) => thread.close()));
  }

  private readonly open = (): Worker => {
    const { deadlineMs: _, ...options } = this.options;
    const lowrankPreparer: PreparerOptions = { ...options, adapters: [...this.known.values()] };
    return new Worker(
      new URL(this.options.preparer ?? `./preparer${import.meta.url.slice(-3)}`, import.meta.url),
      {
        ...threadFlags(),
        workerData: { lowrankPreparer },
        resourceLimits: { maxOldGenerationSizeMb: heapMegabytes },
        stdout: true,
        stderr: true,
      },
    );
  };

  private tell(news: PreparerNews): void {
    for (const thread of this.threads) thread.tell(news);
  }

  private addThread(): RequestThread {
    const thread: RequestThread = new BoundedThread({
      open: this.open,
      deadlineMs: this.deadlineMs,
      task: "preparing the request (its template and its tokens)",
    });
    this.threads.push(thread);
    return thread;
  }

  private widen(): void {
    if (this.threads.length >= mostThreads || !this.line.some(({ large }) => !large)) return;
    this.addThread();
    this.hand();
  }

  /** Gives what waits to threads that are free; large bodies to the first alone. */
  private hand(): void {
    for (const thread of [...this.threads].reverse()) {
      if (thread.busy) continue;
      const at = this.line.findIndex(({ large }) => !large || thread === this.threads[0]);
      if (at < 0) continue;
      const { request, resolve, reject } = this.line.splice(at, 1)[0]!;
      const transfer = request.body.buffer as ArrayBuffer;
      thread
        .run(request, [transfer])
        .then(resolve, reject)
        .finally(() => this.hand());
    }
  }
}
