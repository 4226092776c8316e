// Runs of a model: /runs/MODEL/RUN holds what was asked (job.json, the rows) and, in out/, what lowrank train leaves. Training
// is train/run.ts, the same as under Node, so that a run resumed after a closed tab is bit-identical to one never stopped.

import { join } from "pathe";
import { resolveInput } from "../../config/resolve.ts";
import { trainDefinition } from "../../config/train-options.ts";
import { FOLDER_LOCK } from "../../formats/place-lock.ts";
import type { TrainEvent, TrainSummary } from "../../train/events.ts";
import { runTraining } from "../../train/run.ts";
import { UsageError, UserError } from "../../util/errors.ts";
import type { AttachOptions, DeviceInfo, Methods, RowsFile, RunInfo, RunOptions } from "../protocol.ts";
import { readWhole, tree } from "../storage/tree.ts";
import { type Release, refresh, runsFolder, takeLock } from "./mount.ts";

/** What was asked for, as JSON. */
interface Job {
  readonly version: 1;
  readonly startedMs: number;
  /** Options of train, those of the adapter among them. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly rows: string;
  readonly evalRows?: string;
  readonly forgetRows?: string;
}

type RunStatus = "running" | "interrupted" | "done";

/** What a browser does otherwise: a tab is closed without a word, so checkpoints come often. */
const defaults = { saveMinutes: 0.25, backend: "webgpu" } as const;
/** Why a run ended that is not done; gone once it goes on. */
const failedFile = "failed.json";
const runName = /^[\w][\w .-]{0,80}$/;
const mostRuns = 10_000;

export interface Stop {
  interrupted: boolean;
}

export class Runs {
  private readonly folder: string;

  constructor(
    private readonly model: string,
    private readonly modelFolder: string,
    private readonly device: DeviceInfo,
    private readonly precision: "auto" | "fp32" | "fp16",
  ) {
    this.folder = join(runsFolder, model);
  }

  /** UsageError for options that train does not have, or that need more than a browser. */
  check(attach: AttachOptions, options: RunOptions = {}): void {
    this.optionsOf({ ...options, ...attach }, { data: "rows.jsonl", out: "out" });
  }

  async start(
    attach: AttachOptions,
    { options, rows, evalRows, forgetRows }: Methods["train"]["args"],
    emit: (event: TrainEvent) => void,
    stop: Stop,
  ): Promise<TrainSummary> {
    const { run: asked, ...own } = options;
    const given = { ...own, ...attach };
    this.optionsOf(given, { data: "rows.jsonl", out: "out" });
    await refresh(runsFolder, this.model);
    const name = asked ?? this.nextName();
    if (!runName.test(name)) throw new UsageError(`run: expected a plain name; got ${JSON.stringify(name)}.`);
    const place = join(this.folder, name);
    if (tree.find(place))
      throw new UserError(
        `run ${name}: there is a run of this name; resume("${name}") goes on with it, or give another name`,
      );
    const release = await this.claim(name);
    try {
      if (!tree.find(this.folder)) await tree.makeFolder(this.folder);
      await tree.makeFolder(place);
      try {
        const job: Job = {
          ...{ version: 1, startedMs: Date.now(), options: given },
          rows: await keepRows(place, "rows", rows),
          ...(evalRows && { evalRows: await keepRows(place, "eval-rows", evalRows) }),
          ...(forgetRows && { forgetRows: await keepRows(place, "forget-rows", forgetRows) }),
        };
        await writeJson(join(place, "job.json"), job);
        await tree.makeFolder(join(place, "out"));
        return await this.execute(name, job, false, emit, stop);
      } catch (error) {
        // What was refused before its first step is no run.
        if ((await readMetrics(join(place, "out", "metrics.jsonl"))).length === 0) await tree.remove(place);
        throw error;
      }
    } finally {
      await release();
    }
  }

