// Runs that the page's server starts and steers, with the real command behind it: the server may be killed at any moment,
// and a run that was paused, resumed or told to end is the run that nobody touched.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import type {
  LayersView,
  MemoryView,
  PlanView,
  RowsView,
  RunDetail,
  RunMetrics,
  RunSummary,
  SamplesView,
  ServerInfo,
} from "../../src/ui/api.ts";
import {
  backendName,
  makeRows,
  resultOf,
  scratchFolder,
  startLowrank,
  writeRows,
  writeTinyModel,
} from "../e2e/lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(40));
const root = join(folder, "runs");
mkdirSync(root);
const steps = 600;
const values = {
  ...{ model, data, backend: backendName, maxSteps: steps, batchSize: 2, rank: 4, timing: false },
  ...{ evalFraction: 0.1, evalEvery: 200, saveEvery: 150, threads: 1, dropout: 0.1 },
};
const flags = [
  ...[
    "--model",
    model,
    "--data",
    data,
    "--backend",
    backendName,
    "--max-steps",
    String(steps),
    "--batch-size",
    "2",
  ],
  ...["--rank", "4", "--no-timing", "--eval-fraction", "0.1", "--eval-every", "200", "--save-every", "150"],
  ...["--threads", "1", "--dropout", "0.1"],
];

