// The page's side of the worker: requests, their events and replies. A worker that dies fails what waits.

import { BugError, errorFromData, UserError } from "../util/errors.ts";
import type { Method, Methods, Reply, Request } from "./protocol.ts";
import { workerSource } from "./worker-source.ts";

interface Waiting {
  readonly onEvent: (event: unknown) => void;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class Connection {
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;
  private closed = false;

  private constructor(private readonly worker: Worker) {
    worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => this.hear(data));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.fail(new BugError(`lowrank's worker failed: ${event.message || "it could not be started"}`));
    });
  }

  /** `url` names a copy of lowrank-worker.js for pages that allow no workers from blobs (CSP). */
  static start(url?: string | URL): Connection {
    if (typeof Worker === "undefined") throw new UserError("lowrank needs a page of a browser, with workers");
    if (url !== undefined) return new Connection(new Worker(url, { name: "lowrank" }));
    const place = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
    const worker = new Worker(place, { name: "lowrank" });
    const started = new Connection(worker);
    // The browser has read it once the first reply is there.
    worker.addEventListener("message", () => URL.revokeObjectURL(place), { once: true });
    return started;
  }

  ask<M extends Method>(
    method: M,
    args: Methods[M]["args"],
    onEvent: (event: Methods[M]["event"]) => void = () => {},
  ): Promise<Methods[M]["result"]> {
    if (this.closed) return Promise.reject(new UserError("the model was closed"));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const onResult = resolve as (result: unknown) => void;
      this.waiting.set(id, { onEvent: onEvent as (event: unknown) => void, resolve: onResult, reject });
      this.worker.postMessage({ id, method, args } satisfies Request);
    });
  }

  close(): void {
    this.worker.terminate();
    this.fail(new UserError("the model was closed"));
  }

  private hear(reply: Reply): void {
    const one = this.waiting.get(reply.id);
    if (!one) return;
    if (reply.kind === "event") {
      one.onEvent(reply.event);
      return;
    }
    this.waiting.delete(reply.id);
    if (reply.kind === "result") one.resolve(reply.result);
    else one.reject(errorFromData(reply.error));
  }

  private fail(error: Error): void {
    this.closed = true;
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
