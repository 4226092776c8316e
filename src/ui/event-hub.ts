// What has happened, told to every page that listens: numbered, and remembered for a while, so that a page that lost its
// connection goes on where it stopped. Format: html.spec.whatwg.org, server-sent events. Not here: what happens
// (run-book.ts).

import { randomBytes } from "node:crypto";
import { RequestError } from "../serve/request-error.ts";
import type { LiveEvent } from "./api.ts";

/** Events that are remembered: some minutes of a quick run. */
const mostEvents = 4096;
/** And their bytes. */
const mostBytes = 8 * 2 ** 20;
const mostListeners = 32;
/** What may wait for a page that does not read. */
const mostWaitingBytes = 4 * 2 ** 20;
const heartbeatMs = 10_000;

interface Told {
  readonly number: number;
  readonly event: LiveEvent;
  readonly bytes: Uint8Array;
}

interface Listener {
  readonly runs: ReadonlySet<string>;
  send(bytes: Uint8Array): void;
  end(): void;
}

export class EventHub {
  /** Numbers of an earlier server mean nothing to this one. */
  private readonly epoch = randomBytes(4).toString("hex");
  private readonly told: Told[] = [];
  private toldBytes = 0;
  private last = 0;
  private readonly listeners = new Set<Listener>();
  private heartbeat: NodeJS.Timeout | undefined;

  constructor(
    /** Called when the first page begins to listen, and when the last has gone. */
    private readonly onListening: (some: boolean) => void,
  ) {}

  get listening(): number {
    return this.listeners.size;
  }

  /** Runs whose metrics somebody wants. */
  get watched(): ReadonlySet<string> {
    return new Set([...this.listeners].flatMap(({ runs }) => [...runs]));
  }

  tell(event: LiveEvent): void {
    const number = ++this.last;
    const bytes = this.encode(event, number);
    this.told.push({ number, event, bytes });
    this.toldBytes += bytes.byteLength;
    while (this.told.length > mostEvents || this.toldBytes > mostBytes)
      this.toldBytes -= this.told.shift()!.bytes.byteLength;
    for (const listener of this.listeners) if (concerns(event, listener.runs)) listener.send(bytes);
  }

  /** A stream of what happens from now on, or after the event with the id `after` where that is still known. */
  listen(runs: ReadonlySet<string>, after: string | undefined): ReadableStream<Uint8Array> {
    if (this.listeners.size >= mostListeners)
      throw new RequestError(`${mostListeners} pages listen already`, null, 429);
    const missed = this.after(after);
    let listener: Listener | undefined;
    const leave = () => {
      if (!listener || !this.listeners.delete(listener) || this.listeners.size > 0) return;
      clearInterval(this.heartbeat);
      this.onListening(false);
    };
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          const send = (bytes: Uint8Array) => {
            controller.enqueue(bytes);
            if ((controller.desiredSize ?? 0) > 0) return;
            leave();
            controller.error(new Error("the page does not read"));
          };
          const end = () => {
            leave();
            controller.close();
          };
          listener = { runs, send, end };
          this.listeners.add(listener);
          if (this.listeners.size === 1) this.begin();
          send(this.encode({ type: "hello", resumed: missed !== undefined }, this.last));
          for (const { event, bytes } of missed ?? []) if (concerns(event, runs)) send(bytes);
        },
        cancel: leave,
      },
      new ByteLengthQueuingStrategy({ highWaterMark: mostWaitingBytes }),
    );
  }

  /** Ends every stream. */
  close(): void {
    for (const listener of [...this.listeners]) listener.end();
  }

  private begin(): void {
    const beat = new TextEncoder().encode(": still here\n\n");
    this.heartbeat = setInterval(() => {
      for (const listener of [...this.listeners]) listener.send(beat);
    }, heartbeatMs);
    this.heartbeat.unref();
    this.onListening(true);
  }

  /** Undefined where it is not known what came since. */
  private after(id: string | undefined): readonly Told[] | undefined {
    const [, epoch, digits] = /^([0-9a-f]{8})-(\d{1,15})$/.exec(id ?? "") ?? [];
    const number = Number(digits);
    if (epoch !== this.epoch || number > this.last) return undefined;
    const first = this.told[0]?.number ?? this.last + 1;
    return number + 1 < first ? undefined : this.told.filter((one) => one.number > number);
  }

  private encode(event: LiveEvent, number: number): Uint8Array {
    return new TextEncoder().encode(
      `event: ${event.type}\nid: ${this.epoch}-${number}\ndata: ${JSON.stringify(event)}\n\n`,
    );
  }
}

function concerns(event: LiveEvent, runs: ReadonlySet<string>): boolean {
  return (event.type !== "metrics" && event.type !== "rewind") || runs.has(event.id);
}
