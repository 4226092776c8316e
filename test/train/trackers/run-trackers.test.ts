// Trackers of a run from its options: servers of this test's own that are well, hostile or slow, addresses, keys, and the
// id by which a run goes on. Real servers: servers.test.ts.

import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { resolveInput } from "../../../src/config/resolve.ts";
import { trainDefinition } from "../../../src/config/train-options.ts";
import type { StepEvent, TrainEvent } from "../../../src/train/events.ts";
import { feedLimits } from "../../../src/train/trackers/feed.ts";
import { trackersOf } from "../../../src/train/trackers/run-trackers.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-trackers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const open: Server[] = [];
afterEach(() => {
  for (const server of open.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

interface Asked {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

async function serve(answer: (asked: Asked, response: ServerResponse) => void) {
  const asked: Asked[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    asked.push({ path: request.url!, headers: request.headers, body });
    answer(asked.at(-1)!, response);
  });
  open.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { asked, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const limits = { ...feedLimits, collectMs: 1, firstPauseMs: 1, longestPauseMs: 5, graceWhenAwayMs: 50 };
let runs = 0;
const newOut = () => mkdtempSync(join(folder, `run-${runs++}-`));
const optionsOf = (out: string, more: object) =>
  resolveInput(trainDefinition, { model: "tiny", data: "rows.jsonl", out, ...more }, "train()");
const step = (at: number): StepEvent => ({
  ...{ type: "train", step: at, loss: 1 / at, learningRate: 1e-4, gradNorm: 1, targetTokens: 4 },
  ...{ tokens: 8, tokensPerSecond: 100, elapsedMs: at },
});
const data = (firstStep: number): TrainEvent => ({
  ...{ type: "data", rows: 1, evalRows: 0, tokens: 1, targetTokens: 1 },
  ...{ stepsPerEpoch: 1, totalSteps: 9, firstStep },
});

/** Runs from a step to another with trackers, beside a metrics.jsonl as a run writes it. */
async function runWith(
  options: ReturnType<typeof optionsOf>,
  environment: Record<string, string>,
  [first, last]: readonly [number, number],
): Promise<string[]> {
  const told: string[] = [];
  const trackers = trackersOf(
    options,
    (event) => void told.push((event as { message: string }).message),
    environment,
    limits,
  )!;
  const path = join(options.out, "metrics.jsonl");
  const lines: string[] =
    first > 1
      ? readFileSync(path, "utf8")
          .trim()
          .split("\n")
          .slice(0, first - 1)
      : [];
  writeFileSync(path, lines.map((line) => `${line}\n`).join(""));
  trackers.event(data(first));
  for (let at = first; at <= last; at++) {
    trackers.event(step(at));
    lines.push(JSON.stringify(step(at)));
  }
  writeFileSync(path, lines.map((line) => `${line}\n`).join(""));
  await trackers.close("done");
  return told;
}

/** Where each record of an event file ends. */
function recordEnds(path: string): number[] {
  const bytes = readFileSync(path);
  const ends: number[] = [];
  for (let at = 0; at + 12 <= bytes.length; ends.push(at)) at += 16 + Number(bytes.readBigUInt64LE(at));
  return ends.filter((end) => end <= bytes.length);
}

/** Losses as TensorBoard shows them: a start that is not the first takes back its step and later ones. */
function shown(out: string): { tag: string; step: number }[] {
  let points: { tag: string; step: number }[] = [];
  let starts = 0;
  for (const name of readdirSync(join(out, "tensorboard")).sort()) {
    const path = join(out, "tensorboard", name);
    const bytes = readFileSync(path);
    let at = 0;
    for (const end of recordEnds(path)) {
      const data = bytes.subarray(at + 12, end - 4);
      at = end;
      // wall_time is 9 bytes; these steps are one byte each.
      const step = data[9] === 0x10 ? data[10]! : 0;
      const rest = data.subarray(step === 0 ? 9 : 11);
      if (rest[0] === 0x3a && starts++ > 0) points = points.filter((each) => each.step < step);
      const tag = /(train|eval)\/loss/.exec(rest.toString("latin1"))?.[0];
      if (tag !== undefined) points.push({ tag, step });
    }
  }
  return points;
}

describe("trackio", () => {
  const environment = (url: string) => ({ TRACKIO_SERVER_URL: `${url}/?write_token=a-key` });

  it("gets each step once, with the key in a header, under one id over a kill", async () => {
    const { asked, url } = await serve((_, response) => response.end("{}"));
    const out = newOut();
    const options = optionsOf(out, { log: ["trackio"], logProject: "p" });
    expect(await runWith(options, environment(url), [1, 6])).toEqual([]);
    expect(await runWith(options, environment(url), [4, 9])).toEqual([]);
    const logs = asked
      .filter(({ path }) => path === "/api/bulk_log")
      .flatMap(({ body }) => JSON.parse(body).logs as { step: number; log_id: string; run_id: string }[]);
    expect(logs.map((log) => log.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(new Set(logs.map((log) => log.run_id)).size).toBe(1);
    expect(logs[0]).toMatchObject({ project: "p", metrics: { "train/loss": 1, "train/elapsedMs": 1 } });
    expect(asked.every(({ headers }) => headers["x-trackio-write-token"] === "a-key")).toBe(true);
    expect(readFileSync(join(out, "trackers.json"), "utf8")).not.toContain("a-key");
  });

  it("another recipe from the first step is another run", async () => {
    const { asked, url } = await serve((_, response) => response.end("{}"));
    const out = newOut();
    await runWith(optionsOf(out, { log: ["trackio"] }), environment(url), [1, 2]);
    await runWith(optionsOf(out, { log: ["trackio"], rank: 4 }), environment(url), [1, 2]);
    const ids = asked.flatMap(({ body }) =>
      (JSON.parse(body).logs ?? []).map((log: { run_id: string }) => log.run_id),
    );
    expect(ids).toHaveLength(4);
    expect(new Set(ids).size).toBe(2);
  });

  const hostile: Record<string, [(asked: Asked, response: ServerResponse) => void, RegExp]> = {
    "sends the run elsewhere": [
      (_, response) => response.writeHead(307, { location: "http://127.0.0.1:9/" }).end(),
      /answers 307 and points elsewhere; the run goes on without it/,
    ],
    "answers without end": [
      (_, response) => {
        const more = () => {
          while (!response.destroyed && response.write("x".repeat(1 << 16)));
        };
        response.on("drain", more);
        more();
      },
      /longer than any that is expected/,
    ],
    "answers in no JSON": [(_, response) => response.end("<html>"), /not in JSON/],
    "refuses the key": [
      (_, response) => response.writeHead(403).end('{"error":"no such\\u001b[2J token"}'),
      /answers 403: no such/,
    ],
    "fails for good": [
      (_, response) => response.writeHead(503).end("{}"),
      /answers 503; the run goes on, and what it misses/,
    ],
    "hangs up": [(_, response) => response.destroy(), /cannot be reached \(.*\); the run goes on/],
  };
  it.each(Object.entries(hostile))("a server that %s", async (_, [answer, warning]) => {
    const { asked, url } = await serve(answer);
    const told = await runWith(optionsOf(newOut(), { log: ["trackio"] }), environment(url), [1, 3]);
    expect(told).toHaveLength(2);
    expect(told[0]).toMatch(warning);
    expect(told[1]).toMatch(/3 points of the run did not arrive/);
    expect(told.join()).not.toContain("a-key");
    expect(asked.every(({ headers }) => headers.host === new URL(url).host)).toBe(true);
  });

  it("what an earlier part could not send arrives with the next", async () => {
    const out = newOut();
    const options = optionsOf(out, { log: ["trackio"], timing: false });
    await runWith(options, { TRACKIO_SERVER_URL: "http://127.0.0.1:9", TRACKIO_WRITE_TOKEN: "k" }, [1, 3]);
    const { asked, url } = await serve((_, response) => response.end("{}"));
    await runWith(options, environment(url), [4, 5]);
    const logs = asked.flatMap(
      ({ body }) => (JSON.parse(body).logs ?? []) as { step: number; metrics: object }[],
    );
    expect(logs.map((log) => log.step)).toEqual([1, 2, 3, 4, 5]);
    expect(Object.keys(logs[0]!.metrics)).not.toContain("train/elapsedMs");
  });
});

describe("tensorboard", () => {
  it("a file a start, later ones later in their names, each step shown once", async () => {
    const options = optionsOf(newOut(), { log: "tensorboard" });
    const ranges = [
      [1, 3],
      [3, 4],
      [5, 6],
    ] as const;
    for (const range of ranges) expect(await runWith(options, {}, range)).toEqual([]);
    const names = readdirSync(join(options.out, "tensorboard"));
    const stamps = names.map((name) => /^events\.out\.tfevents\.(\d{10})\./.exec(name)?.[1]);
    expect(new Set(stamps).size).toBe(3);
    expect(shown(options.out).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("what a kill kept from being written is in the next file, and what it cut in the middle does no harm", async () => {
    const options = optionsOf(newOut(), { log: "tensorboard" });
    await runWith(options, {}, [1, 6]);
    const [name] = readdirSync(join(options.out, "tensorboard"));
    const path = join(options.out, "tensorboard", name!);
    // Steps 6 and 5, and a part of step 4.
    truncateSync(path, recordEnds(path).at(-3)! - 9);
    await runWith(options, {}, [6, 8]);
    expect(shown(options.out).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it("a run that is made longer loses the evaluation that only its end had", async () => {
    const options = optionsOf(newOut(), { log: "tensorboard" });
    const path = join(options.out, "metrics.jsonl");
    const trackers = trackersOf(options, () => {}, {}, limits)!;
    trackers.event(data(1));
    for (const at of [1, 2]) trackers.event(step(at));
    trackers.event({ type: "eval", step: 2, loss: 3, perplexity: 20 });
    writeFileSync(path, [step(1), step(2)].map((each) => `${JSON.stringify(each)}\n`).join(""));
    await trackers.close("done");
    expect(shown(options.out).map(({ tag }) => tag)).toContain("eval/loss");
    await runWith(options, {}, [3, 3]);
    expect(shown(options.out)).toEqual([1, 2, 3].map((at) => ({ tag: "train/loss", step: at })));
  });

  it("a place that cannot be written to costs a warning", async () => {
    const options = optionsOf(newOut(), { log: "tensorboard" });
    writeFileSync(join(options.out, "tensorboard"), "");
    const told = await runWith(options, {}, [1, 2]);
    expect(told[0]).toMatch(/^tensorboard \(.*the run goes on/);
  });
});

describe("addresses and keys", () => {
  const refused = (more: object, environment: Record<string, string> = {}) => {
    try {
      trackersOf(optionsOf("out", more), () => {}, environment);
    } catch (error) {
      return `${(error as Error).name}: ${(error as Error).message}`;
    }
    return "";
  };

  it("says which is missing", () => {
    expect(refused({ log: "mlflow" })).toMatch(/^UsageError: .*--mlflow-uri http.*MLFLOW_TRACKING_URI/);
    expect(refused({ log: "trackio" })).toMatch(/^UsageError: .*--trackio-url.*TRACKIO_SERVER_URL/);
    expect(refused({ log: "trackio", trackioUrl: "http://h:1" })).toMatch(/TRACKIO_WRITE_TOKEN/);
    expect(refused({ log: "mlflow" }, { MLFLOW_TRACKING_URI: "sqlite:///a-key.db" })).toMatch(
      /^UsageError: MLFLOW_TRACKING_URI: expected the address of a server/,
    );
    expect(refused({ log: ["jsonl", "tensorboard"] })).toBe("");
    expect(trackersOf(optionsOf("out", { log: "jsonl" }), () => {})).toBeUndefined();
  });

  it("takes no key in an option, which run.json would keep, and repeats none", () => {
    for (const more of [
      { mlflowUri: "http://me:a-key@h:1" },
      { trackioUrl: "http://h:1?write_token=a-key" },
    ]) {
      const said = refused({ log: "jsonl", ...more });
      expect(said).toMatch(/^UsageError: .*without a user, a password or a token/);
      expect(said).not.toContain("a-key");
    }
  });

  it("MLflow's keys go in headers", async () => {
    for (const [environment, header] of [
      [{ MLFLOW_TRACKING_TOKEN: "t" }, "Bearer t"],
      [{ MLFLOW_TRACKING_USERNAME: "u", MLFLOW_TRACKING_PASSWORD: "p" }, `Basic ${btoa("u:p")}`],
    ] as const) {
      const { asked, url } = await serve((_, response) => response.writeHead(401).end('{"message":"no"}'));
      const told = await runWith(
        optionsOf(newOut(), { log: "mlflow", mlflowUri: url }),
        environment as Record<string, string>,
        [1, 1],
      );
      expect(told[0]).toMatch(/answers 401: no; the run goes on without it/);
      expect(asked[0]!.headers.authorization).toBe(header);
      expect(asked[0]!.path).toBe("/api/2.0/mlflow/experiments/get-by-name?experiment_name=lowrank");
    }
  });
});