  /** Goes on with a run; the newest that is not done unless named. `options` may make it longer. */
  async resume(
    asked: string | undefined,
    options: RunOptions,
    emit: (event: TrainEvent) => void,
    stop: Stop,
  ): Promise<TrainSummary> {
    const infos = await this.list();
    const found = asked === undefined ? infos.find(({ status }) => status !== "done") : undefined;
    const name = asked ?? found?.name;
    if (name === undefined) throw new UserError(`${this.model}: there is no run to resume`);
    const release = await this.claim(name);
    try {
      await refresh(runsFolder, this.model);
      const place = join(this.folder, name);
      await tree.finishRenames(place);
      const job = await readJob(place);
      if (!job) throw new UserError(`run ${name}: there is no such run of ${this.model} in this browser`);
      const { run: _, ...own } = options;
      const longer = { ...job, options: { ...job.options, ...own } };
      this.optionsOf(longer.options, { data: "rows.jsonl", out: "out" });
      if (Object.keys(own).length > 0) await writeJson(join(place, "job.json"), longer);
      if (!tree.find(join(place, "out"))) await tree.makeFolder(join(place, "out"));
      return await this.execute(name, longer, true, emit, stop);
    } finally {
      await release();
    }
  }

  /** The newest first. */
  async list(): Promise<RunInfo[]> {
    await refresh(runsFolder, this.model);
    const node = tree.find(this.folder);
    const names = node?.kind === "folder" ? [...node.children.keys()].slice(0, mostRuns) : [];
    const infos: RunInfo[] = [];
    for (const name of names) {
      const info = await this.infoOf(name);
      if (info) infos.push(info);
    }
    return infos.sort((a, b) => b.startedMs - a.startedMs);
  }

  async remove(name: string): Promise<void> {
    const release = await this.claim(name);
    try {
      await refresh(runsFolder, this.model);
      if (!tree.find(join(this.folder, name))) throw new UserError(`run ${name}: there is no such run`);
      await tree.remove(join(this.folder, name));
    } finally {
      await release();
    }
  }

  /** Where a finished run's adapter lies, and what it was trained over; the newest unless named. */
  async finished(asked?: string): Promise<{ out: string; options: Job["options"]; name: string }> {
    const infos = await this.list();
    const info = infos.find(({ name, status }) => (asked === undefined ? status === "done" : name === asked));
    if (!info)
      throw new UserError(
        asked === undefined
          ? `${this.model}: no run is finished yet`
          : `run ${asked}: there is no such run of ${this.model}`,
      );
    if (info.status !== "done")
      throw new UserError(`run ${info.name}: it is not finished; resume it to its end first`);
    return { out: join(this.folder, info.name, "out"), options: info.options, name: info.name };
  }

  private async execute(
    name: string,
    job: Job,
    resume: boolean,
    emit: (event: TrainEvent) => void,
    stop: Stop,
  ): Promise<TrainSummary> {
    const place = join(this.folder, name);
    const at = (file: string | undefined) => file && join(place, file);
    const options = this.optionsOf(job.options, {
      ...{ data: at(job.rows)!, out: join(place, "out"), resume },
      ...{ evalData: at(job.evalRows), forget: at(job.forgetRows) },
    });
    const failed = join(place, failedFile);
    if (tree.find(failed)) await tree.remove(failed);
    try {
      return await runTraining(options, emit, stop);
    } catch (error) {
      await writeJson(failed, { message: (error as Error).message });
      throw error;
    }
  }

  private optionsOf(given: Readonly<Record<string, unknown>>, places: Readonly<Record<string, unknown>>) {
    for (const key of ["model", "out", "data", "evalData", "forget", "reward", "initAdapter", "addTokens"])
      if (given[key] !== undefined)
        throw new UsageError(
          `train(): "${key}" is not an option in a browser; ${insteads[key] ?? "leave it out"}.`,
        );
    if (given.method === "full")
      throw new UsageError(
        'train(): method "full" is not done in a browser, whose tab could not hold it; take "lora" or "qlora".',
      );
    const { backend } = this.device;
    const input = { ...defaults, ...given, backend, precision: given.precision ?? this.precision };
    return resolveInput(trainDefinition, { ...input, ...places, model: this.modelFolder }, "train()");
  }

