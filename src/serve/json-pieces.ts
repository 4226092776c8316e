// A large answer as JSON in pieces, so that the server's thread writes other clients' streams in between: the
// log-probabilities of many tokens are a hundred megabytes. Small answers need none of this.

/** Characters of a piece, or one item's where it alone is longer. */
const pieceLength = 64 * 1024;
/** Arrays and objects are taken apart down to here: choices, their log-probabilities, a list of tokens. */
const depth = 5;

/** A list whose items are made when they are written, so that a long one is never there as objects. */
export class LazyList {
  constructor(
    readonly length: number,
    readonly at: (index: number) => unknown,
  ) {}

  toJSON(): unknown[] {
    return Array.from({ length: this.length }, (_, i) => this.at(i));
  }
}

/** What JSON.stringify gives, in pieces. */
export function* jsonPieces(value: unknown, length = pieceLength): Generator<string, void> {
  let held = "";
  for (const part of parts(value, depth)) {
    held += part;
    if (held.length < length) continue;
    yield held;
    held = "";
  }
  if (held !== "") yield held;
}

function* parts(value: unknown, levels: number): Generator<string, void> {
  if (levels === 0 || typeof value !== "object" || value === null) {
    yield JSON.stringify(value);
    return;
  }
  const lazy = value instanceof LazyList ? value : undefined;
  const list = lazy !== undefined || Array.isArray(value);
  const items = lazy ? [] : list ? (value as unknown[]) : Object.values(value);
  const keys = list ? undefined : Object.keys(value);
  let before = list ? "[" : "{";
  for (let i = 0; i < (lazy ?? items).length; i++) {
    const item: unknown = lazy ? lazy.at(i) : items[i];
    if (keys && item === undefined) continue;
    yield keys ? `${before}${JSON.stringify(keys[i])}:` : before;
    yield* parts(item ?? null, levels - 1);
    before = ",";
  }
  yield `${before === "," ? "" : before}${list ? "]" : "}"}`;
}

/** A body of these pieces; the event loop turns between any two. `onEnd`: it was read to its end, or nobody reads it. */
export function streamOf(
  pieces: Generator<string, void>,
  onEnd: () => void = () => {},
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      await new Promise((resolve) => setImmediate(resolve));
      const { done, value } = pieces.next();
      if (done) {
        controller.close();
        onEnd();
      } else controller.enqueue(encoder.encode(value));
    },
    cancel: onEnd,
  });
}
