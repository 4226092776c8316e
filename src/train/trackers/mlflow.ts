// MLflow's server over its REST API 2.0 (mlflow 3.17): an experiment by name, in it a run that carries our id as a tag,
// by which a resumed run finds it again. Where it left off is read from the server: the last step of each kind's loss.
// The server keeps what it is sent twice with other times, so nothing is. Recipes are its parameters, samples its tags.

import { UsageError } from "../../util/errors.ts";
import { addressOf, callJson } from "./http.ts";
import type { Marks, Point, PointKind } from "./points.ts";
import {
  type RunOutcome,
  type TrackedRun,
  type Tracker,
  type TrackerKind,
  TrackerRefusal,
} from "./tracker.ts";

/** MLflow's own limits, mlflow/utils/validation.py. */
const limits = { metrics: 1000, parameters: 100, parameterLength: 6000, tagLength: 8000, keyLength: 250 };
const idTag = "lowrank.runId";
const statuses: Readonly<Record<RunOutcome, string>> = {
  done: "FINISHED",
  interrupted: "KILLED",
  failed: "FAILED",
};
const kinds: readonly PointKind[] = ["train", "eval", "forget", "average"];

export const mlflow: TrackerKind = {
  create({ mlflowUri, logProject }, environment) {
    const given = mlflowUri ?? environment.MLFLOW_TRACKING_URI;
    if (given === undefined)
      throw new UsageError(
        "--log mlflow needs the address of MLflow's server: --mlflow-uri http://HOST:PORT or MLFLOW_TRACKING_URI.",
      );
    const address = addressOf(given, mlflowUri === undefined ? "MLFLOW_TRACKING_URI" : "--mlflow-uri");
    const user = environment.MLFLOW_TRACKING_USERNAME ?? address.user;
    const password = environment.MLFLOW_TRACKING_PASSWORD ?? address.password ?? "";
    const token = environment.MLFLOW_TRACKING_TOKEN;
    const authorization = user
      ? `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`
      : token && `Bearer ${token}`;
    const headers: Record<string, string> = authorization ? { authorization } : {};
    // As MLflow's own client has it, an id goes before a name.
    const experimentId = logProject === undefined ? environment.MLFLOW_EXPERIMENT_ID : undefined;
    return new Mlflow(address.base, address.shown, headers, experimentId);
  },
  project: ({ MLFLOW_EXPERIMENT_NAME }) => MLFLOW_EXPERIMENT_NAME,
};

interface FoundRun {
  readonly runId: string;
  readonly parameters: ReadonlySet<string>;
  readonly marks: Marks;
}

class Mlflow implements Tracker {
  readonly name = "mlflow";
  readonly batchPoints = 100;
  private runId = "";

  constructor(
    private readonly base: string,
    readonly place: string,
    private readonly headers: Readonly<Record<string, string>>,
    private readonly experimentId: string | undefined,
  ) {}

  async open(run: TrackedRun, signal: AbortSignal): Promise<Marks> {
    const experiment = this.experimentId ?? (await this.experiment(run.project, signal));
    const found = await this.find(experiment, run.id, signal);
    this.runId = found?.runId ?? (await this.create(experiment, run, signal));
    if (found) await this.post("runs/update", { run_id: this.runId, status: "RUNNING" }, signal);
    // What a run's parameters are is never changed: a server that has one refuses another.
    const params = Object.entries(run.recipe)
      .map(([key, value]) => ({ key: named(key), value: String(value).slice(0, limits.parameterLength) }))
      .filter(({ key }) => !found?.parameters.has(key));
    for (let at = 0; at < params.length; at += limits.parameters) {
      const some = params.slice(at, at + limits.parameters);
      await this.post("runs/log-batch", { run_id: this.runId, params: some }, signal);
    }
    return found?.marks ?? {};
  }

