// Server-sent events as a body: objects in, "data:" lines out, ended by [DONE]. A reader that goes away, or reads
// nothing for too long, aborts the work behind the stream. Format: html.spec.whatwg.org, server-sent events.

export interface EventStream {
  readonly readable: ReadableStream<Uint8Array>;
  /** Whether anything was sent. */
  readonly began: boolean;
  /** Resolves with the first thing sent, or the end. */
  readonly beginning: Promise<void>;
  send(value: unknown): void;
  end(): void;
}

/** Bytes that may wait for the reader before the clock runs. */
const roomBytes = 64 * 1024;

export function eventStream(options: {
  /** Ends the work behind the stream. */
  readonly leave: () => void;
  readonly stallMs: number;
}): EventStream {
  const { leave, stallMs } = options;
  const encoder = new TextEncoder();
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let stalled: NodeJS.Timeout | undefined;
  let closed = false;
  let began = false;
  let begin!: () => void;
  const beginning = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const close = (act: () => void) => {
    if (closed) return;
    closed = true;
    clearTimeout(stalled);
    act();
    begin();
  };
  const readable = new ReadableStream<Uint8Array>(
    {
      start(given) {
        controller = given;
      },
      pull() {
        clearTimeout(stalled);
        stalled = undefined;
      },
      cancel() {
        close(leave);
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: roomBytes }),
  );
  const write = (text: string) => {
    if (closed) return;
    controller.enqueue(encoder.encode(text));
    began = true;
    begin();
    if ((controller.desiredSize ?? 0) > 0 || stalled) return;
    stalled = setTimeout(
      () =>
        close(() => {
          leave();
          controller.error(new Error("the client does not read"));
        }),
      stallMs,
    );
  };
  return {
    readable,
    get began() {
      return began;
    },
    beginning,
    send: (value) => write(`data: ${JSON.stringify(value)}\n\n`),
    end() {
      write("data: [DONE]\n\n");
      close(() => controller.close());
    },
  };
}
