// The HTTP server: routes, keys, limits, streams, and an orderly end. What an answer looks like is openai.ts, where
// tokens come from engine-thread.ts. Nothing a client sends ever becomes part of a path.

import { createHash, timingSafeEqual } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { UserError } from "../util/errors.ts";
import { AdapterShelf } from "./adapter-shelf.ts";
import { ContextError, type EngineThread } from "./engine-thread.ts";
import { eventStream } from "./event-stream.ts";
import { Metrics } from "./metrics.ts";
import { type Answering, answerChat, answerCompletion } from "./openai.ts";
import { parseRequestJson } from "./request-json.ts";
import { parseChat, parseCompletion, RequestError } from "./requests.ts";

export interface ServerOptions {
  readonly host: string;
  /** 0 takes any free one. */
  readonly port: number;
  readonly apiKey?: string;
  /** What the base is called in requests. */
  readonly modelName: string;
  /** Names of the adapters that the engine has loaded. */
  readonly adapters: readonly string[];
  /** Folder whose subfolders may be loaded as adapters while running. */
  readonly adapterFolder?: string;
  readonly maxBodyBytes: number;
  readonly maxTokens: number;
  /** Requests at work or waiting at one time. */
  readonly maxRequests: number;
  readonly timeoutSeconds: number;
  /** Faults of ours, for the operator. */
  readonly onFault: (error: unknown) => void;
}

export interface RunningServer {
  readonly url: string;
  /** Requests at work or waiting. */
  readonly inFlight: number;
  /** Takes no new requests, waits for those at work, ends the rest after `graceMs`. */
  close(graceMs: number): Promise<void>;
}

/** How long a client may leave what was sent unread. */
const stallMs = 30_000;

export async function startServer(engine: EngineThread, options: ServerOptions): Promise<RunningServer> {
  const app = new ServerApp(engine, options);
  const server = await new Promise<Server>((resolve, reject) => {
    const listening = serve(
      { fetch: app.routes().fetch, hostname: options.host, port: options.port, autoCleanupIncoming: true },
      () => resolve(listening),
    ) as Server;
    listening.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "it is in use; choose another with --port" : error.message;
      reject(new UserError(`cannot listen on ${options.host} port ${options.port}: ${why}`));
    });
  });
  server.maxConnections = 4096;
  const { port } = server.address() as AddressInfo;
  const host = options.host.includes(":") ? `[${options.host}]` : options.host;
  return {
    url: `http://${host}:${port}`,
    get inFlight() {
      return app.inFlight;
    },
    async close(graceMs) {
      app.closing = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const deadline = Date.now() + graceMs;
      while (app.inFlight > 0 && Date.now() < deadline)
        await new Promise((resolve) => setTimeout(resolve, 20));
      app.abortAll();
      // Answers already written still leave; connections kept alive do not hold the server up.
      const hurry = setInterval(() => server.closeIdleConnections(), 20);
      const cut = setTimeout(() => server.closeAllConnections(), 1000);
      await closed;
      clearInterval(hurry);
      clearTimeout(cut);
    },
  };
}

class ServerApp {
  inFlight = 0;
  closing = false;
  private readonly metrics = new Metrics();
  private readonly shelf: AdapterShelf;
  private readonly aborts = new Set<AbortController>();

  constructor(
    private readonly engine: EngineThread,
    private readonly options: ServerOptions,
  ) {
    this.shelf = new AdapterShelf(engine, options.modelName, options.adapters, options.adapterFolder);
  }

  abortAll(): void {
    for (const abort of this.aborts) abort.abort();
  }

