// The HTTP server: routes, keys, limits, streams, and an orderly end. It moves bytes and messages and does nothing that
// lasts: bodies become prompts on other threads (preparers.ts), tokens come from engine-thread.ts. What an answer looks
// like is openai.ts. Nothing a client sends ever becomes part of a path.

import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { UserError } from "../util/errors.ts";
import { AdapterShelf } from "./adapter-shelf.ts";
import type { Answering } from "./answering.ts";
import { AtWork, Ended, type RequestAtWork } from "./at-work.ts";
import type { EngineThread } from "./engine-thread.ts";
import { eventStream } from "./event-stream.ts";
import { carriesKey, isLoopbackName } from "./guard.ts";
import { jsonPieces, streamOf } from "./json-pieces.ts";
import { cacheGauges, Metrics } from "./metrics.ts";
import { answer } from "./openai.ts";
import type { Preparers } from "./preparers.ts";
import type { Prepared } from "./preparing.ts";
import { ScoreRoom } from "./prompt-table.ts";
import { BodyReader, ClientGone, type ReadBody } from "./read-body.ts";
import { parseBody } from "./request-body.ts";
import { RequestError, readableMessage, readableParam, withoutFolders } from "./request-error.ts";

export interface ServerOptions {
  readonly host: string;
  /** 0 takes any free one. */
  readonly port: number;
  readonly apiKey?: string;
  /** What the base is called in requests. */
  readonly modelName: string;
  /** Folders of the adapters to load before listening, by name. */
  readonly adapters: Readonly<Record<string, string>>;
  /** Folder whose subfolders may be loaded as adapters while running. */
  readonly adapterFolder?: string;
  readonly maxBodyBytes: number;
  readonly maxTokens: number;
  /** Requests at work or waiting at one time. */
  readonly maxRequests: number;
  readonly timeoutSeconds: number;
  /** What adapters brought along, for the operator. */
  readonly onNote: (note: string) => void;
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

/** How long a client may leave what was sent unread, or pause in what it sends. */
const stallMs = 30_000;
/** Of a request that names an adapter. */
const mostChangeBytes = 16 * 1024;
/** Log-probabilities of prompts that are held for all answers together: about 128 MB. */
const mostPromptNumbers = 2 ** 23;
/** What logs and metrics show of a client that went away before its answer; nobody receives it. As nginx counts them. */
const goneStatus = 499;

/** The threads behind a server. */
export interface ServerThreads {
  readonly engine: EngineThread;
  readonly preparers: Preparers;
}

export async function startServer(threads: ServerThreads, options: ServerOptions): Promise<RunningServer> {
  const app = new ServerApp(threads, options);
  await app.open();
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
      app.endAll();
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
  closing = false;
  private readonly metrics = new Metrics();
  private readonly shelf: AdapterShelf;
  private readonly bodies: BodyReader;
  private readonly atWork: AtWork;
  private readonly scoreRoom = new ScoreRoom(mostPromptNumbers);
  /** Requests whose bodies were begun and not read to their end. */
  private readonly partlyRead = new WeakSet<Request>();

  constructor(
    private readonly threads: ServerThreads,
    private readonly options: ServerOptions,
  ) {
    const { modelName: base, adapterFolder: folder, maxBodyBytes, maxRequests: maxBodies, onNote } = options;
    this.shelf = new AdapterShelf({ ...threads, base, folder, onNote });
    this.bodies = new BodyReader({ maxBodyBytes, maxBodies, stallMs });
    this.atWork = new AtWork(options, this.metrics);
  }

  get inFlight(): number {
    return this.atWork.count;
  }

  async open(): Promise<void> {
    for (const [name, path] of Object.entries(this.options.adapters)) await this.shelf.add(name, path);
  }

  endAll(): void {
    this.atWork.endAll();
  }

  routes(): Hono {
    const app = new Hono();
    app.use(async (c, next) => {
      await next();
      // A body that nobody began is passed over after the answer; what is left of another would be taken for a request.
      if (this.partlyRead.has(c.req.raw)) c.header("Connection", "close");
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
        this.metrics.text(
          {
            lowrank_requests_in_flight: this.inFlight,
            lowrank_adapters: this.shelf.names.length,
            ...cacheGauges(this.threads.engine),
            process_resident_memory_bytes: process.memoryUsage.rss(),
          },
          {
            lowrank_kv_blocks_evicted_total: this.threads.engine.load.evictedBlocks,
            lowrank_requests_put_off_total: this.threads.engine.load.putOff,
          },
        ),
      ),
    );
    app.get("/v1/models", (c) => c.json({ object: "list", data: this.shelf.models() }));
    app.get("/v1/models/:model{.+}", (c) => {
      const found = this.shelf.models().find(({ id }) => id === c.req.param("model"));
      return found ? c.json(found) : errorResponse(c, this.shelf.unknown(c.req.param("model")));
    });
    app.post("/v1/chat/completions", (c) => this.generate(c, "chat"));
    app.post("/v1/completions", (c) => this.generate(c, "completion"));
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
      if (!carriesKey(c.req.header("authorization"), apiKey)) {
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
      return c.json(
        errorBody("this server answers to localhost only", "invalid_request_error", null, null),
        403,
      );
    }
    if (this.closing) return c.json(closingBody, 503);
    return undefined;
  }

  private async generate(c: Context, route: Prepared["route"]): Promise<Response> {
    this.atWork.checkRoom();
    const { bytes, release } = await this.readBody(c);
    let work: RequestAtWork;
    try {
      work = this.atWork.begin(c.req.raw.signal);
    } catch (error) {
      release();
      throw error;
    }
    let leave = () => {};
    try {
      const { engine, preparers } = this.threads;
      const { maxTokens } = this.options;
      const limits = { context: engine.facts.context, maxTokens };
      const prepared = await preparers.prepare(route, bytes, limits, work.signal).finally(release);
      if (prepared.route === "completion") leave = this.scoreRoom.hold(prepared.promptNumbers);
      const answering: Answering = {
        engine,
        signal: work.signal,
        maxTokens,
        onPiece: work.onPiece,
        onDone: ({ promptTokens, cachedTokens, completionTokens }) => {
          this.metrics.promptTokens += promptTokens;
          this.metrics.cachedTokens += cachedTokens;
          this.metrics.generatedTokens += completionTokens;
        },
      };
      if (prepared.settings.stream === true) return await this.stream(prepared, answering, work, leave);
      const whole = await answer(prepared, answering);
      if (work.ended) throw new Ended(work.ended);
      work.finish();
      const { logprobs } = prepared.settings;
      const few = logprobs === undefined || logprobs === null || logprobs === false;
      const scores = prepared.route === "completion" && prepared.promptNumbers > 0;
      if (few && !scores) return c.json(whole as object);
      return c.body(streamOf(jsonPieces(whole), leave), 200, { "Content-Type": "application/json" });
    } catch (error) {
      work.finish();
      leave();
      throw error;
    }
  }

  /** Mistakes that show before the first piece are still told by the status. */
  private async stream(
    prepared: Prepared,
    answering: Answering,
    work: RequestAtWork,
    onEnd: () => void,
  ): Promise<Response> {
    const stream = eventStream({ leave: work.leave, stallMs });
    const done = answer(prepared, { ...answering, send: stream.send }).then(
      () => {
        if (work.ended) stream.send(this.bodyOf(new Ended(work.ended)).body);
        stream.end();
      },
      (error: unknown) => {
        if (!stream.began) throw error;
        stream.send(this.bodyOf(error).body);
        stream.end();
      },
    );
    const ended = done.finally(work.finish).finally(onEnd);
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
    const { bytes, release } = await this.readBody(c, mostChangeBytes);
    release();
    return c.json({ status: "ok", message: await act(parseBody(bytes)) });
  }

  private async readBody(c: Context, most = this.options.maxBodyBytes): Promise<ReadBody> {
    // Browsers send this type across sites only after asking, and we never say yes.
    if (!/^application\/json\b/i.test(c.req.header("content-type") ?? ""))
      throw new RequestError("the body must be application/json", null, 415);
    const declared = c.req.header("content-length");
    const open = () => {
      this.partlyRead.add(c.req.raw);
      return c.req.raw.body ?? none;
    };
    const body = await this.bodies.read({ declared, open, most });
    this.partlyRead.delete(c.req.raw);
    // Who hung up in the meantime is not answered, whatever the body says.
    if (!c.req.raw.signal.aborted) return body;
    body.release();
    throw new ClientGone();
  }

  private fail(c: Context, error: unknown): Response {
    const { status, body } = this.bodyOf(error);
    if (status === goneStatus) return c.body(null, status as 400);
    if (status === 429) c.header("Retry-After", "1");
    return c.json(body, status as 400);
  }

  private bodyOf(error: unknown): { status: number; body: object } {
    if (error instanceof ClientGone || (error instanceof Ended && error.why === "gone"))
      return {
        status: goneStatus,
        body: errorBody("the client is gone", "invalid_request_error", null, null),
      };
    if (error instanceof Ended) {
      return error.why === "timeout"
        ? { status: 504, body: timeoutBody(this.options.timeoutSeconds) }
        : { status: 503, body: closingBody };
    }
    if (error instanceof RequestError) {
      const type = error.status === 429 ? "rate_limit_error" : "invalid_request_error";
      return { status: error.status, body: errorBody(error.message, type, error.param, error.code) };
    }
    if (error instanceof UserError)
      return {
        status: 400,
        body: errorBody(withoutFolders(error.message), "invalid_request_error", null, null),
      };
    this.options.onFault(error);
    return { status: 500, body: errorBody("a fault inside the server", "server_error", null, null) };
  }
}

function errorBody(message: string, type: string, param: string | null, code: string | null): object {
  return { error: { message: readableMessage(message), type, param: readableParam(param), code } };
}

const closingBody = errorBody("the server is closing", "server_error", null, null);
const timeoutBody = (seconds: number) =>
  errorBody(`the answer took longer than ${seconds} s`, "timeout", null, "timeout");

function errorResponse(c: Context, error: RequestError): Response {
  return c.json(errorBody(error.message, "invalid_request_error", error.param, error.code), error.status);
}

/** No body at all. */
const none: AsyncIterable<Uint8Array> = {
  async *[Symbol.asyncIterator]() {},
};