/** A server in a process of its own, as `lowrank ui` is one. */
async function openServer(): Promise<{ child: ChildProcess; url: string }> {
  const module = new URL("../../dist/ui/ui-server.js", import.meta.url).href;
  const code = `const { startUi } = await import(${JSON.stringify(module)});
    const ui = await startUi({ folder: ${JSON.stringify(root)}, host: "127.0.0.1", port: 0, read: [${JSON.stringify(folder)}], page: new Map(), onFault: console.error });
    console.log(ui.url); setInterval(() => {}, 1e6);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  servers.push(child);
  for await (const piece of child.stdout) return { child, url: String(piece).trim() };
  throw new Error("the server did not start");
}
const servers: ChildProcess[] = [];
afterAll(() => servers.forEach((child) => void child.kill("SIGKILL")));

async function call<T>(url: string, path: string, body?: object): Promise<T> {
  const response = await fetch(`${url}${path}`, {
    ...(body && {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  });
  const answer = await response.json();
  expect(response.ok, JSON.stringify(answer)).toBe(true);
  return answer as T;
}

/** Trains to the end, while connections to servers are minded. */
async function trained(...more: string[]): Promise<void> {
  const { status, stderr } = await startLowrank(["train", ...flags, ...more]).finished;
  expect(status, stderr).toBe(0);
}

async function until(url: string, id: string, holds: (run: RunSummary) => boolean): Promise<RunSummary> {
  for (;;) {
    const { summary } = await call<RunDetail>(url, `/api/runs/${id}`);
    if (holds(summary)) return summary;
    expect(summary.state, summary.error).not.toBe("failed");
    await sleep(20);
  }
}

const isOver = ({ state }: RunSummary) => state === "done" || state === "paused" || state === "stopped";

describe("a run of the page", () => {
  it("paused, its server killed, reopened and resumed, is the run that nobody touched", async () => {
    await trained("--out", join(folder, "whole"));
    const first = await openServer();
    const started = await call<RunSummary>(first.url, "/api/runs", { id: "steered", values });
    expect(started).toMatchObject({ id: "steered", state: "starting" });
    await until(first.url, "steered", ({ step, can }) => step >= 1 && can.pause);
    const asked = await call<RunSummary>(first.url, "/api/runs/steered/pause", {});
    expect(asked.state).toBe("pausing");
    const paused = await until(first.url, "steered", isOver);
    expect(paused).toMatchObject({ state: "paused", can: { pause: false, resume: true, end: false } });
    expect(paused.step).toBeLessThan(steps);
    first.child.kill("SIGKILL");

    const second = await openServer();
    expect(await until(second.url, "steered", () => true)).toMatchObject({
      state: "paused",
      step: paused.step,
    });
    await call(second.url, "/api/runs/steered/resume", {});
    // Killed while the run goes on: the run minds nothing, and a third server finds it at work.
    await until(second.url, "steered", ({ state, step }) => state === "running" && step > paused.step);
    second.child.kill("SIGKILL");
    const third = await openServer();
    const found = await until(third.url, "steered", ({ state }) => state === "running" || state === "done");
    expect(found.can.pause).toBe(found.state === "running");
    expect(await until(third.url, "steered", isOver)).toMatchObject({ state: "done", step: steps });
    expect(resultOf(join(root, "steered"))).toEqual(resultOf(join(folder, "whole")));
    const { recipe, checkpoints, log } = await call<RunDetail>(third.url, "/api/runs/steered");
    expect(recipe).toMatchObject({ maxSteps: steps, rank: 4 });
    expect(checkpoints).toContain(steps);
    expect(log.join("\n")).toContain("continuing from");
  });

  it("that is killed itself is stopped, and its error is told when it fails", async () => {
    const { url } = await openServer();
    await call(url, "/api/runs", { id: "failing", values: { ...values, sequenceLength: 4 } });
    // A process that has hardly begun does not listen yet, which is no reason to call it another program's.
    const body = { method: "POST", headers: { "content-type": "application/json" }, body: "{}" };
    const early = await (await fetch(`${url}/api/runs/failing/pause`, body)).text();
    expect(early).toMatch(/"state":"pausing"|it cannot pause now: it is starting/);
    let summary: RunSummary | undefined;
    for (; summary?.state !== "failed"; await sleep(20))
      ({ summary } = await call<RunDetail>(url, "/api/runs/failing"));
    expect(summary.error).toMatch(/sequence length|tokens/);
    expect(summary.can.resume).toBe(true);
    // What failed before it began may begin again under its name.
    await call(url, "/api/runs", { id: "failing", values: { ...values, maxSteps: 100_000, saveEvery: 5 } });
    await until(url, "failing", ({ step }) => step >= 6);
    process.kill(JSON.parse(readFileSync(join(root, "failing", ".lowrank-lock"), "utf8")).pid, "SIGKILL");
    const stopped = await until(url, "failing", isOver);
    expect(stopped).toMatchObject({ state: "stopped", can: { resume: true } });
  });
});

describe("a run of a terminal", () => {
  it("told to end makes its result of what it has, and can still go on to what it would have been", async () => {
    const { url } = await openServer();
    const out = join(root, "ended");
    const { finished } = startLowrank(["train", ...flags, "--out", out]);
    while (!existsSync(join(out, "run.json"))) await sleep(5);
    await until(url, "ended", ({ step, can }) => step >= 1 && can.end);
    expect((await call<RunSummary>(url, "/api/runs/ended/end", {})).state).toBe("ending");
    const { status, stdout } = await finished;
    expect(status).toBe(0);
    const ended = await until(url, "ended", isOver);
    expect(ended.state).toBe("done");
    expect(ended.step).toBeLessThan(steps);
    expect(stdout).toContain(`Ended at step ${ended.step}, as it was told to.`);
    expect(ended.evalLoss).toBeGreaterThan(0);
    expect(readdirSync(out)).toContain("adapter_model.safetensors");
    expect((await call<RunDetail>(url, "/api/runs/ended")).stoppedEarly).toBe(true);
    // Nothing that was asked is left for a later run.
    await trained("--out", out, "--resume");
    expect(resultOf(out)).toEqual(resultOf(join(folder, "whole")));
  });

  it("with --ui has its page beside it, which steers it and goes with it", async () => {
    const out = join(root, "beside");
    const args = ["train", ...flags, "--out", out, "--max-steps", "100000", "--ui", "--ui-port", "0"];
    const { child, finished } = startLowrank(args);
    let url: string | undefined;
    let told = "";
    child.stderr!.on("data", (text) => {
      told += text;
      url = /^page: (\S+)\/$/m.exec(told)?.[1];
    });
    while (url === undefined) await sleep(5);
    expect(await call<ServerInfo>(url, "/api/server")).toMatchObject({ folder: root, beside: "beside" });
    expect(await (await fetch(url)).text()).toContain("<!doctype html>");
    await until(url, "beside", ({ step, can }) => step >= 1 && can.pause);
    await call(url, "/api/runs/beside/pause", {});
    expect((await finished).status).toBe(130);
    await expect(fetch(url)).rejects.toThrow();
  });
});

describe("a look at a run", () => {
  it("shows rows with their mask and losses, samples, layers, memory and the plan", async () => {
    const { url } = await openServer();
    const rows = await call<RowsView>(url, "/api/runs/steered/rows?set=train&from=1&count=2");
    expect(rows).toMatchObject({ set: "train", from: 1, total: 36, step: steps });
    expect(rows.rows).toHaveLength(2);
    const { tokens } = rows.rows[0]!;
    expect(tokens[0]).not.toHaveProperty("before");
    const targets = tokens.filter(({ target }) => target);
    expect(targets.length).toBeGreaterThan(0);
    expect(targets.length).toBeLessThan(tokens.length);
    const sum = (key: "before" | "after") => targets.reduce((total, token) => total + token[key]!, 0);
    // It was trained on this row.
    expect(sum("after")).toBeLessThan(sum("before"));
    expect(tokens.map(({ text }) => text).join("")).toMatch(/\d+ \w+: \w+/);

    // The mean over the evaluation rows' targets is what `eval` says of base and adapter.
    const held = await call<RowsView>(url, "/api/runs/steered/rows?set=eval&count=20");
    const all = held.rows.flatMap((row) => row.tokens.filter(({ target }) => target));
    const mean = all.reduce((total, { after }) => total + after!, 0) / all.length;
    const { eval: evaluations } = await call<RunMetrics>(url, "/api/runs/steered/metrics");
    const last = (name: string) => evaluations.series[name]!.mean.at(-1)!;
    // A row by itself is few rows, whose products in bf16 round in another order than those of many.
    expect(mean).toBeCloseTo(last("loss"), 3);
    // Of a ratio of means over rows: what each row's losses are beyond the mean of its targets.
    const beyond = held.rows.map((row) => {
      const own = row.tokens.filter(({ target }) => target);
      return own.reduce((total, { after }) => total + after! - mean, 0);
    });
    const count = beyond.length;
    const variance = beyond.reduce((total, each) => total + each ** 2, 0) / (count - 1);
    expect(last("lossStandardError")).toBeCloseTo(Math.sqrt(count * variance) / all.length, 3);

    const { samples, step } = await call<SamplesView>(url, "/api/runs/steered/samples", {
      prompts: ["1 green:"],
      maxNewTokens: 6,
    });
    expect(step).toBe(steps);
    const generated = async (...more: string[]) => {
      const words = ["generate", "--model", model, "--prompt", "1 green:", "--max-new-tokens", "6", ...more];
      const { finished } = startLowrank([...words, "--temperature", "0", "--json", "--backend", backendName]);
      return JSON.parse((await finished).stdout).text;
    };
    expect(samples[0]?.base).toBe(await generated());
    expect(samples[0]?.tuned).toBe(await generated("--adapter", join(root, "steered")));

    const layers = await call<LayersView>(url, "/api/runs/steered/layers");
    expect(layers.step).toBe("result");
    expect(layers.modules[0]).toMatchObject({ layer: 0, rank99: expect.any(Number) });
    expect(layers.modules[0]!.singularValues).toHaveLength(4);
    expect(layers.modules[0]!.relativeSize).toBeGreaterThan(0);

    const memory = await call<MemoryView>(url, "/api/runs/steered/memory");
    expect(memory.planned?.peakBytes).toBeGreaterThan(0);
    expect(memory.measured?.peakBytes).toBeLessThanOrEqual(1.01 * memory.planned!.peakBytes);

    const plan = await call<PlanView>(url, "/api/plan", {
      values: { model, rank: 4, batchSize: 2, sequenceLength: 64, method: "qlora" },
    });
    expect(plan.methods.filter(({ chosen }) => chosen).map(({ name }) => name)).toEqual(["qlora"]);
    expect(plan.rank).toBe(4);
    expect(plan.flopsPerToken).toBeGreaterThan(0);
  });
});
