// Reads a stream of server-sent events over fetch, because EventSource cannot send the server's key. Goes on after the
// last event when the connection breaks. What events mean: run-store.ts.

import { request } from "./server-calls.ts";

export interface StreamHooks {
  onEvent(type: string, data: string): void;
  onState(state: "live" | "lost"): void;
}

const firstWaitMs = 500;
const longestWaitMs = 8000;
/** The server says something every 15 s; a connection that is silent for longer is dead. */
const silenceMs = 40_000;

export interface Following {
  /** Of the last event, for another stream to go on after it. */
  readonly lastId: string | undefined;
  stop(): void;
}

/** Follows `path` until it is stopped, from the event after `lastId` on where that is given. */
export function followStream(path: string, hooks: StreamHooks, lastId?: string): Following {
  const stop = new AbortController();
  const run = async () => {
    let wait = firstWaitMs;
    while (!stop.signal.aborted) {
      const connection = new AbortController();
      const end = () => connection.abort();
      stop.signal.addEventListener("abort", end);
      let alarm = window.setTimeout(end, silenceMs);
      try {
        const headers: Record<string, string> = { accept: "text/event-stream" };
        if (lastId !== undefined) headers["last-event-id"] = lastId;
        const response = await request(path, {
          headers,
          signal: connection.signal,
        });
        hooks.onState("live");
        wait = firstWaitMs;
        for await (const event of eventsOf(response.body!, () => {
          window.clearTimeout(alarm);
          alarm = window.setTimeout(end, silenceMs);
        })) {
          if (stop.signal.aborted) return;
          if (event.id !== undefined) lastId = event.id;
          if (event.data !== "") hooks.onEvent(event.type, event.data);
        }
      } catch {
        // A broken connection and a refused one alike: tried again below.
      } finally {
        window.clearTimeout(alarm);
        stop.signal.removeEventListener("abort", end);
      }
      if (stop.signal.aborted) return;
      hooks.onState("lost");
      await new Promise((resolve) => window.setTimeout(resolve, wait));
      wait = Math.min(2 * wait, longestWaitMs);
    }
  };
  void run();
  return {
    get lastId() {
      return lastId;
    },
    stop: () => stop.abort(),
  };
}

interface StreamEvent {
  type: string;
  data: string;
  id?: string;
}

async function* eventsOf(body: ReadableStream<Uint8Array>, onBytes: () => void): AsyncGenerator<StreamEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let event: StreamEvent = { type: "message", data: "" };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop()!;
    for (const line of lines) {
      if (line === "") {
        yield event;
        event = { type: "message", data: "" };
        continue;
      }
      const [, name, text] = /^([^:]*):? ?(.*)$/s.exec(line)!;
      if (name === "event") event.type = text!;
      else if (name === "data") event.data += event.data === "" ? text : `\n${text}`;
      else if (name === "id") event.id = text!;
    }
  }
}
