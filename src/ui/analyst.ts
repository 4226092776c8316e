// A process of its own for what needs a model or minutes: losses of tokens, samples, spectra, plans. It starts when it is
// asked, yields to everything else on the machine, is ended when it takes too long, and goes when nobody has asked for a
// while, with all memory it has taken; the server stays small and quick beside a run. What it does: analyst-process.ts.

import { type ChildProcess, fork } from "node:child_process";
import { constants, setPriority } from "node:os";
import { fileURLToPath } from "node:url";
import { RequestError } from "../serve/request-error.ts";
import { BugError, type ErrorData, errorFromData } from "../util/errors.ts";
import type { AnalystTasks } from "./analyst-tasks.ts";

export interface AnalystLimits {
  /** How long a task may take, and how long the process stays without one. */
  readonly taskMs: number;
  readonly idleMs: number;
  /** JavaScript's memory, in MB; the engine's is asked about before weights are read. */
  readonly heapMB: number;
  /** Tasks at work and waiting. */
  readonly mostWaiting: number;
}

const usualLimits: AnalystLimits = { taskMs: 180_000, idleMs: 60_000, heapMB: 2048, mostWaiting: 8 };

export interface AnalystReply {
  readonly number: number;
  readonly result?: unknown;
  readonly error?: ErrorData;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly name: string;
  readonly job: unknown;
  readonly signal: AbortSignal;
}

export class Analyst {
  private child: ChildProcess | undefined;
  private readonly queue: Waiting[] = [];
  private atWork:
    | { readonly number: number; readonly waiting: Waiting; readonly timer: NodeJS.Timeout }
    | undefined;
  private idle: NodeJS.Timeout | undefined;
  private count = 0;
  private closed = false;

  constructor(private readonly limits: AnalystLimits = usualLimits) {}

  /** Does a task, after those that were asked for before it; one whose asker has gone is not begun. */
  ask<Name extends keyof AnalystTasks>(
    name: Name,
    job: Parameters<AnalystTasks[Name]>[0],
    signal: AbortSignal,
  ): ReturnType<AnalystTasks[Name]> {
    const asked = new Promise((resolve, reject) => {
      if (this.closed) throw new RequestError("the server is closing", null, 503);
      if (this.queue.length + (this.atWork ? 1 : 0) >= this.limits.mostWaiting)
        throw new RequestError("too much is asked at once; try again in a while", null, 429);
      this.queue.push({ resolve, reject, name, job, signal });
      this.next();
    });
    return asked as ReturnType<AnalystTasks[Name]>;
  }

  close(): void {
    this.closed = true;
    for (const { reject } of this.queue.splice(0))
      reject(new RequestError("the server is closing", null, 503));
    this.end(new RequestError("the server is closing", null, 503));
  }

  private next(): void {
    if (this.atWork) return;
    clearTimeout(this.idle);
    const waiting = this.queue.shift();
    if (!waiting) {
      this.idle = setTimeout(() => this.end(), this.limits.idleMs);
      this.idle.unref();
      return;
    }
    if (waiting.signal.aborted) {
      waiting.reject(new RequestError("the request was given up"));
      this.next();
      return;
    }
    const child = this.started();
    const number = ++this.count;
    const seconds = Math.round(this.limits.taskMs / 1000);
    const timer = setTimeout(
      () => this.end(new LateError(`this took longer than ${seconds} s and was ended`)),
      this.limits.taskMs,
    );
    this.atWork = { number, waiting, timer };
    child.send({ number, name: waiting.name, job: waiting.job }, (error) => {
      if (error && this.child === child)
        this.end(new BugError(`the analysing process hears nothing: ${error.message}`));
    });
  }

  private started(): ChildProcess {
    if (this.child) return this.child;
    const path = fileURLToPath(new URL(`./analyst-process${import.meta.url.slice(-3)}`, import.meta.url));
    const child = fork(path, [], {
      execArgv: [`--max-old-space-size=${this.limits.heapMB}`],
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      serialization: "advanced",
    });
    this.child = child;
    // A run on the same machine comes first.
    if (child.pid !== undefined) {
      try {
        setPriority(child.pid, constants.priority.PRIORITY_LOW);
      } catch {
        // Already gone, which its exit tells.
      }
    }
    child.on("message", (reply: AnalystReply) => this.take(reply));
    child.once("error", () => this.lost(child, "it could not be started"));
    child.once("exit", (code, signal) => this.lost(child, signal ?? `code ${code}`));
    return child;
  }

  private take({ number, result, error }: AnalystReply): void {
    if (this.atWork?.number !== number) return;
    const { waiting, timer } = this.atWork;
    clearTimeout(timer);
    this.atWork = undefined;
    if (error) waiting.reject(errorFromData(error));
    else waiting.resolve(result);
    this.next();
  }

  private lost(child: ChildProcess, how: string): void {
    if (this.child !== child) return;
    this.child = undefined;
    // The system ends who takes the last of the memory, and Node itself who takes its heap.
    this.fail(
      new RequestError(
        `the analysing process ended (${how}): memory may be short on this machine`,
        null,
        503,
      ),
    );
  }

  private end(error?: Error): void {
    const { child } = this;
    this.child = undefined;
    child?.kill("SIGKILL");
    if (error) this.fail(error);
  }

  private fail(error: Error): void {
    if (!this.atWork) return;
    const { waiting, timer } = this.atWork;
    clearTimeout(timer);
    this.atWork = undefined;
    waiting.reject(error);
    if (!this.closed) this.next();
  }
}

/** A task that took too long. */
export class LateError extends Error {
  override name = "LateError";
}