  routes(): Hono {
    const app = new Hono();
    app.use(async (c, next) => {
      await next();
      const known = c.req.routePath === "/*" ? "other" : c.req.routePath;
      this.metrics.countRequest(known, c.res.status);
    });
    app.get("/healthz", (c) => c.json({ status: this.closing ? "closing" : "ok" }, this.closing ? 503 : 200));
    app.use(async (c, next) => {
      const refusal = this.refuse(c);
      if (refusal) return refusal;
      return next();
    });
    app.get("/metrics", (c) =>
      c.text(
        this.metrics.text({
          lowrank_requests_in_flight: this.inFlight,
          lowrank_adapters: this.shelf.names.length,
          process_resident_memory_bytes: process.memoryUsage.rss(),
        }),
      ),
    );
    app.get("/v1/models", (c) => c.json({ object: "list", data: this.shelf.models() }));
    app.get("/v1/models/:model{.+}", (c) => {
      const found = this.shelf.models().find(({ id }) => id === c.req.param("model"));
      return found ? c.json(found) : errorResponse(c, this.shelf.unknown(c.req.param("model")));
    });
    app.post("/v1/chat/completions", (c) => this.generate(c, parseChat, answerChat));
    app.post("/v1/completions", (c) => this.generate(c, parseCompletion, answerCompletion));
    app.post("/v1/load_lora_adapter", (c) => this.change(c, (json) => this.shelf.load(json)));
    app.post("/v1/unload_lora_adapter", (c) => this.change(c, (json) => this.shelf.drop(json)));
    app.notFound((c) =>
      errorResponse(
        c,
        new RequestError(`there is no ${c.req.method} ${c.req.path.slice(0, 100)}`, null, 404, "not_found"),
      ),
    );
    app.onError((error, c) => this.fail(c, error));
    return app;
  }

  /** Who may not ask at all. */
  private refuse(c: Context): Response | undefined {
    const { apiKey } = this.options;
    if (apiKey !== undefined) {
      const given = /^Bearer (.+)$/.exec(c.req.header("authorization") ?? "")?.[1] ?? "";
      if (!sameText(given, apiKey)) {
        return c.json(
          errorBody(
            "a valid API key is needed: Authorization: Bearer KEY",
            "authentication_error",
            null,
            "invalid_api_key",
          ),
          401,
        );
      }
    } else if (!isLoopbackName(c.req.header("host") ?? "")) {
      // A web page could point its own name at 127.0.0.1 and talk to us from a browser.
      return c.json(
        errorBody("this server answers to localhost only", "invalid_request_error", null, null),
        403,
      );
    }
    if (this.closing) return c.json(errorBody("the server is closing", "server_error", null, null), 503);
    return undefined;
  }