  private async claim(name: string): Promise<Release> {
    const release = await takeLock(`run:${this.model}/${name}`, "exclusive");
    if (release) return release;
    throw new UserError(`run ${name}: another tab is at work on it; use that one, or close it first`);
  }

  private nextName(): string {
    for (let i = 1; ; i++) if (!tree.find(join(this.folder, `run-${i}`))) return `run-${i}`;
  }

  private async infoOf(name: string): Promise<RunInfo | undefined> {
    const place = join(this.folder, name);
    const job = await readJob(place);
    if (!job) return undefined;
    const record = await readJson<{ status?: RunStatus; totalSteps?: number; summary?: TrainSummary }>(
      join(place, "out", "run.json"),
    );
    const release =
      record?.status === "done" ? async () => {} : await takeLock(`run:${this.model}/${name}`, "exclusive");
    await release?.();
    const metrics = await readMetrics(join(place, "out", "metrics.jsonl"));
    const steps = metrics.map(({ step }) => step);
    const failed = await readJson<{ message?: string }>(join(place, failedFile));
    return {
      name,
      status: statusOf(record?.status, release !== undefined, failed !== undefined),
      error: failed?.message,
      step: steps.reduce((most, step) => Math.max(most, step), 0),
      totalSteps: record?.totalSteps,
      startedMs: job.startedMs,
      options: job.options,
      metrics,
    };
  }
}

function statusOf(written: RunStatus | undefined, free: boolean, failed: boolean): RunInfo["status"] {
  if (!free) return "running";
  if (written === "done") return "done";
  if (failed) return "failed";
  return written === "interrupted" ? "paused" : "cut";
}

const insteads: Readonly<Record<string, string>> = {
  model: "the model is the one that was opened",
  out: 'name the run with "run"',
  data: "the rows are train()'s first argument",
  evalData: 'give evaluation rows as "evalRows"',
  forget: 'give these rows as "forgetRows"',
  reward: "reward functions need threads of Node",
};

/** Copies the rows into the run's folder, so that it can go on without whoever gave them. */
async function keepRows(place: string, as: string, { name, content }: RowsFile): Promise<string> {
  const ending = /\.(?:jsonl|ndjson|json|csv|tsv)$/i.exec(name)?.[0].toLowerCase();
  if (ending === undefined)
    throw new UserError(
      `${name}: expected rows as .jsonl, .ndjson, .json, .csv or .tsv in a browser; unpack or convert others first`,
    );
  const file = `${as}${ending}`;
  await tree.writeWhole(join(place, file), new Uint8Array(await content.arrayBuffer()));
  return file;
}

async function readJob(place: string): Promise<Job | undefined> {
  const job = await readJson<Job>(join(place, "job.json"));
  return job?.version === 1 && typeof job.rows === "string" ? job : undefined;
}

async function readMetrics(path: string): Promise<RunInfo["metrics"]> {
  const node = tree.find(path);
  if (node?.kind !== "file") return [];
  const events: RunInfo["metrics"][number][] = [];
  for (const line of new TextDecoder().decode(await readWhole(node.body)).split("\n")) {
    try {
      if (line !== "") events.push(JSON.parse(line));
    } catch {
      // The line that a closed tab was writing.
      break;
    }
  }
  return events;
}

async function readJson<T>(path: string): Promise<T | undefined> {
  const node = tree.find(path);
  if (node?.kind !== "file") return undefined;
  try {
    return JSON.parse(new TextDecoder().decode(await readWhole(node.body))) as T;
  } catch {
    return undefined;
  }
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await tree.writeWhole(path, new TextEncoder().encode(JSON.stringify(value, null, 1)));
}

/** What of a finished run's folder is the adapter, for whoever saves it. */
export function isAdapterFile(name: string): boolean {
  return !/^(?:metrics\.jsonl.*|run\.json|checkpoints|\..*)$/.test(name) && name !== FOLDER_LOCK;
}
