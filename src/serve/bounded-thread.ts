// A thread that does one thing at a time and is held to a deadline: what takes longer, or more memory than it may, is
// ended with its thread, and the next task gets a new one. Who waits for whom is the owner's affair (preparers.ts).

import type { Worker } from "node:worker_threads";
import { BugError, errorFromData } from "../util/errors.ts";
import type { FromPreparer } from "./preparing.ts";
import { RequestError } from "./request-error.ts";

export interface BoundedThreadOptions {
  /** Starts the thread; it answers {kind: "ready"} first, and each task with "done" or "failed". */
  readonly open: () => Worker;
  /** For one task. Starting has no deadline. */
  readonly deadlineMs: number;
  /** What a task is called in refusals. */
  readonly task: string;
}

export class BoundedThread<Task, Answer, Facts> {
  private worker: Worker | undefined;
  private started: Promise<Facts> | undefined;
  private settle: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;
  private taken = false;
  private closed = false;

  constructor(private readonly options: BoundedThreadOptions) {}

  /** Whether a task is at work. */
  get busy(): boolean {
    return this.taken;
  }

  /** Starts the thread where there is none. Rejects with the error that kept it from starting. */
  ready(): Promise<Facts> {
    if (this.closed) return Promise.reject(new BugError("the thread is closed"));
    this.started ??= new Promise<Facts>((resolve, reject) => {
      const worker = this.options.open();
      this.worker = worker;
      const lose = (error: Error) => {
        reject(error);
        if (this.worker !== worker) return;
        this.worker = this.started = undefined;
        this.settle?.reject(error);
      };
      worker.on("message", (message: FromPreparer<Answer, Facts>) => {
        if (this.worker !== worker) return;
        if (message.kind === "ready") resolve(message.facts);
        else if (message.kind === "done") this.settle?.resolve(message.answer);
        else if (this.settle) this.settle.reject(errorFromData(message.error));
        else lose(errorFromData(message.error));
      });
      worker.on("error", (error: NodeJS.ErrnoException) => lose(this.explain(error)));
      worker.on("exit", (code) => lose(new BugError(`a thread ended by itself, with code ${code}`)));
    });
    return this.started;
  }

  /** Does one task; only while none is at work. RequestError for one that took too long or too much memory. */
  async run(task: Task, transfer: readonly ArrayBuffer[] = []): Promise<Answer> {
    if (this.taken) throw new BugError("the thread has a task already");
    this.taken = true;
    let timer: NodeJS.Timeout | undefined;
    try {
      await this.ready();
      return await new Promise<Answer>((resolve, reject) => {
        this.settle = { resolve, reject };
        timer = setTimeout(() => {
          const { task: name, deadlineMs } = this.options;
          const late = new RequestError(
            `${name} took longer than ${deadlineMs / 1000} s and was ended`,
            null,
            400,
            "too_slow",
          );
          void this.end();
          reject(late);
        }, this.options.deadlineMs);
        this.worker!.postMessage(task, transfer);
      });
    } finally {
      clearTimeout(timer);
      this.settle = undefined;
      this.taken = false;
    }
  }

  /** Tells a thread that has started something that asks for no answer. */
  tell(news: unknown): void {
    this.worker?.postMessage(news);
  }

  async close(): Promise<void> {
    this.closed = true;
    this.settle?.reject(new BugError("the thread is closed"));
    await this.end();
  }

  private async end(): Promise<void> {
    const { worker } = this;
    this.worker = this.started = undefined;
    await worker?.terminate();
  }

  private explain(error: NodeJS.ErrnoException): Error {
    if (error.code !== "ERR_WORKER_OUT_OF_MEMORY") return error;
    return new RequestError(
      `${this.options.task} needed more memory than it may have and was ended`,
      null,
      400,
      "too_large",
    );
  }
}