  async send(points: readonly Point[], signal: AbortSignal): Promise<void> {
    let metrics: object[] = [];
    const flush = async () => {
      if (metrics.length > 0) await this.post("runs/log-batch", { run_id: this.runId, metrics }, signal);
      metrics = [];
    };
    for (const { values, text, step, timeMs, kind } of points) {
      if (text) {
        const value = `${text.prompt}\n${text.text}`.slice(0, limits.tagLength);
        const key = `${kind}.step-${String(step).padStart(6, "0")}`;
        await this.post("runs/set-tag", { run_id: this.runId, key, value }, signal);
        continue;
      }
      const own = Object.entries(values).map(([key, value]) => ({
        ...{ key: named(key), value, step, timestamp: Math.round(timeMs) },
      }));
      // A point is never cut in two: what is there of it is told by one of its numbers.
      if (metrics.length + own.length > limits.metrics) await flush();
      metrics.push(...own);
    }
    await flush();
  }

  async close(outcome: RunOutcome, signal: AbortSignal): Promise<void> {
    const ended = { run_id: this.runId, status: statuses[outcome], end_time: Date.now() };
    if (this.runId !== "") await this.post("runs/update", ended, signal);
  }

  private async experiment(name: string, signal: AbortSignal): Promise<string> {
    const known = await this.experimentNamed(name, signal);
    if (known !== undefined) return known;
    const created = await this.post("experiments/create", { name }, signal, [400, 409]);
    // Another run may have made it in the same moment.
    const id = stringAt(created, "experiment_id") ?? (await this.experimentNamed(name, signal));
    if (id === undefined)
      throw new TrackerRefusal(
        `it makes no experiment ${JSON.stringify(name)}: ${stringAt(created, "message") ?? "no reason given"}`,
      );
    return id;
  }

  private async experimentNamed(name: string, signal: AbortSignal): Promise<string | undefined> {
    const url = `${this.base}api/2.0/mlflow/experiments/get-by-name?experiment_name=${encodeURIComponent(name)}`;
    const { json } = await callJson(url, { headers: this.headers, signal, expected: [404] });
    return stringAt((json as { experiment?: unknown }).experiment, "experiment_id");
  }

  private async find(experiment: string, id: string, signal: AbortSignal): Promise<FoundRun | undefined> {
    const wanted = { experiment_ids: [experiment], filter: `tags."${idTag}" = '${id}'`, max_results: 1 };
    const { runs } = (await this.post("runs/search", wanted, signal)) as { runs?: unknown };
    const run = Array.isArray(runs) ? (runs[0] as { info?: unknown; data?: unknown } | undefined) : undefined;
    const runId = stringAt(run?.info, "run_id");
    if (runId === undefined) return undefined;
    const { params, metrics } = (run?.data ?? {}) as { params?: unknown; metrics?: unknown };
    const listed = (value: unknown) => (Array.isArray(value) ? (value as Record<string, unknown>[]) : []);
    const steps = new Map(listed(metrics).map(({ key, step }) => [key, Number(step ?? 0)]));
    const marks: Partial<Record<PointKind, number>> = {};
    for (const kind of kinds) {
      const step = steps.get(`${kind}/loss`);
      if (Number.isSafeInteger(step)) marks[kind] = step;
    }
    return { runId, marks, parameters: new Set(listed(params).map(({ key }) => String(key))) };
  }

  private async create(experiment: string, run: TrackedRun, signal: AbortSignal): Promise<string> {
    const created = await this.post(
      "runs/create",
      {
        ...{ experiment_id: experiment, run_name: run.name, start_time: run.startedMs },
        tags: [
          { key: idTag, value: run.id },
          { key: "mlflow.source.name", value: "lowrank train" },
        ],
      },
      signal,
    );
    const runId = stringAt((created as { run?: { info?: unknown } }).run?.info, "run_id");
    if (runId === undefined) throw new TrackerRefusal("it answers, but not as MLflow does");
    return runId;
  }

  private async post(
    name: string,
    body: unknown,
    signal: AbortSignal,
    expected: readonly number[] = [],
  ): Promise<object> {
    const url = `${this.base}api/2.0/mlflow/${name}`;
    const { json } = await callJson(url, { headers: this.headers, body, signal, expected });
    return json as object;
  }
}

/** A name that MLflow takes: letters, digits, "_", "-", ".", " ", "/". */
function named(key: string): string {
  return key.replace(/[^\w\-. /]/g, "_").slice(0, limits.keyLength);
}

function stringAt(value: unknown, key: string): string | undefined {
  const found = (value as Record<string, unknown> | undefined | null)?.[key];
  return typeof found === "string" && found !== "" ? found : undefined;
}
