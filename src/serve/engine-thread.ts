// The server's handle on the engine thread: starts it, sends jobs, hands out their pieces, and tells when the thread
// is gone. The thread itself is worker.ts.

import { Worker } from "node:worker_threads";
import { BugError, errorFromData } from "../util/errors.ts";
import { threadFlags } from "../util/thread-flags.node.ts";
import {
  type EngineFacts,
  type EngineLoad,
  type FromEngine,
  type Job,
  type JobResult,
  type Piece,
  type ReadAdapter,
  type StartOptions,
  type ToEngine,
  transferOf,
} from "./jobs.ts";

interface Pending {
  resolve(result: JobResult | undefined): void;
  reject(error: Error): void;
  onPiece?(piece: Piece): void;
}

type Unnumbered = ToEngine extends infer M ? (M extends { id: number } ? Omit<M, "id"> : never) : never;

export class EngineThread {
  readonly facts: EngineFacts;
  /** As the thread last told. */
  load: EngineLoad;
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private gone: Error | undefined;

  private constructor(
    private readonly worker: Worker,
    facts: EngineFacts,
  ) {
    this.facts = facts;
    this.load = facts.load;
  }

  /** Resolves when the model is loaded. `onLost` hears of a thread that ended by itself. */
  static async start(options: StartOptions, onLost: (error: Error) => void): Promise<EngineThread> {
    const source = new URL(`./worker${import.meta.url.slice(-3)}`, import.meta.url);
    const worker = new Worker(source, {
      ...threadFlags(),
      workerData: { lowrankServing: options },
      stdout: true,
      stderr: true,
    });
    const facts = await new Promise<EngineFacts>((resolve, reject) => {
      worker.once("message", (message: FromEngine) => {
        if (message.kind === "ready") resolve(message.facts);
        else
          reject(
            message.kind === "failed"
              ? errorFromData(message.error)
              : new BugError("engine thread out of step"),
          );
      });
      worker.once("error", reject);
      worker.once("exit", (code) =>
        reject(new BugError(`The engine thread ended early, with code ${code}.`)),
      );
    });
    const thread = new EngineThread(worker, facts);
    worker.on("message", (message: FromEngine) => thread.receive(message));
    worker.removeAllListeners("error");
    const lost = (error: Error) => {
      if (thread.gone) return;
      thread.gone = error;
      for (const waiting of thread.pending.values()) waiting.reject(error);
      thread.pending.clear();
      onLost(error);
    };
    worker.on("error", lost);
    worker.on("exit", (code) => lost(new BugError(`The engine thread ended, with code ${code}.`)));
    return thread;
  }

  /** Runs a job; aborting the signal ends it early, as a "stop", and one aborted before rejects with its reason. */
  async run(job: Job, onPiece: (piece: Piece) => void, signal?: AbortSignal): Promise<JobResult> {
    signal?.throwIfAborted();
    const id = this.nextId;
    const cancel = () => this.worker.postMessage({ kind: "cancel", id } satisfies ToEngine);
    const answer = this.send({ kind: "job", job }, onPiece);
    signal?.addEventListener("abort", cancel);
    try {
      const result = await answer;
      if (!result) throw new BugError("a job ended without a result");
      return result;
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** Puts an adapter on the device, a piece at a time between passes. Takes the memory of its numbers. */
  async loadAdapter(name: string, read: ReadAdapter): Promise<void> {
    await this.send({ kind: "load", name, read }, undefined, transferOf(read));
  }

  async dropAdapter(name: string): Promise<void> {
    await this.send({ kind: "drop", name });
  }

  /** Ends what runs and the thread. */
  async close(): Promise<void> {
    if (this.gone) return;
    const closing = this.send({ kind: "close" });
    // From here on its end is no loss.
    this.gone = new BugError("the engine thread is closed");
    const exited = new Promise((resolve) => this.worker.once("exit", resolve));
    await Promise.race([closing.catch(() => {}), exited]);
    for (const waiting of this.pending.values()) waiting.reject(this.gone);
    await this.worker.terminate();
  }

  private send(
    message: Unnumbered,
    onPiece?: (piece: Piece) => void,
    transfer: ArrayBuffer[] = [],
  ): Promise<JobResult | undefined> {
    if (this.gone) return Promise.reject(this.gone);
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, onPiece });
      this.worker.postMessage({ ...message, id } as ToEngine, transfer);
    });
  }

  private receive(message: FromEngine): void {
    if (message.kind === "load") {
      this.load = message.load;
      return;
    }
    if (message.kind === "ready" || message.id === undefined) return;
    const waiting = this.pending.get(message.id);
    if (!waiting) return;
    if (message.kind === "piece") {
      waiting.onPiece?.(message.piece);
      return;
    }
    this.pending.delete(message.id);
    if (message.kind === "done") waiting.resolve(message.result);
    else waiting.reject(errorFromData(message.error));
  }
}
