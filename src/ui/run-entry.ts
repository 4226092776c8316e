// One run as the page sees it: its record, lock, metrics and process put together into a state, a summary and a detail.
// What is read is kept until its file changes. Not here: which runs there are (run-book.ts), what may be asked of them
// (run-actions.ts).

import { lstat, readFile } from "node:fs/promises";
import { join } from "node:path";
import { trainDefinition } from "../config/train-options.ts";
import { commandLineOf } from "../config/written-options.ts";
import { FOLDER_LOCK, holderAt, type SeenHolder } from "../formats/place-lock.ts";
import { listCheckpoints } from "../train/checkpoint.ts";
import type { RunRequest } from "../train/run-requests.ts";
import { BugError } from "../util/errors.ts";
import type { MachinePeak, RunDetail, RunState, RunSummary } from "./api.ts";
import type { LaunchedRuns, LogTail } from "./launched-runs.ts";
import { type EndsOfMetrics, endsOf, readEnds } from "./metrics-ends.ts";
import { type MetricNews, MetricsTail } from "./metrics-tail.ts";
import { numberIn, type ReadRecord, readRunRecord, textIn } from "./run-record-file.ts";

const mostCheckpoints = 1000;

export class RunEntry {
  summary: RunSummary | undefined;
  record: ReadRecord | undefined;
  holder: SeenHolder | undefined;
  /** What it was asked, and by which lock it was at work then. */
  private asked: { readonly request: RunRequest; readonly of: string } | undefined;
  private tail: MetricsTail | undefined;
  private ends: EndsOfMetrics | undefined;
  private recordStamp = "";
  private metricsStamp = "";
  private log: LogTail | undefined;
  private logStamp = 0;

  constructor(
    readonly id: string,
    readonly path: string,
    private readonly launched: LaunchedRuns,
  ) {}

  /** Columns of its metrics, where they have been asked for. */
  get columns(): MetricsTail | undefined {
    return this.tail;
  }

  /** Remembers what it was asked, until its process has ended. */
  askedFor(request: RunRequest): void {
    if (this.holder) this.asked = { request, of: this.holder.nonce };
  }

  /** Reads its metrics into columns, or on from where they were read to. */
  async readMetrics(): Promise<MetricNews | undefined> {
    this.tail ??= new MetricsTail(join(this.path, "metrics.jsonl"));
    return await this.tail.read();
  }

  /** Frees the columns, which are read again when they are asked for. */
  forgetMetrics(): void {
    this.tail = undefined;
  }

  /** Resident memory of its process, where the system tells; undefined elsewhere. */
  async rssBytes(): Promise<number | undefined> {
    if (!this.holder?.isHere) return undefined;
    const status = await readFile(`/proc/${this.holder.pid}/status`, "utf8").catch(() => "");
    const kilobytes = /^VmRSS:\s*(\d+) kB/m.exec(status)?.[1];
    return kilobytes === undefined ? undefined : 1024 * Number(kilobytes);
  }

  /** Looks at its files again: the summary, whether it has changed, and what is new of metrics that are held. */
  async look(): Promise<{
    readonly summary: RunSummary;
    readonly changed: boolean;
    readonly news?: MetricNews;
  }> {
    const recordPath = join(this.path, "run.json");
    const metricsPath = join(this.path, "metrics.jsonl");
    const [record, metrics] = await Promise.all([stampOf(recordPath), stampOf(metricsPath)]);
    this.holder = await holderAt(join(this.path, FOLDER_LOCK));
    if (record.text !== this.recordStamp) {
      this.record = await readRunRecord(recordPath);
      this.recordStamp = record.text;
    }
    let news: MetricNews | undefined;
    if (metrics.text !== this.metricsStamp) {
      news = await this.tail?.read();
      this.ends = this.tail ? endsOf(this.tail.rows) : await readEnds(metricsPath);
      this.metricsStamp = metrics.text;
    }
    const logMs = (await this.launched.logChangedMs(this.id)) ?? 0;
    if (logMs !== this.logStamp) {
      this.log = await this.launched.logOf(this.id);
      this.logStamp = logMs;
    }
    const summary = this.summarize(Math.max(record.ms, metrics.ms, logMs));
    const changed = JSON.stringify(summary) !== JSON.stringify(this.summary);
    this.summary = summary;
    return { summary, changed, ...(news && { news }) };
  }