  private async generate<
    B extends { readonly model: string; readonly stream?: boolean | null; readonly n?: number | null },
  >(
    c: Context,
    parse: (json: unknown) => B,
    answer: (body: B, answering: Answering) => Promise<unknown>,
  ): Promise<Response> {
    const body = parse(await this.readJson(c));
    const adapter = this.shelf.find(body.model);
    if (this.inFlight >= this.options.maxRequests) {
      c.header("Retry-After", "1");
      return c.json(
        errorBody(
          `${this.inFlight} requests are at work already; try again later`,
          "rate_limit_error",
          null,
          "overloaded",
        ),
        429,
      );
    }
    const startedAt = performance.now();
    const abort = new AbortController();
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      abort.abort();
    }, this.options.timeoutSeconds * 1000);
    const gone = () => abort.abort();
    c.req.raw.signal.addEventListener("abort", gone);
    if (c.req.raw.signal.aborted) abort.abort();
    this.aborts.add(abort);
    this.inFlight++;
    let first = true;
    let over = false;
    const finish = () => {
      if (over) return;
      over = true;
      this.inFlight--;
      this.aborts.delete(abort);
      clearTimeout(timer);
      c.req.raw.signal.removeEventListener("abort", gone);
      this.metrics.requestSeconds.observe((performance.now() - startedAt) / 1000);
      if (abort.signal.aborted) this.metrics.cancelled++;
    };
    const answering: Answering = {
      engine: this.engine,
      adapter,
      signal: abort.signal,
      maxTokens: this.options.maxTokens,
      onPiece: () => {
        if (first) this.metrics.firstTokenSeconds.observe((performance.now() - startedAt) / 1000);
        first = false;
      },
      onDone: ({ promptTokens, completionTokens }) => {
        this.metrics.promptTokens += promptTokens;
        this.metrics.generatedTokens += completionTokens;
      },
    };
    const tooLong = () =>
      new RequestError(`the answer took longer than ${this.options.timeoutSeconds} s`, null, 400, "timeout");
    if (body.stream !== true) {
      try {
        const whole = await answer(body, answering);
        return timedOut
          ? c.json(errorBody(tooLong().message, "timeout", null, "timeout"), 504)
          : c.json(whole as object);
      } finally {
        finish();
      }
    }
    // Mistakes that show before the first piece are still told by the status.
    const stream = eventStream({ abort, stallMs });
    const done = answer(body, { ...answering, send: stream.send }).then(
      () => {
        if (timedOut) stream.send(errorBody(tooLong().message, "timeout", null, "timeout"));
        stream.end();
      },
      (error: unknown) => {
        if (!stream.began) throw error;
        stream.send(this.bodyOf(error).body);
        stream.end();
      },
    );
    const ended = done.finally(finish);
    await Promise.race([stream.beginning, ended]);
    ended.catch(() => {});
    return new Response(stream.readable, {
      headers: {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
      },
    });
  }

  private async change(c: Context, act: (json: unknown) => Promise<string>): Promise<Response> {
    return c.json({ status: "ok", message: await act(await this.readJson(c)) });
  }

  private async readJson(c: Context): Promise<unknown> {
    // Browsers send this type across sites only after asking, and we never say yes.
    if (!/^application\/json\b/i.test(c.req.header("content-type") ?? ""))
      throw new StatusError(415, "the body must be application/json");
    const { maxBodyBytes } = this.options;
    const tooLarge = () => new StatusError(413, `the body is larger than ${maxBodyBytes} bytes`);
    if (Number(c.req.header("content-length") ?? 0) > maxBodyBytes) throw tooLarge();
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of c.req.raw.body ?? []) {
      size += chunk.byteLength;
      if (size > maxBodyBytes) throw tooLarge();
      chunks.push(chunk);
    }
    try {
      return parseRequestJson(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)));
    } catch {
      throw new RequestError("the body is not valid JSON");
    }
  }

  private fail(c: Context, error: unknown): Response {
    const { status, body } = this.bodyOf(error);
    return c.json(body, status as 400);
  }

  private bodyOf(error: unknown): { status: number; body: object } {
    if (error instanceof RequestError)
      return {
        status: error.status,
        body: errorBody(error.message, "invalid_request_error", error.param, error.code),
      };
    if (error instanceof StatusError)
      return { status: error.status, body: errorBody(error.message, "invalid_request_error", null, null) };
    if (error instanceof ContextError)
      return {
        status: 400,
        body: errorBody(error.message, "invalid_request_error", null, "context_length_exceeded"),
      };
    if (error instanceof UserError)
      return { status: 400, body: errorBody(error.message, "invalid_request_error", null, null) };
    this.options.onFault(error);
    return { status: 500, body: errorBody("a fault inside the server", "server_error", null, null) };
  }
}

class StatusError extends Error {
  constructor(
    readonly status: 413 | 415,
    message: string,
  ) {
    super(message);
  }
}

function errorBody(message: string, type: string, param: string | null, code: string | null): object {
  return { error: { message, type, param, code } };
}

function errorResponse(c: Context, error: RequestError): Response {
  return c.json(errorBody(error.message, "invalid_request_error", error.param, error.code), error.status);
}

/** Compares hashes, so that neither content nor length of the key shows in the time taken. */
function sameText(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) => createHash("sha256").update(text).digest()) as [Buffer, Buffer];
  return timingSafeEqual(x, y);
}

function isLoopbackName(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i.test(host);
}
