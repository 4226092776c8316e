// Bodies of requests from the socket, held to their limits before their bytes are taken: one body's size, the bytes and
// the number of all that are being read, and how long a sender may pause. What the bytes say is request-body.ts.

import { RequestError } from "./request-error.ts";

export interface BodyLimits {
  readonly maxBodyBytes: number;
  /** Bodies that may be on their way at one time. */
  readonly maxBodies: number;
  /** How long nothing may come. */
  readonly stallMs: number;
}

export interface IncomingBody {
  /** The content-length header, where there is one. */
  readonly declared: string | undefined;
  /** Begins to take bytes: asked for only when they are wanted. */
  readonly open: () => AsyncIterable<Uint8Array>;
  /** Most bytes of this body; the limit of all where absent. */
  readonly most?: number;
}

export interface ReadBody {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Tells that the bytes are no longer held. */
  release(): void;
}

/** Told when the client went away in the middle. */
export class ClientGone extends Error {
  override name = "ClientGone";
}

/** Bodies up to here are counted by their number alone, so that large ones keep no short request out. */
const smallBytes = 64 * 1024;
/** All larger bodies together: so many of the largest. */
const mostLarge = 16;

export class BodyReader {
  private bodies = 0;
  private heldBytes = 0;

  constructor(private readonly limits: BodyLimits) {}

  /** RequestError (413, 429, 408) over a limit, where it can be before the first byte; ClientGone. */
  async read({ declared, open, most = this.limits.maxBodyBytes }: IncomingBody): Promise<ReadBody> {
    const { maxBodies, stallMs } = this.limits;
    const expected = declared === undefined ? 0 : Number(declared);
    if (!(expected <= most)) throw tooLarge(most);
    if (this.bodies >= maxBodies) throw overloaded(`${this.bodies} bodies are being read already`);
    const hold = this.hold(expected);
    this.bodies++;
    const received: Uint8Array[] = [];
    let size = 0;
    const iterator = open()[Symbol.asyncIterator]();
    try {
      for (;;) {
        const { done, value } = await withinMs(iterator.next(), stallMs);
        if (done) break;
        size += value.byteLength;
        if (size > most) throw tooLarge(most);
        hold.growTo(size);
        received.push(value);
      }
      const bytes = new Uint8Array(size);
      let at = 0;
      for (const chunk of received) {
        bytes.set(chunk, at);
        at += chunk.byteLength;
      }
      return { bytes, release: hold.release };
    } catch (error) {
      hold.release();
      void iterator.return?.().catch(() => {});
      throw error instanceof RequestError ? error : new ClientGone();
    } finally {
      this.bodies--;
    }
  }

  /** Counts bytes of large bodies until they are released. */
  private hold(expected: number) {
    let held = 0;
    const growTo = (size: number) => {
      if (size <= smallBytes || size <= held) return;
      const most = mostLarge * this.limits.maxBodyBytes;
      if (this.heldBytes + size - held > most)
        throw overloaded(`bodies of ${this.heldBytes} bytes are at work already`);
      this.heldBytes += size - held;
      held = size;
    };
    const release = () => {
      this.heldBytes -= held;
      held = 0;
    };
    growTo(expected);
    return { growTo, release };
  }
}

function tooLarge(most: number): RequestError {
  return new RequestError(`the body is larger than ${most} bytes`, null, 413);
}

export function overloaded(why: string): RequestError {
  return new RequestError(`${why}; try again later`, null, 429, "overloaded");
}

function withinMs<T>(promise: Promise<T>, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = new RequestError(`no byte of the body came for ${ms / 1000} s`, null, 408);
    const timer = setTimeout(() => reject(late), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
