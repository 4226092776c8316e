// The runs of a folder, kept up to date: what is new or has changed is told to the pages that listen (event-hub.ts). Files
// are looked at, not watched, because watching is told differently by every system and not at all over a network; runs that
// are at work are looked at twice a second, all others now and then, and nothing at all while nobody listens.

import { RequestError } from "../serve/request-error.ts";
import { BugError } from "../util/errors.ts";
import type { CompareView, MachinePeak, RunDetail, RunList, RunMetrics, RunSummary } from "./api.ts";
import { CompareFiles } from "./compare-file.ts";
import { EventHub } from "./event-hub.ts";
import { LaunchedRuns } from "./launched-runs.ts";
import type { MetricNews, MetricsTail } from "./metrics-tail.ts";
import { RunEntry } from "./run-entry.ts";
import { findRuns, folderOf, isId, newFolderOf } from "./run-places.ts";

const lookEveryMs = 500;
/** Every so many looks at what is at work, one at everything. */
const lookAround = 8;
/** Columns of runs that are kept, all together. */
const mostColumnBytes = 96 * 2 ** 20;

export class RunBook {
  readonly launched: LaunchedRuns;
  readonly hub: EventHub;
  private readonly compareFiles: CompareFiles;
  private readonly entries = new Map<string, RunEntry>();
  private compares = new Map<string, string>();
  private truncated = false;
  private timer: NodeJS.Timeout | undefined;
  private looks = 0;
  private looking: Promise<void> | undefined;
  private around: Promise<void> | undefined;
  /** Runs whose columns are held, the one looked at last behind the others. */
  private readonly held = new Set<RunEntry>();
  /** Ends of reads that are going on, by run: two at once would tell things twice. */
  private readonly reading = new Map<RunEntry, Promise<unknown>>();

  constructor(
    readonly root: string,
    /** Faults of ours, for the operator. */
    private readonly onFault: (error: unknown) => void,
  ) {
    this.launched = new LaunchedRuns(root, (id) => void this.lookAt(id).catch(this.onFault));
    this.compareFiles = new CompareFiles(root);
    this.hub = new EventHub((some) => this.keepLooking(some));
  }

  /** Whether some run is at work, here or anywhere. */
  get isBusy(): boolean {
    return [...this.entries.values()].some(({ summary }) => summary !== undefined && isAtWork(summary));
  }

  async list(): Promise<RunList> {
    await this.lookAtAll();
    const runs = [...this.entries.values()].flatMap(({ summary }) => summary ?? []);
    const compares = [...this.compares.values()].map((text) => JSON.parse(text));
    const newest = (a: { changedMs: number }, b: { changedMs: number }) => b.changedMs - a.changedMs;
    return { runs: runs.sort(newest), compares: compares.sort(newest), truncated: this.truncated };
  }

  /** RequestError (404) where there is no such run. */
  async entry(id: string): Promise<RunEntry> {
    const known = this.entries.get(id);
    if (known) {
      await this.see(known);
      return known;
    }
    const found = isId(id) && this.launched.fateOf(id) !== undefined;
    const path = found ? await newPath(this.root, id) : await folderOf(this.root, id);
    const entry = new RunEntry(id, path, this.launched);
    const { summary } = await entry.look();
    if (!found && entry.record === undefined && summary.step === 0 && !entry.holder) {
      throw new RequestError(`there is no run "${id.slice(0, 100)}" here`, null, 404, "not_found");
    }
    const meanwhile = this.entries.get(id);
    if (meanwhile) return meanwhile;
    this.entries.set(id, entry);
    this.hub.tell({ type: "run", run: summary });
    return entry;
  }

  async detail(id: string, peak: MachinePeak | undefined): Promise<RunDetail> {
    return await (await this.entry(id)).detail(peak);
  }

  async metrics(id: string, range: { from: number; to: number; points: number }): Promise<RunMetrics> {
    const entry = await this.entry(id);
    await this.readOn(entry);
    const { rows } = entry.columns as MetricsTail;
    const { steps, stepsPerPoint, table } = rows.train.between(range.from, range.to, range.points);
    const whole = Number.MAX_SAFE_INTEGER;
    return {
      id,
      steps,
      stepsPerPoint,
      train: table,
      // Evaluations are few; of a file that has as many as steps, no more than a plot can show.
      eval: rows.eval.between(range.from, range.to, Math.max(range.points, fewRows)).table,
      forget: rows.forget.between(range.from, range.to, Math.max(range.points, fewRows)).table,
      best: rows.best
        .filter((step) => step >= range.from && step <= Math.min(range.to, whole))
        .slice(-fewRows),
      badLines: rows.badLines,
    };
  }

  async compare(id: string): Promise<CompareView> {
    return await this.compareFiles.view(id, new Set(this.entries.keys()));
  }

  /** Looks at one run and tells what has changed. */
  async lookAt(id: string): Promise<RunSummary> {
    const entry = await this.entry(id);
    await this.see(entry);
    return entry.summary!;
  }

  close(): void {
    this.keepLooking(false);
    this.hub.close();
  }

  private keepLooking(on: boolean): void {
    clearInterval(this.timer);
    if (!on) return;
    this.timer = setInterval(() => {
      // A folder that answers slowly is not asked again before it has answered.
      if (this.looking) return;
      this.looking = this.look()
        .catch(this.onFault)
        .finally(() => {
          this.looking = undefined;
        });
    }, lookEveryMs);
    this.timer.unref();
  }

