// The server of the local page: who may ask (serve/guard.ts), the routes of api.ts, the page's files, an orderly end. It
// reads folders and starts processes, and computes nothing itself that lasts. Nothing a client sends becomes part of a
// path before run-places.ts has looked at it.

import { stat } from "node:fs/promises";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { cpus } from "node:os";
import { resolve } from "node:path";
import { serve } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { machineMemory } from "../memory/machine-memory.ts";
import { carriesKey, isForeign, isLoopbackName } from "../serve/guard.ts";
import { BodyReader, ClientGone } from "../serve/read-body.ts";
import { parseBody } from "../serve/request-body.ts";
import { RequestError, readableMessage } from "../serve/request-error.ts";
import { lowrankVersion } from "../train/run-record.ts";
import { UserError } from "../util/errors.ts";
import { Analyst, LateError } from "./analyst.ts";
import type { ErrorBody, MemoryView, ServerInfo } from "./api.ts";
import { DevicePeaks } from "./device-peaks.ts";
import type { RunJob } from "./open-run.ts";
import { guardHeaders, type PageFile } from "./page-files.ts";
import { ReadablePlaces } from "./readable-places.ts";
import { RunActions } from "./run-actions.ts";
import { RunBook } from "./run-book.ts";
import { formOptions, formValues } from "./run-form.ts";
import { numberOf, queryIds, textsOf, wholeOf } from "./ui-requests.ts";

export interface UiServerOptions {
  /** Whose runs are shown. */
  readonly folder: string;
  readonly host: string;
  /** 0 takes any free one. */
  readonly port: number;
  /** Asked for on every request to the API; needed on addresses that others can reach. */
  readonly apiKey?: string;
  /** Folders that the page may name files in, besides `folder` and the current one. */
  readonly read: readonly string[];
  /** The id of the run that this server was opened beside. */
  readonly beside?: string;
  /** The page's files; without them only the API answers. */
  readonly page: ReadonlyMap<string, PageFile>;
  /** Faults of ours, for the operator. */
  readonly onFault: (error: unknown) => void;
}

export interface RunningUi {
  readonly url: string;
  close(): Promise<void>;
}

const mostBodyBytes = 256 * 1024;
const stallMs = 30_000;
const mostConnections = 256;

