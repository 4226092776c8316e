// A run's numbers in real trackers: killed in the middle, resumed, and read back by TensorBoard's, trackio's and MLflow's
// own code, they are metrics.jsonl's, each once. Needs LOWRANK_PYTHON with tensorboard==2.21.0, trackio==0.43.0 and
// mlflow==3.17.2 (`pip install` of these three); what is missing is skipped.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeRows, scratchFolder, startLowrank, succeed, until, writeRows } from "../../e2e/lowrank.ts";
import { python } from "../../formats/python.ts";

const has = {
  tensorboard: python.has("tensorboard"),
  trackio: python.has("trackio"),
  mlflow: python.has("mlflow"),
};
const wanted = Object.entries(has).flatMap(([name, there]) => (there ? [name] : []));
const folder = scratchFolder();
const out = join(folder, "run");
const token = "a-token-of-this-test";
const servers: ChildProcess[] = [];
const environment: Record<string, string> = {
  TRACKIO_WRITE_TOKEN: token,
  TRACKIO_DIR: join(folder, "trackio"),
  HF_HOME: join(folder, "hf"),
  HF_HUB_OFFLINE: "1",
  MLFLOW_DISABLE_TELEMETRY: "true",
};

function start(name: string, args: readonly string[]): () => string {
  let told = "";
  const child = spawn(join(dirname(python.path), name), args, {
    cwd: folder,
    env: { ...process.env, ...environment },
    detached: true,
  });
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      told += text;
    });
  servers.push(child);
  return () => told;
}

