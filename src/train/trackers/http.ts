// JSON over HTTP to trackers' servers, which may be dead, slow or hostile: every call has an end in time, answers have a
// cap, and nobody is followed elsewhere with our keys. Besides formats/hub.ts the only file that reaches a network.
// Not here: when to ask again (feed.ts).

import { UsageError } from "../../util/errors.ts";
import { TrackerRefusal } from "./tracker.ts";

/** An answer of a server that is well is far shorter, and comes far sooner. */
const answerCapBytes = 4 * 2 ** 20;
const timeoutMs = 20_000;

export interface Address {
  /** With a slash at its end. */
  readonly base: string;
  /** Without anything secret. */
  readonly shown: string;
  readonly user?: string;
  readonly password?: string;
  readonly query: URLSearchParams;
}

/** UsageError, without the text itself, which may hold a key, unless it is the address of an HTTP server. */
export function addressOf(text: string, from: string): Address {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:"))
    throw new UsageError(
      `${from}: expected the address of a server, such as http://127.0.0.1:5000; files and other services are not written to.`,
    );
  const path = url.pathname.endsWith("/") ? url.pathname : `${url.pathname}/`;
  return {
    base: `${url.origin}${path}`,
    shown: `${url.origin}${url.pathname === "/" ? "" : url.pathname}`,
    query: url.searchParams,
    ...(url.username && { user: decodeURIComponent(url.username) }),
    ...(url.password && { password: decodeURIComponent(url.password) }),
  };
}

export interface Call {
  readonly headers: Readonly<Record<string, string>>;
  /** Sent as JSON by POST; without it, GET. */
  readonly body?: unknown;
  readonly signal: AbortSignal;
  /** Answers of refusal that the caller reads itself. */
  readonly expected?: readonly number[];
}

/** The answer's status and JSON. TrackerRefusal where the server says that it does not take this; else Error. */
export async function callJson(
  url: string,
  call: Call,
): Promise<{ readonly status: number; readonly json: unknown }> {
  const signal = AbortSignal.any([call.signal, AbortSignal.timeout(timeoutMs)]);
  const answer = await fetch(url, {
    method: call.body === undefined ? "GET" : "POST",
    headers: {
      accept: "application/json",
      ...(call.body !== undefined && { "content-type": "application/json" }),
      ...call.headers,
    },
    ...(call.body !== undefined && { body: JSON.stringify(call.body) }),
    redirect: "manual",
    signal,
  }).catch((error: unknown) => {
    throw new Error(reasonOf(error));
  });
  const { status } = answer;
  const bytes = await readCapped(answer).catch((error: unknown) => {
    throw error instanceof TrackerRefusal ? error : new Error(reasonOf(error));
  });
  const json = parsed(bytes);
  if ((status >= 200 && status < 300) || call.expected?.includes(status)) {
    if (json === undefined) throw new TrackerRefusal("it answers, but not in JSON");
    return { status, json };
  }
  const said = saidIn(json);
  const told = `it answers ${status}${said ? `: ${said}` : ""}`;
  if (status >= 500 || status === 408 || status === 425 || status === 429) throw new Error(told);
  throw new TrackerRefusal(status >= 300 && status < 400 ? `${told} and points elsewhere` : told);
}

async function readCapped(answer: Response): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of answer.body ?? []) {
    sizeBytes += piece.byteLength;
    // Leaving the loop ends the connection.
    if (sizeBytes > answerCapBytes)
      throw new TrackerRefusal("its answer is longer than any that is expected");
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function parsed(bytes: Buffer): unknown {
  if (bytes.length === 0) return {};
  try {
    return JSON.parse(bytes.toString("utf8")) ?? {};
  } catch {
    return undefined;
  }
}

/** What a refusal says for itself, short. */
function saidIn(json: unknown): string {
  const { message, error, detail, error_code: code } = (json ?? {}) as Record<string, unknown>;
  const said = [message, error, detail, code].find((part) => typeof part === "string") as string | undefined;
  return (said ?? "").replace(/\s+/g, " ").slice(0, 300);
}

function reasonOf(error: unknown): string {
  const { name, message, cause } = error as Error & { cause?: NodeJS.ErrnoException };
  if (name === "TimeoutError" || name === "AbortError") return "it does not answer in time";
  return cause?.code
    ? `it cannot be reached (${cause.code})`
    : `it cannot be reached (${cause?.message ?? message})`;
}