  /** Of what the last look found. */
  async detail(peak: MachinePeak | undefined): Promise<RunDetail> {
    const { summary, record } = this;
    if (!summary) throw new BugError("a run that nobody has looked at");
    const options = record?.options ?? {};
    const recipe =
      Object.keys(options).length > 0 ? options : ((await this.launched.recipeOf(this.id)) ?? {});
    const flops = record?.flopsPerToken;
    const fits = peak !== undefined && flops !== undefined && flops > 0 && peak.device === record?.device;
    return {
      summary,
      recipe,
      command: commandLineOf(trainDefinition, recipe),
      device: record?.device,
      backend: record?.backend,
      precision: record?.precision,
      lowrank: record?.lowrank,
      trainableParameters: record?.trainableParameters,
      totalParameters: record?.totalParameters,
      flopsPerToken: flops,
      ...(fits && { peakTokensPerSecond: peak.flopsPerSecond / flops }),
      data: record?.data,
      evalData: record?.evalData,
      best: record?.best,
      ...(record?.stoppedEarly && { stoppedEarly: true }),
      ...(record?.toldToEnd && { toldToEnd: true }),
      checkpoints: (await listCheckpoints(this.path).catch(() => [])).slice(-mostCheckpoints),
      log: this.log?.lines ?? [],
    };
  }

  private summarize(changedMs: number): RunSummary {
    const { record, ends, holder } = this;
    const { state, error } = this.judge();
    const options = record?.options ?? {};
    const works = holder?.takesRequests === true && (state === "running" || state === "starting");
    const rests = state === "paused" || state === "stopped" || state === "failed";
    return {
      id: this.id,
      state,
      step: ends?.step ?? 0,
      totalSteps: record?.totalSteps,
      model: textIn(options.model),
      method: textIn(options.method),
      adapter: options.method === "full" ? undefined : textIn(options.adapter),
      rank: options.method === "full" ? undefined : numberIn(options.rank),
      objective: textIn(options.objective),
      learningRate: numberIn(options.learningRate),
      firstLoss: ends?.firstLoss,
      loss: ends?.loss,
      evalLoss: ends?.evalLoss,
      tokensPerSecond: ends?.tokensPerSecond,
      elapsedMs: ends?.elapsedMs,
      changedMs: Math.round(changedMs),
      ...(error !== undefined && { error }),
      can: { pause: works, resume: rests, end: works },
    };
  }

  private judge(): { readonly state: RunState; readonly error?: string } {
    const { record, holder, log } = this;
    const fate = this.launched.fateOf(this.id);
    if (holder) {
      if (this.asked?.of === holder.nonce)
        return { state: this.asked.request === "pause" ? "pausing" : "ending" };
      return { state: record?.status === "running" ? "running" : "starting" };
    }
    this.asked = undefined;
    if (fate?.alive) return { state: "starting" };
    const isLast = log !== undefined && log.changedMs >= (record?.changedMs ?? 0) - 1;
    if (record?.status === "done" && !(isLast && errorIn(log))) return { state: "done" };
    const told = isLast ? errorIn(log) : undefined;
    if (told !== undefined) return { state: "failed", error: told };
    if (record?.status === "failed") return { state: "failed", error: record.error };
    if (fate?.signal) return { state: "stopped", error: `its process was ended by ${fate.signal}` };
    if (record?.status === "interrupted") return { state: "paused" };
    return { state: "stopped" };
  }
}

/** The last error that a process told, with what stands below it. */
function errorIn({ lines }: LogTail): string | undefined {
  const at = lines.findLastIndex((line) => line.startsWith("error: "));
  return at < 0 ? undefined : lines.slice(at).join("\n").slice("error: ".length).slice(0, 2000);
}

/** What changes with a file's content; links count as no file. */
async function stampOf(path: string): Promise<{ readonly text: string; readonly ms: number }> {
  const info = await lstat(path).catch(() => undefined);
  if (!info?.isFile()) return { text: "", ms: 0 };
  return { text: `${info.ino}-${info.size}-${info.mtimeMs}`, ms: info.mtimeMs };
}