/** A server's answer to whether it is there, waited for. */
async function answered(url: string, told: () => string): Promise<void> {
  for (let tries = 0; tries < 3000; tries++) {
    const answer = await fetch(url).catch(() => undefined);
    if (answer?.ok) return;
    await sleep(100);
  }
  throw new Error(`${url} does not answer: ${told()}`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

type Scalars = Record<string, [step: number, value: number][]>;

/** metrics.jsonl as trackers have it. */
function expected(): Scalars {
  const scalars: Scalars = {};
  for (const line of readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n")) {
    const { type, step, ...values } = JSON.parse(line) as Record<string, unknown>;
    for (const [key, value] of Object.entries(values)) {
      if (typeof value !== "number") continue;
      scalars[`${type}/${key}`] ??= [];
      scalars[`${type}/${key}`]!.push([step as number, value]);
    }
  }
  return scalars;
}

/**
 * Without wall-clock time: of steps that a killed run makes again, servers keep the first time's, as they take nothing
 * back.
 */
function untimed(scalars: Scalars): Scalars {
  return Object.fromEntries(
    Object.entries(scalars).filter(([key]) => !/tokensPerSecond|elapsedMs/.test(key)),
  );
}

const idOf = () => JSON.parse(readFileSync(join(out, "trackers.json"), "utf8")).id as string;

beforeAll(async () => {
  if (wanted.length === 0) return;
  mkdirSync(environment.TRACKIO_DIR!, { recursive: true });
  if (has.trackio) {
    const told = start("trackio", ["show", "--project", "a project", "--no-footer"]);
    for (let tries = 0; tries < 900 && !/launched at/.test(told()); tries++) await sleep(100);
    environment.TRACKIO_SERVER_URL = /launched at: (http:\/\/[\d.]+:\d+)/.exec(told())![1]!;
    await answered(environment.TRACKIO_SERVER_URL, told);
  }
  if (has.mlflow) {
    const port = await freePort();
    const store = ["--backend-store-uri", `sqlite:///${join(folder, "mlflow.db")}`];
    const told = start("mlflow", [
      "server",
      ...store,
      ...["--host", "127.0.0.1", "--port", String(port), "--workers", "1"],
    ]);
    environment.MLFLOW_TRACKING_URI = `http://127.0.0.1:${port}`;
    await answered(`${environment.MLFLOW_TRACKING_URI}/health`, told);
  }
  Object.assign(process.env, environment);
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(40));
  const steps = 400;
  const words = [
    ...["train", "--model", "tiny", "--data", data, "--eval-fraction", "0.2", "--out", out],
    ...["--eval-every", "50", "--save-every", "150", "--batch-size", "4", "--max-steps", String(steps)],
    ...[
      "--sample",
      "1 red:",
      "--log",
      wanted.join(","),
      "--log-project",
      "a project",
      "--log-run",
      "one run",
    ],
  ];
  const { child, finished } = startLowrank(words);
  const linesSoFar = () =>
    existsSync(join(out, "metrics.jsonl"))
      ? readFileSync(join(out, "metrics.jsonl"), "utf8").split("\n").length
      : 0;
  // Beyond a checkpoint, so that some of what trackers have by then is made again.
  await until(() => linesSoFar() > 260, finished);
  child.kill("SIGKILL");
  await finished;
  const id = idOf();
  const { stderr } = succeed(...words, "--resume");
  expect(stderr).not.toContain("warning:");
  expect(stderr).toContain("continuing from");
  expect(idOf()).toBe(id);
  for (const name of ["run.json", "trackers.json", "checkpoints/step-400/state.json"])
    expect(readFileSync(join(out, name), "utf8")).not.toContain(token);
}, 240_000);

afterAll(() => {
  for (const { pid } of servers) if (pid) process.kill(-pid, "SIGKILL");
});

describe(`a resumed run in trackers (${python.reason})`, () => {
  it.skipIf(!has.tensorboard)("TensorBoard's own reader has metrics.jsonl, in f32", () => {
    const read = JSON.parse(
      python.run(
        `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as Server
from tensorboard.plugins.hparams import metadata
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
# What TensorBoard itself reads by: at a restart the one above forgets scalars, but no texts.
server = Server(sys.argv[1], tensor_size_guidance={"text": 0, "scalars": 0})
server.Reload()
start = metadata.parse_session_start_info_plugin_data(
    events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
    "sample": [[e.step, e.tensor_proto.string_val[0].decode()] for e in server.Tensors("sample")],
    "shown": {tag: len(server.Tensors(tag)) for tag in ("train/loss", "eval/loss")},
    "recipe": events.Tensors("recipe")[-1].tensor_proto.string_val[0].decode(),
    "rate": start.hparams["learningRate"].number_value,
    "model": start.hparams["model"].string_value,
    "group": start.group_name,
}))`,
        join(out, "tensorboard"),
      ),
    );
    const rounded = Object.entries(expected()).map(([tag, points]) => [
      tag,
      points.map(([step, value]) => [step, Math.fround(value)]),
    ]);
    expect(read.scalars).toEqual(Object.fromEntries(rounded));
    expect(read.shown).toEqual({ "train/loss": 400, "eval/loss": 8 });
    expect(read.sample.map(([step]: [number]) => step)).toEqual([50, 100, 150, 200, 250, 300, 350, 400]);
    expect(read.sample[0][1]).toMatch(/^\*\*1 red:\*\*\n\n/);
    expect(read.recipe).toContain("| learningRate | 0.0002 |");
    expect(read).toMatchObject({ rate: 2e-4, model: "tiny", group: "one run" });
  });

  it.skipIf(!has.trackio)("trackio's own API has metrics.jsonl", async () => {
    const read = JSON.parse(
      python.run(
        `
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_run_records("a project")
names = SQLiteStorage.get_all_metrics_for_run("a project", None, run_id=sys.argv[1])
values = lambda name: SQLiteStorage.get_metric_values("a project", None, name, run_id=sys.argv[1], max_points=None)
print(json.dumps({
    "runs": runs,
    "scalars": {n: [[v["step"], v["value"]] for v in values(n)] for n in names if "/" in n},
    "samples": [v["step"] for v in values("sample")],
    "config": SQLiteStorage.get_all_run_configs("a project"),
}, default=str))`,
        idOf(),
      ),
    );
    expect(read.runs).toHaveLength(1);
    expect(untimed(read.scalars)).toEqual(untimed(expected()));
    expect(Object.keys(read.scalars).sort()).toEqual(Object.keys(expected()).sort());
    expect(JSON.stringify(read.config)).toContain('"learningRate":0.0002');
  });

  it.skipIf(!has.mlflow)("MLflow's own client has metrics.jsonl", () => {
    const read = JSON.parse(
      python.run(
        `
import json
from mlflow.tracking import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("a project")
runs = client.search_runs([experiment.experiment_id])
run = runs[0]
history = lambda key: client.get_metric_history(run.info.run_id, key)
print(json.dumps({
    "runs": len(runs), "status": run.info.status, "name": run.info.run_name,
    "scalars": {key: [[m.step, m.value] for m in sorted(history(key), key=lambda m: m.step)] for key in run.data.metrics},
    "params": run.data.params, "tags": run.data.tags,
}))`,
      ),
    );
    expect(read).toMatchObject({ runs: 1, status: "FINISHED", name: "one run" });
    expect(untimed(read.scalars)).toEqual(untimed(expected()));
    expect(Object.keys(read.scalars).sort()).toEqual(Object.keys(expected()).sort());
    expect(read.params).toMatchObject({ learningRate: "0.0002", model: "tiny", method: "lora" });
    expect(read.tags["lowrank.runId"]).toBe(idOf());
    expect(read.tags["sample.step-000400"]).toMatch(/^1 red:\n/);
  });
});