  private async look(): Promise<void> {
    if (this.looks++ % lookAround === 0) return await this.lookAtAll();
    const { watched } = this.hub;
    for (const entry of this.entries.values()) {
      const active = entry.summary === undefined || isAtWork(entry.summary);
      if (active || this.launched.fateOf(entry.id)?.alive) await this.see(entry);
      if (watched.has(entry.id) && !entry.columns) await this.readOn(entry);
    }
  }

  /** Whoever asks while the folders are being looked through has the same look. */
  private lookAtAll(): Promise<void> {
    this.around ??= this.lookThrough().finally(() => {
      this.around = undefined;
    });
    return this.around;
  }

  private async lookThrough(): Promise<void> {
    const found = await findRuns(this.root);
    this.truncated = found.truncated;
    const ids = new Set([...found.runs, ...this.launched.ids]);
    for (const id of this.entries.keys()) {
      if (ids.has(id)) continue;
      const entry = this.entries.get(id)!;
      this.entries.delete(id);
      this.held.delete(entry);
      this.hub.tell({ type: "removed", id });
    }
    const { watched } = this.hub;
    for (const id of ids) {
      const entry = this.entries.get(id) ?? (await this.begin(id));
      if (!entry) continue;
      await this.see(entry);
      if (watched.has(id) && !entry.columns) await this.readOn(entry);
    }
    await this.lookAtCompares(found.compares);
  }

  /** Undefined where its folder has gone in the meantime. */
  private async begin(id: string): Promise<RunEntry | undefined> {
    const isLaunched = this.launched.fateOf(id) !== undefined;
    const path = await (isLaunched ? newPath(this.root, id) : folderOf(this.root, id)).catch(() => undefined);
    if (path === undefined) return undefined;
    const entry = this.entries.get(id) ?? new RunEntry(id, path, this.launched);
    this.entries.set(id, entry);
    return entry;
  }

  private async lookAtCompares(ids: readonly string[]): Promise<void> {
    const now = new Map<string, string>();
    for (const id of ids) {
      const compare = await this.compareFiles.summaryOf(id);
      if (!compare) continue;
      const text = JSON.stringify(compare);
      now.set(id, text);
      if (this.compares.get(id) !== text) this.hub.tell({ type: "compare", compare });
    }
    for (const id of this.compares.keys()) if (!now.has(id)) this.hub.tell({ type: "removed", id });
    this.compares = now;
  }

  private async see(entry: RunEntry): Promise<void> {
    await this.alone(entry, async () => {
      const { summary, changed, news } = await entry.look();
      if (news) this.tellNews(entry, news);
      if (changed && this.entries.get(entry.id) === entry) this.hub.tell({ type: "run", run: summary });
    });
  }

  /** Reads a run's metrics on, and tells what is new of them. */
  private async readOn(entry: RunEntry): Promise<void> {
    await this.alone(entry, async () => {
      const first = entry.columns === undefined;
      const news = await entry.readMetrics();
      // Whoever asks for the metrics for the first time is answered with all of them.
      if (news && !first) this.tellNews(entry, news);
    });
    this.held.delete(entry);
    this.held.add(entry);
    const { watched } = this.hub;
    let bytes = [...this.held].reduce((sum, one) => sum + (one.columns?.sizeBytes ?? 0), 0);
    for (const other of this.held) {
      if (bytes <= mostColumnBytes) break;
      // What a page is told goes on from what it was told.
      if (other === entry || watched.has(other.id)) continue;
      bytes -= other.columns?.sizeBytes ?? 0;
      other.forgetMetrics();
      this.held.delete(other);
    }
  }

  private tellNews(entry: RunEntry, { known, rewoundTo }: MetricNews): void {
    const { id } = entry;
    const rows = entry.columns?.rows;
    if (!rows) throw new BugError("news of metrics that are not held");
    if (!this.hub.watched.has(id)) return;
    if (rewoundTo !== undefined) this.hub.tell({ type: "rewind", id, step: rewoundTo });
    const limit = (kind: "train" | "eval" | "forget") => Math.max(known[kind], rows[kind].length - mostTold);
    this.hub.tell({
      type: "metrics",
      id,
      train: rows.train.rows(limit("train")),
      eval: rows.eval.rows(limit("eval")),
      forget: rows.forget.rows(limit("forget")),
    });
  }

  private async alone(entry: RunEntry, work: () => Promise<void>): Promise<void> {
    const before = this.reading.get(entry) ?? Promise.resolve();
    const mine = before.catch(() => {}).then(work);
    this.reading.set(entry, mine);
    try {
      await mine;
    } finally {
      if (this.reading.get(entry) === mine) this.reading.delete(entry);
    }
  }
}

const fewRows = 2000;
/** Rows that one event tells at the most: more come at once only of a run that was not held. */
const mostTold = 20_000;

export function isAtWork({ state }: Pick<RunSummary, "state">): boolean {
  return state === "starting" || state === "running" || state === "pausing" || state === "ending";
}

/** Of a run whose process has not made its folder yet. */
async function newPath(root: string, id: string): Promise<string> {
  return await folderOf(root, id).catch(() => newFolderOf(root, id));
}
