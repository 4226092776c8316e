// The page's server over HTTP, without a run being trained: who may ask, what a request may say, and what a folder of runs
// looks like. Runs that it starts: steer-runs.test.ts.

import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { trainDefinition } from "../../src/config/train-options.ts";
import { FOLDER_LOCK, lockPlace } from "../../src/formats/place-lock.ts";
import { hearRequests } from "../../src/train/run-requests.ts";
import type { FormOptions, LiveEvent, RunDetail, RunList, RunMetrics } from "../../src/ui/api.ts";
import type { RunningUi, UiServerOptions } from "../../src/ui/ui-server.ts";
import { makeRun, stepLines } from "./made-runs.ts";

// Processes run compiled code alone.
const built = new URL("../../dist/ui/ui-server.js", import.meta.url);
if (!existsSync(built)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { startUi } = (await import(built.href)) as typeof import("../../src/ui/ui-server.ts");

const base = mkdtempSync(join(tmpdir(), "lowrank-ui-server-"));
const root = join(base, "runs");
process.env.LOWRANK_CACHE = join(base, "cache");
const faults: unknown[] = [];
const html = new TextEncoder().encode("<!doctype html><title>page</title>");
const script = new TextEncoder().encode("1;".repeat(500));
const options: UiServerOptions = {
  ...{ folder: root, host: "127.0.0.1", port: 0, read: [] },
  page: new Map([
    ["/", { type: "text/html; charset=utf-8", bytes: html, hashed: false }],
    [
      "/assets/page.js",
      { type: "text/javascript", bytes: script, gzipped: script.slice(0, 9), hashed: true },
    ],
  ]),
  onFault: (error) => void faults.push(error),
};
let ui: RunningUi;
let port: number;

beforeAll(async () => {
  makeRun(root, "done", 40);
  makeRun(root, "group/paused", 20, { status: "interrupted" });
  makeRun(root, "broke", 10, { status: "failed", error: "step 11: why" });
  makeRun(root, "killed", 30, { status: "running", totalSteps: 90 });
  makeRun(root, "hostile", 5, {
    options: { model: { deep: 1 }, rank: "x", method: ["y"] },
    data: 7,
    memory: [],
    totalSteps: -5,
  });
  makeRun(base, "outside", 5);
  symlinkSync(join(base, "outside"), join(root, "link"));
  mkdirSync(join(root, "rows"));
  writeFileSync(join(root, "rows", "rows.jsonl"), '{"text":"a"}\n');
  ui = await startUi(options);
  port = Number(new URL(ui.url).port);
});
afterAll(async () => {
  await ui.close();
  rmSync(base, { recursive: true, force: true });
  expect(faults).toEqual([]);
});

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

/** A request with whatever headers and path, as no client library lets one send. */
function ask(path: string, headers: Record<string, string> = {}, body?: string, at = port): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const method = body === undefined ? "GET" : "POST";
    const sent = request({ host: "127.0.0.1", port: at, path, method, headers, agent: false }, (response) => {
      const pieces: Buffer[] = [];
      response.on("data", (piece: Buffer) => pieces.push(piece));
      response.on("end", () => {
        const { statusCode: status = 0, headers: told } = response;
        resolve({ status, headers: told, text: Buffer.concat(pieces).toString("utf8") });
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

const json = { "content-type": "application/json" };
const get = async <T>(path: string) => JSON.parse((await ask(path)).text) as T;
const routes = [
  "/",
  "/assets/page.js",
  "/api/server",
  "/api/runs",
  "/api/runs/done",
  "/api/runs/done/metrics",
  "/api/options",
  "/api/events",
];

describe("who may ask", () => {
  it("is nobody under another name, nor another site's page: they get nothing", async () => {
    const own = `http://127.0.0.1:${port}`;
    const foreign: Record<string, string>[] = [
      { host: "evil.example" },
      { host: `evil.example:${port}` },
      { host: `127.0.0.1.evil.example:${port}` },
      { host: `localhost.evil.example` },
      { origin: "https://evil.example" },
      { origin: "null" },
      { origin: `http://127.0.0.1:${port + 1}` },
      { origin: `http://localhost:${port}` },
      { origin: `https://127.0.0.1:${port}` },
      { origin: `${own}.evil.example` },
      { "sec-fetch-site": "cross-site" },
      { "sec-fetch-site": "same-site" },
      { host: `evil.example:${port}`, origin: `http://evil.example:${port}` },
    ];
    for (const headers of foreign) {
      for (const path of routes) {
        const { status, text, headers: told } = await ask(path, headers);
        const what = `${path} ${JSON.stringify(headers)}`;
        expect(status, what).toBe(403);
        expect(Object.keys(JSON.parse(text)), what).toEqual(["error"]);
        expect(told["access-control-allow-origin"], what).toBeUndefined();
      }
      for (const path of ["/api/runs", "/api/runs/killed/resume", "/api/peak", "/api/plan"])
        expect((await ask(path, { ...json, ...headers }, "{}")).status).toBe(403);
    }
    expect((await ask("/api/runs", { origin: own, "sec-fetch-site": "same-origin" })).status).toBe(200);
    expect((await ask("/api/runs", { host: `localhost:${port}` })).status).toBe(200);
    // A link elsewhere that leads here opens the page, and only the page.
    const followed = { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" };
    expect((await ask("/", followed)).status).toBe(200);
    expect((await ask("/api/runs", followed)).status).toBe(403);
  });

  it("asks before what a form of another site could send", async () => {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
      expect((await ask("/api/runs", { "content-type": type }, "{}")).status).toBe(415);
    expect((await ask("/api/runs", {}, "{}")).status).toBe(415);
  });

  it("has the key, where the server can be reached by others", async () => {
    const keyed = await startUi({ ...options, apiKey: "secret" });
    try {
      const at = Number(new URL(keyed.url).port);
      const host = "machine.example:1234";
      const wrong: Record<string, string>[] = [
        {},
        { authorization: "Bearer wrong" },
        { authorization: "secret" },
      ];
      for (const given of wrong)
        expect((await ask("/api/runs", { host, ...given }, undefined, at)).status).toBe(401);
      const right = { authorization: "Bearer secret" };
      expect((await ask("/api/runs", { host, ...right }, undefined, at)).status).toBe(200);
      expect(
        (await ask("/api/runs", { host, origin: `http://${host}`, ...right }, undefined, at)).status,
      ).toBe(200);
      expect(
        (await ask("/api/runs", { host, origin: "http://evil.example", ...right }, undefined, at)).status,
      ).toBe(403);
      // The page itself holds nothing of anybody's.
      expect((await ask("/", { host }, undefined, at)).status).toBe(200);
    } finally {
      await keyed.close();
    }
  });
});

describe("the page's files", () => {
  it("come under a policy that lets nothing in from elsewhere", async () => {
    for (const path of ["/", "/api/runs", "/nowhere", "/api/nowhere"]) {
      const { headers } = await ask(path);
      const policy = String(headers["content-security-policy"]);
      for (const part of [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
      ])
        expect(policy).toContain(part);
      expect(policy).not.toMatch(/unsafe|https?:|\*/);
      expect(headers).toMatchObject({
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
      });
    }
    expect((await ask("/api/runs")).headers["cache-control"]).toBe("no-store");
    const short = await ask("/assets/page.js", { "accept-encoding": "br, gzip" });
    expect(short.headers).toMatchObject({ "content-encoding": "gzip", "content-length": "9" });
    expect(short.headers["cache-control"]).toContain("immutable");
    expect((await ask("/assets/page.js")).text).toHaveLength(1000);
  });

  it("are those of the build: no path of a request becomes one", async () => {
    for (const path of [
      "/../package.json",
      "/%2e%2e/package.json",
      "/assets/..%2f..%2fpackage.json",
      "/..%5c..%5cpackage.json",
      "//etc/passwd",
      "/page.js",
      "/%00",
    ]) {
      const { status, text } = await ask(path);
      expect(status, path).toBe(404);
      expect(text).not.toMatch(/"name"|root:/);
    }
  });
});

describe("runs", () => {
  it("are listed with what their folders tell, whatever stands in them", async () => {
    const { runs, truncated } = await get<RunList>("/api/runs");
    const states = Object.fromEntries(runs.map(({ id, state, step }) => [id, [state, step]]));
    expect(states).toEqual({
      done: ["done", 40],
      "group/paused": ["paused", 20],
      broke: ["failed", 10],
      killed: ["stopped", 30],
      hostile: ["done", 5],
    });
    expect(truncated).toBe(false);
    const killed = runs.find(({ id }) => id === "killed");
    expect(killed).toMatchObject({
      totalSteps: 90,
      model: "tiny",
      method: "lora",
      rank: 8,
      firstLoss: 1,
      loss: 1 / 30,
    });
    expect(runs.find(({ id }) => id === "broke")).toMatchObject({
      error: "step 11: why",
      can: { pause: false, resume: true, end: false },
    });
    expect(killed?.can).toEqual({ pause: false, resume: true, end: false });
    const hostile = runs.find(({ id }) => id === "hostile")!;
    for (const key of ["model", "rank", "method", "totalSteps"]) expect(hostile).not.toHaveProperty(key);
  });

  it("have their recipe as a command, and their metrics joined to what a plot shows", async () => {
    const detail = await get<RunDetail>("/api/runs/group%2Fpaused");
    expect(detail).toMatchObject({ backend: "cpu", flopsPerToken: 2e6, checkpoints: [], log: [] });
    expect(detail.command).toBe(
      "lowrank train --model tiny --out group/paused --data rows.jsonl --learning-rate 0.0001",
    );
    expect(detail.data).toEqual({ file: "rows.jsonl", rows: 10, tokens: 200, targetTokens: 100 });
    const metrics = await get<RunMetrics>("/api/runs/done/metrics?from=11&to=30&points=10");
    expect([metrics.steps, metrics.stepsPerPoint]).toEqual([20, 2]);
    expect(metrics.train.step).toEqual([12, 14, 16, 18, 20, 22, 24, 26, 28, 30]);
    expect(metrics.train.series.loss?.max?.[0]).toBeCloseTo(1 / 11, 12);
  });

  it("are named by nothing that leads out of the folder", async () => {
    const strange = [
      "..%2Foutside",
      "%2e%2e%2foutside",
      "link",
      "link%2Fx",
      "%2Fetc",
      "..",
      "done%2F..%2F..%2Foutside",
      "done%00",
      "done%2Fcheckpoints",
      "nowhere",
      "%ff",
    ];
    for (const id of strange) {
      for (const path of [
        `/api/runs/${id}`,
        `/api/runs/${id}/metrics`,
        `/api/runs/${id}/layers`,
        `/api/compares/${id}`,
      ]) {
        const { status, text } = await ask(path);
        expect(status, path).toBeGreaterThanOrEqual(400);
        expect(status, path).toBeLessThan(500);
        expect(text).not.toContain("flopsPerToken");
      }
      for (const verb of ["pause", "resume", "end"])
        expect((await ask(`/api/runs/${id}/${verb}`, json, "{}")).status).toBe(404);
    }
  });

  it("are asked for within bounds", async () => {
    for (const query of ["from=-1", "from=x", "points=1", "points=1e9", "to=99999999999999999", "from=1.5"])
      expect((await ask(`/api/runs/done/metrics?${query}`)).status, query).toBe(400);
    for (const query of ["set=other", "count=0", "count=21", "from=-1"])
      expect((await ask(`/api/runs/done/rows?${query}`)).status, query).toBe(400);
    for (const body of [
      { prompts: [] },
      { prompts: "x" },
      { prompts: Array(9).fill("x") },
      { prompts: ["x".repeat(20_000)] },
      { maxNewTokens: 1000 },
    ])
      expect((await ask("/api/runs/done/samples", json, JSON.stringify(body))).status).toBe(400);
    expect((await ask("/api/runs", json, "[")).status).toBe(400);
    expect((await ask("/api/runs", json, "[]")).status).toBe(400);
    expect((await ask("/api/runs", json, `{"a":${"[".repeat(5000)}${"]".repeat(5000)}}`)).status).toBe(400);
    expect((await ask("/api/runs", json, `{"a":"${"x".repeat(300_000)}"}`)).status).toBe(413);
    expect((await ask(`/api/events?runs=${Array(200).fill("a").join(",")}`)).status).toBe(400);
    expect((await ask("/api/events?runs=..%2Fx")).status).toBe(400);
  });

  it("are told of as they change, to a page that names them", async () => {
    const { runs } = await get<RunList>("/api/runs");
    expect(runs.length).toBeGreaterThan(0);
    const cut = new AbortController();
    const response = await fetch(`${ui.url}/api/events?runs=growing,done`, { signal: cut.signal });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const told = eventsOf(response);
    expect((await told.next()).value).toEqual({ type: "hello", resumed: false });
    const folder = makeRun(root, "growing", 3, { status: "running" });
    const seen: LiveEvent[] = [];
    for await (const event of told) {
      seen.push(event);
      if (event.type === "run" && event.run.id === "growing" && event.run.step === 3) {
        await get("/api/runs/growing/metrics");
        writeFileSync(join(folder, "metrics.jsonl"), stepLines(1, 7));
        await get("/api/runs/growing/metrics");
      }
      if (event.type === "metrics") break;
    }
    cut.abort();
    expect(seen.at(-1)).toMatchObject({ type: "metrics", id: "growing", train: { step: [4, 5, 6, 7] } });
  });
});

describe("a run at work", () => {
  it("within another program is shown, and not steered; one that listens is asked by its folder", async () => {
    const folder = makeRun(root, "program", 9, { status: "running" });
    const path = join(folder, FOLDER_LOCK);
    const place = { place: "here", instead: "elsewhere" };
    const deaf = await lockPlace(path, place);
    const { summary } = await get<RunDetail>("/api/runs/program");
    expect(summary).toMatchObject({ state: "running", can: { pause: false, resume: false, end: false } });
    const refused = await ask("/api/runs/program/pause", json, "{}");
    expect([refused.status, refused.text]).toEqual([409, expect.stringContaining("part of another program")]);
    expect((await ask("/api/runs/program/resume", json, "{}")).status).toBe(409);
    expect((await ask("/api/peak", json, "{}")).text).toContain("a run is at work");
    deaf.release();

    const lock = await lockPlace(path, { ...place, takesRequests: true });
    const heard: string[] = [];
    const stop = hearRequests(folder, lock.nonce, (request) => heard.push(request), 5);
    expect(JSON.parse((await ask("/api/runs/program/end", json, "{}")).text)).toMatchObject({
      state: "ending",
    });
    while (heard.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(heard).toEqual(["end"]);
    stop();
    lock.release();
    expect((await get<RunDetail>("/api/runs/program")).summary.state).toBe("stopped");
  });
});

describe("a form", () => {
  it("has the options of the command line, but for those that a page may not decide", async () => {
    const { groups, alternatives } = await get<FormOptions>("/api/options");
    const fields = groups.flatMap((group) => group.fields);
    const keys = new Set(fields.map(({ key }) => key));
    const missing = Object.keys(trainDefinition.fields).filter((key) => !keys.has(key));
    for (const key of ["out", "resume", "json", "reward", "distributed"]) expect(missing).toContain(key);
    for (const key of ["model", "data", "rank", "learningRate", "targets", "vram", "evalFraction"])
      expect(keys).toContain(key);
    expect(fields.find(({ key }) => key === "rank")).toMatchObject({
      flag: "--rank",
      kind: "number",
      min: 1,
      max: 65536,
      whole: true,
      defaultText: "8",
    });
    expect(fields.find(({ key }) => key === "method")?.choices).toEqual(["lora", "qlora", "full"]);
    expect(alternatives).toContainEqual(["epochs", "maxSteps"]);
  });

  it("starts nothing that it may not, and names the option at fault", async () => {
    const data = join(root, "rows");
    const values = { model: "tiny", data };
    const refused: [object, number, string | undefined][] = [
      [{ id: "../x", values }, 400, "out"],
      [{ id: "done", values }, 409, "out"],
      [{ id: "link/x", values }, 409, "out"],
      [{ id: 7, values }, 400, "out"],
      [{ id: "x" }, 400, "values"],
      [{ id: "x", values: { ...values, rank: 0 } }, 400, "rank"],
      [{ id: "x", values: { ...values, method: "lore" } }, 400, "method"],
      [{ id: "x", values: { model: "tiny" } }, 400, "data"],
      [{ id: "x", values: { ...values, epochs: 1, maxSteps: 2 } }, 400, "epochs"],
      [{ id: "x", values: { ...values, out: "/tmp/x" } }, 400, "out"],
      [{ id: "x", values: { ...values, reward: ["evil.mjs"] } }, 400, "reward"],
      [{ id: "x", values: { ...values, resume: true } }, 400, "resume"],
      [{ id: "x", values: { ...values, __proto__x: 1 } }, 400, "__proto__x"],
      [{ id: "x", values: { ...values, data: "/etc/passwd" } }, 403, "data"],
      [
        { id: "x", values: { ...values, evalData: [{ path: join(base, "outside"), limit: 1 }] } },
        403,
        "evalData",
      ],
      [{ id: "x", values: { ...values, initAdapter: base } }, 403, "initAdapter"],
      [{ id: "x", values: { ...values, chatTemplate: "/etc/hostname" } }, 403, "chatTemplate"],
      [{ id: "x", values: { ...values, addTokens: join(root, "link", "run.json") } }, 403, "addTokens"],
    ];
    for (const [body, status, field] of refused) {
      const answer = await ask("/api/runs", json, JSON.stringify(body));
      expect([answer.status, JSON.parse(answer.text).error.field], JSON.stringify(body)).toEqual([
        status,
        field,
      ]);
    }
    expect((await ask("/api/plan", json, JSON.stringify({ values: { model: "/etc" } }))).status).toBe(403);
    expect((await ask("/api/runs/done/pause", json, "{}")).status).toBe(409);
    expect((await ask("/api/runs/done/resume", json, "{}")).status).toBe(409);
    expect(existsSync(join(root, "x"))).toBe(false);
  });
});

async function* eventsOf(response: Response): AsyncGenerator<LiveEvent> {
  let held = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    held += piece;
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const data = /^data: (.*)$/m.exec(held.slice(0, end))?.[1];
      held = held.slice(end + 2);
      if (data !== undefined) yield JSON.parse(data) as LiveEvent;
    }
  }
}