/** Opens the server. UserError where it cannot listen, or the folder is none. One that is not there yet has no runs. */
export async function startUi(options: UiServerOptions): Promise<RunningUi> {
  const found = await stat(options.folder).catch(() => undefined);
  if (found && !found.isDirectory())
    throw new UserError(`${options.folder}: not a folder; give the one that holds runs`);
  const app = new UiApp(options, await DevicePeaks.open());
  const { host } = options;
  const server = await new Promise<Server>((done, reject) => {
    const listening = serve(
      { fetch: app.routes().fetch, hostname: host, port: options.port, autoCleanupIncoming: true },
      () => done(listening),
    ) as Server;
    listening.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "it is in use; choose another with --port" : error.message;
      reject(new UserError(`cannot listen on ${host} port ${options.port}: ${why}`));
    });
  });
  server.maxConnections = mostConnections;
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${port}`,
    async close() {
      const closed = new Promise<void>((done) => server.close(() => done()));
      app.close();
      server.closeIdleConnections();
      const cut = setTimeout(() => server.closeAllConnections(), 500);
      await closed;
      clearTimeout(cut);
    },
  };
}

class UiApp {
  private readonly book: RunBook;
  private readonly actions: RunActions;
  private readonly analyst = new Analyst();
  private readonly bodies = new BodyReader({ maxBodyBytes: mostBodyBytes, maxBodies: 32, stallMs });

  constructor(
    private readonly options: UiServerOptions,
    private readonly peaks: DevicePeaks,
  ) {
    const root = resolve(options.folder);
    this.book = new RunBook(root, options.onFault);
    this.actions = new RunActions(this.book, new ReadablePlaces([root, process.cwd(), ...options.read]));
  }

  close(): void {
    this.book.close();
    this.analyst.close();
  }

  routes(): Hono {
    const app = new Hono();
    app.use(async (c, next) => {
      await next();
      for (const [name, value] of Object.entries(guardHeaders)) c.header(name, value);
    });
    app.use(async (c, next) => {
      const refusal = this.refuse(c);
      if (refusal) return refusal;
      return next();
    });
    app.use("/api/*", async (c, next) => {
      await next();
      if (!c.res.headers.has("Cache-Control")) c.header("Cache-Control", "no-store");
    });
    const { book, actions } = this;
    const id = (c: Context) => c.req.param("id")!;
    app.get("/api/server", (c) => c.json(this.info()));
    app.get("/api/options", (c) => c.json(formOptions()));
    app.get("/api/runs", async (c) => c.json(await book.list()));
    app.post("/api/runs", async (c) => c.json(await actions.start(await this.body(c)), 201));
    app.get("/api/runs/:id", async (c) => {
      const { record } = await book.entry(id(c));
      return c.json(
        await book.detail(id(c), record?.device === undefined ? undefined : this.peaks.of(record.device)),
      );
    });
    app.get("/api/runs/:id/metrics", async (c) => {
      const from = numberOf(c, "from", 0, Number.MAX_SAFE_INTEGER, 0);
      const to = numberOf(c, "to", 0, Number.MAX_SAFE_INTEGER - 1, Number.MAX_SAFE_INTEGER - 1);
      const points = numberOf(c, "points", 2, 20_000, 1000);
      return c.json(await book.metrics(id(c), { from, to, points }));
    });
    app.get("/api/runs/:id/rows", async (c) => {
      const set = c.req.query("set") ?? "train";
      if (set !== "train" && set !== "eval") throw new RequestError("set: expected train or eval", "set");
      const from = numberOf(c, "from", 0, 2 ** 40, 0);
      const count = numberOf(c, "count", 1, 20, 5);
      const job = { ...(await this.jobOf(id(c))), set, from, count } as const;
      return c.json(await this.analyst.ask("rows", job, c.req.raw.signal));
    });
    app.post("/api/runs/:id/samples", async (c) => {
      const body = await this.body(c);
      const prompts = textsOf(body, "prompts", 8, 16_384);
      const maxNewTokens = wholeOf(body, "maxNewTokens", 1, 256, 48);
      const job = { ...(await this.jobOf(id(c))), prompts, maxNewTokens };
      return c.json(await this.analyst.ask("samples", job, c.req.raw.signal));
    });
    app.get("/api/runs/:id/layers", async (c) => {
      const at = c.req.query("step") === undefined ? undefined : numberOf(c, "step", 1, 2 ** 40, 1);
      const job = { ...(await this.jobOf(id(c))), at };
      return c.json(await this.analyst.ask("layers", job, c.req.raw.signal));
    });
    app.get("/api/runs/:id/memory", async (c) => c.json(await this.memory(c, id(c))));
    for (const request of ["pause", "end"] as const) {
      app.post(`/api/runs/:id/${request}`, async (c) => {
        await this.body(c);
        return c.json(await actions.ask(id(c), request), 202);
      });
    }
    app.post("/api/runs/:id/resume", async (c) => {
      await this.body(c);
      return c.json(await actions.resume(id(c)), 202);
    });
    app.get("/api/compares/:id", async (c) => c.json(await book.compare(id(c))));
    app.post("/api/plan", async (c) => {
      const values = formValues((await this.body(c)).values);
      if (typeof values.model === "string") await this.actions.requireReadable(values.model, "model");
      const view = await this.analyst.ask("plan", { values }, c.req.raw.signal);
      const peak = this.peaks.of();
      const rate =
        peak && view.flopsPerToken ? { peakTokensPerSecond: peak.flopsPerSecond / view.flopsPerToken } : {};
      return c.json({ ...view, ...rate });
    });
    app.post("/api/peak", async (c) => {
      await this.body(c);
      await book.list();
      if (book.isBusy)
        throw new RequestError(
          "a run is at work, which measuring would disturb and which would disturb it",
          null,
          409,
        );
      const peak = await this.analyst.ask("peak", { backend: "auto", precision: "auto" }, c.req.raw.signal);
      await this.peaks.keep(peak);
      return c.json(peak);
    });
    app.get("/api/events", (c) => {
      const after = c.req.query("after") ?? c.req.header("last-event-id");
      return new Response(book.hub.listen(queryIds(c), after), {
        headers: {
          "Content-Type": "text/event-stream; charset=utf-8",
          "Cache-Control": "no-cache",
          "X-Accel-Buffering": "no",
        },
      });
    });
    app.all("/api/*", (c) =>
      this.fail(c, new RequestError(`there is no ${c.req.method} ${c.req.path.slice(0, 100)}`, null, 404)),
    );
    app.get("/*", (c) => this.file(c));
    app.notFound((c) => this.fail(c, new RequestError(`there is no ${c.req.method} here`, null, 404)));
    app.onError((error, c) => this.fail(c, error));
    return app;
  }

  /** Who may not ask at all. */
  private refuse(c: Context): Response | undefined {
    const { apiKey } = this.options;
    const isApi = c.req.path.startsWith("/api/");
    const header = (name: string) => c.req.header(name);
    if (apiKey === undefined && !isLoopbackName(header("host") ?? ""))
      return this.fail(c, new RequestError("this server answers to localhost only", null, 403));
    // A link to the page from elsewhere is followed; nothing that it then asks for comes from elsewhere.
    const followed = !isApi && c.req.method === "GET" && header("sec-fetch-mode") === "navigate";
    const site = followed ? undefined : header("sec-fetch-site");
    if (isForeign({ host: header("host"), origin: header("origin"), site }))
      return this.fail(c, new RequestError("this server answers to its own page only", null, 403));
    if (isApi && apiKey !== undefined && !carriesKey(header("authorization"), apiKey))
      return this.json(c, 401, {
        error: { message: "a valid key is needed: open the address that the command printed" },
      });
    return undefined;
  }

  private info(): ServerInfo {
    const { bytes, availableBytes } = machineMemory();
    const { folder, beside } = this.options;
    const peak = this.peaks.of();
    return {
      version: lowrankVersion(),
      folder,
      ...(beside !== undefined && { beside }),
      canStart: true,
      machine: { cores: cpus().length, memoryBytes: bytes, availableBytes, ...(peak && { peak }) },
    };
  }

  private async jobOf(id: string): Promise<RunJob> {
    const { path, record, summary } = await this.book.entry(id);
    return {
      folder: path,
      options: record?.options ?? {},
      done: summary!.state === "done",
      step: summary!.step,
    };
  }

  private async memory(c: Context, id: string): Promise<MemoryView> {
    const entry = await this.book.entry(id);
    const { record, holder } = entry;
    const notes: string[] = [];
    const planned = await this.analyst
      .ask("memory", await this.jobOf(id), c.req.raw.signal)
      .catch((error: unknown) => {
        if (!(error instanceof UserError)) throw error;
        notes.push(error.message);
        return undefined;
      });
    const rssBytes = holder?.isHere ? await entry.rssBytes() : undefined;
    const { peakBytes, atPeak, live } = record ?? {};
    if (summaryIsEarly(record?.status))
      notes.push("measured when the run began; it is measured again at its end");
    return {
      ...(planned && { planned }),
      ...(peakBytes !== undefined &&
        atPeak &&
        live && {
          measured: {
            peakBytes,
            atPeak,
            live,
            peakRssBytes: record?.peakRssBytes,
            deviceBytes: record?.deviceBytes,
            ...(summaryIsEarly(record?.status) && { early: true as const }),
          },
        }),
      ...(rssBytes !== undefined && { rssBytes }),
      notes,
    };
  }

  private file(c: Context): Response {
    const file = this.options.page.get(c.req.path);
    if (!file) return this.fail(c, new RequestError("there is no such file", null, 404));
    const short = /\bgzip\b/.test(c.req.header("accept-encoding") ?? "") ? file.gzipped : undefined;
    return new Response(short ?? file.bytes, {
      headers: {
        "Content-Type": file.type,
        "Cache-Control": file.hashed ? "public, max-age=31536000, immutable" : "no-cache",
        Vary: "Accept-Encoding",
        ...(short && { "Content-Encoding": "gzip" }),
      },
    });
  }

  /** The body as an object. */
  private async body(c: Context): Promise<Readonly<Record<string, unknown>>> {
    // Browsers send this type across sites only after asking, and we never say yes.
    if (!/^application\/json\b/i.test(c.req.header("content-type") ?? ""))
      throw new RequestError("the body must be application/json", null, 415);
    const declared = c.req.header("content-length");
    const none: AsyncIterable<Uint8Array> = { async *[Symbol.asyncIterator]() {} };
    const { bytes, release } = await this.bodies.read({ declared, open: () => c.req.raw.body ?? none });
    release();
    if (bytes.byteLength === 0) return {};
    const value = parseBody(bytes);
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw new RequestError("the body must be an object");
    // Its numbers as plain ones: how they were written is of no interest here.
    return JSON.parse(new TextDecoder().decode(bytes));
  }

  private fail(c: Context, error: unknown): Response {
    if (error instanceof RequestError) {
      const field = error.param ?? undefined;
      return this.json(c, error.status, { error: { message: readableMessage(error.message), field } });
    }
    if (error instanceof LateError) return this.json(c, 504, { error: { message: error.message } });
    if (error instanceof UserError)
      return this.json(c, 400, { error: { message: readableMessage(error.message) } });
    if (error instanceof ClientGone) return c.body(null, 400);
    this.options.onFault(error);
    return this.json(c, 500, { error: { message: "a fault inside lowrank; the terminal says more" } });
  }

  private json(c: Context, status: number, body: ErrorBody): Response {
    if (status === 429 || status === 503) c.header("Retry-After", "2");
    return c.json(body, status as 400);
  }
}

function summaryIsEarly(status: string | undefined): boolean {
  return status === "running";
}
