// The trackers of a run: made from its options before it starts, fed with its events as they come, closed when it is over.
// They live on the thread that started the run, which no kernel keeps waiting. trackers.json in the run's folder keeps the
// id by which a resumed run goes on as the same one there, and what has arrived. Not here: sending (feed.ts).

import { createHash, randomUUID } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { TrackerName } from "../../config/tracker-fields.ts";
import { recipeOfRun, type TrainOptions } from "../../config/train-options.ts";
import { dataName } from "../../data/data-source.ts";
import { writeFileAtomic } from "../../formats/atomic-file.ts";
import type { TrainEvent } from "../events.ts";
import { Feed, type FeedLimits, feedLimits } from "./feed.ts";
import { trackers } from "./index.ts";
import { pointsIn } from "./metrics-lines.ts";
import { type Marks, pointKinds, pointOf } from "./points.ts";
import type { Environment, RunOutcome, TrackedRun, Tracker } from "./tracker.ts";

const recordName = "trackers.json";
const recordCapBytes = 1 << 20;
const saveEveryMs = 5000;

interface Opened {
  readonly name: TrackerName;
  readonly tracker: Tracker;
  readonly project: string;
}

interface TrackersRecord {
  readonly version: 1;
  readonly id: string;
  /** Of the options, so that another run in the same folder is another run there. */
  readonly recipe: string;
  readonly startedMs: number;
  readonly arrived: Readonly<Partial<Record<TrackerName, Marks>>>;
}

/** The trackers that --log names; undefined where it names none. UsageError where an address or a key is missing. */
export function trackersOf(
  options: TrainOptions,
  tell: (event: TrainEvent) => void,
  environment: Environment = process.env,
  limits: FeedLimits = feedLimits,
): RunTrackers | undefined {
  const names = (options.log ?? []).filter((name) => name !== "jsonl");
  if (names.length === 0) return undefined;
  const opened = names.map((name) => ({
    name,
    tracker: trackers[name].create(options, environment),
    project: options.logProject ?? trackers[name].project?.(environment) ?? "lowrank",
  }));
  return new RunTrackers(options, opened, tell, limits);
}

export class RunTrackers {
  private feeds: Feed[] = [];
  private record: TrackersRecord | undefined;
  private savedAt = 0;
  private saving: Promise<void> = Promise.resolve();

  constructor(
    private readonly options: TrainOptions,
    private readonly opened: readonly Opened[],
    private readonly tell: (event: TrainEvent) => void,
    private readonly limits: FeedLimits,
  ) {}

  event(event: TrainEvent): void {
    // From here on metrics.jsonl is this run's.
    if (event.type === "data") this.begin(event.firstStep);
    if (this.feeds.length === 0) return;
    const point = pointOf(event, this.options.timing, Date.now());
    if (point) for (const feed of this.feeds) feed.push(point);
  }

  async close(outcome: RunOutcome): Promise<void> {
    await Promise.all(this.feeds.map((feed) => feed.close(outcome)));
    if (this.record) this.save(true);
    await this.saving;
  }

  private begin(firstStep: number): void {
    const { options, tell } = this;
    const recipe = recipeFor(options);
    const hash = createHash("sha256").update(JSON.stringify(recipe)).digest("hex");
    const path = join(options.out, recordName);
    const known = readRecord(path);
    // A run that begins again from its first step goes on with the id only if it is the same one.
    const same = known && (firstStep > 1 || known.recipe === hash) ? known : undefined;
    this.record = same ?? { version: 1, id: randomUUID(), recipe: hash, startedMs: Date.now(), arrived: {} };
    try {
      writeFileSync(path, `${JSON.stringify(this.record, null, 1)}\n`);
    } catch (error) {
      tell({
        type: "warning",
        message: `${path} cannot be written (${(error as NodeJS.ErrnoException).code}): a resumed run will be another one in its trackers`,
      });
    }
    const { id, startedMs } = this.record;
    const name = options.logRun ?? (basename(resolve(options.out)) || "run");
    const metrics = join(options.out, "metrics.jsonl");
    this.feeds = this.opened.map(({ name: kind, tracker, project }) => {
      const run: TrackedRun = { id, project, name, out: options.out, firstStep, startedMs, recipe };
      const hooks = {
        info: (message: string) => tell({ type: "info", message }),
        warn: (message: string) => tell({ type: "warning", message }),
        missed: (marks: Marks, most: number) => pointsIn(metrics, { marks, timing: options.timing, most }),
        onMarks: (marks: Marks) => {
          this.record = { ...this.record!, arrived: { ...this.record!.arrived, [kind]: marks } };
          this.save(false);
        },
      };
      return new Feed(tracker, run, hooks, this.limits, this.record!.arrived[kind]);
    });
  }

  /** Now and then, and at the end. That it cannot be saved costs no more than points sent twice, which trackers sort out. */
  private save(now: boolean): void {
    if (!now && performance.now() - this.savedAt < saveEveryMs) return;
    this.savedAt = performance.now();
    const text = `${JSON.stringify(this.record, null, 1)}\n`;
    const path = join(this.options.out, recordName);
    this.saving = this.saving.then(() => writeFileAtomic(path, text)).catch(() => {});
  }
}

/** What trackers show of the options: those that decide the run, and what it was made of. */
function recipeFor(options: TrainOptions): TrackedRun["recipe"] {
  const all = { model: options.model, data: dataName(options.data), ...recipeOfRun(options) };
  const shown: Record<string, string | number | boolean> = {};
  for (const [key, value] of Object.entries(all)) {
    if (value === undefined || value === null) continue;
    shown[key] =
      typeof value === "string" || typeof value === "number" || typeof value === "boolean"
        ? value
        : JSON.stringify(value);
  }
  return shown;
}

/** What an earlier part of the run left; undefined for anything else that may lie there. */
function readRecord(path: string): TrackersRecord | undefined {
  try {
    if (statSync(path).size > recordCapBytes) return undefined;
    const { version, id, recipe, startedMs, arrived } = JSON.parse(readFileSync(path, "utf8"));
    if (version !== 1 || typeof recipe !== "string" || !Number.isSafeInteger(startedMs)) return undefined;
    if (typeof id !== "string" || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) return undefined;
    const marks = (given: unknown): Marks => {
      const found = (given ?? {}) as Record<string, unknown>;
      return Object.fromEntries(
        pointKinds.flatMap((kind) =>
          Number.isSafeInteger(found[kind]) ? [[kind, found[kind] as number]] : [],
        ),
      );
    };
    const names = Object.keys(trackers) as TrackerName[];
    const known = names.map((name) => [name, marks(arrived?.[name])] as const);
    return { version, id, recipe, startedMs, arrived: Object.fromEntries(known) };
  } catch {
    return undefined;
  }
}
