// The requests at work: how many there may be, and what ends one before its answer does. Made when a body is there, left
// when the answer is whole, or nobody wants it any more.

import { setMaxListeners } from "node:events";
import type { Metrics } from "./metrics.ts";
import { overloaded } from "./read-body.ts";

/** Why a request was ended before its answer: the reason of its signal. */
export class Ended extends Error {
  override name = "Ended";
  constructor(readonly why: "gone" | "timeout" | "closing") {
    super(`the request was ended: ${why}`);
  }
}

export interface RequestAtWork {
  readonly signal: AbortSignal;
  /** Why it was ended, if it was. */
  readonly ended: Ended["why"] | undefined;
  /** The client does not want the answer any more. */
  readonly leave: () => void;
  /** Told of each piece of the answer; counts the time to the first. */
  readonly onPiece: () => void;
  /** The answer is over; may be told twice. */
  readonly finish: () => void;
}

export class AtWork {
  private readonly aborts = new Set<AbortController>();

  constructor(
    private readonly limits: { readonly maxRequests: number; readonly timeoutSeconds: number },
    private readonly metrics: Metrics,
  ) {}

  get count(): number {
    return this.aborts.size;
  }

  /** RequestError (429) where one more would be too many. */
  checkRoom(): void {
    if (this.count >= this.limits.maxRequests) throw overloaded(`${this.count} requests are at work already`);
  }

  /** `client` aborts when the client goes away. */
  begin(client: AbortSignal): RequestAtWork {
    this.checkRoom();
    const startedAt = performance.now();
    const seconds = () => (performance.now() - startedAt) / 1000;
    const abort = new AbortController();
    // One for each choice.
    setMaxListeners(0, abort.signal);
    const leave = () => abort.abort(new Ended("gone"));
    const timer = setTimeout(() => abort.abort(new Ended("timeout")), this.limits.timeoutSeconds * 1000);
    client.addEventListener("abort", leave);
    if (client.aborted) leave();
    this.aborts.add(abort);
    let first = true;
    return {
      signal: abort.signal,
      get ended() {
        return abort.signal.aborted ? (abort.signal.reason as Ended).why : undefined;
      },
      leave,
      onPiece: () => {
        if (first) this.metrics.firstTokenSeconds.observe(seconds());
        first = false;
      },
      finish: () => {
        if (!this.aborts.delete(abort)) return;
        clearTimeout(timer);
        client.removeEventListener("abort", leave);
        this.metrics.requestSeconds.observe(seconds());
        if (abort.signal.aborted) this.metrics.cancelled++;
        // One choice's mistake ends the answer: nobody waits for the others.
        leave();
      },
    };
  }

  endAll(): void {
    for (const abort of this.aborts) abort.abort(new Ended("closing"));
  }
}
