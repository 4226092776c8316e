// Feeds one tracker, beside the run and never in its way: points wait in a queue with a cap and are sent in batches, again
// after a pause where that fails. What the queue had no room for, and what an earlier part of the run left unsent, is
// read from metrics.jsonl. A tracker that is away or refuses is told of once, and at the end what did not arrive.
// Not here: what a tracker does with points (a file each beside this one).

import { isSent, type Marks, marked, type Point } from "./points.ts";
import { type RunOutcome, type TrackedRun, type Tracker, TrackerRefusal } from "./tracker.ts";

export interface FeedHooks {
  readonly info: (message: string) => void;
  readonly warn: (message: string) => void;
  /** What has arrived so far. */
  readonly onMarks?: (marks: Marks) => void;
  /** Points beyond the marks that the run's record holds, at most so many at a time. */
  readonly missed: (marks: Marks, most: number) => AsyncIterable<Point[]>;
}

export interface FeedLimits {
  /** Points that may wait. */
  readonly queuePoints: number;
  /** How long points are collected before they are sent. */
  readonly collectMs: number;
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  /** At the end: how long nothing may arrive, likewise where the last try failed, and how long it may take in all. */
  readonly graceMs: number;
  readonly graceWhenAwayMs: number;
  readonly longestGraceMs: number;
}

export const feedLimits: FeedLimits = {
  ...{ queuePoints: 20_000, collectMs: 1000 },
  ...{ firstPauseMs: 1000, longestPauseMs: 60_000 },
  ...{ graceMs: 10_000, graceWhenAwayMs: 2000, longestGraceMs: 30_000 },
};

const closingPauseMs = 250;

export class Feed {
  private readonly queue: Point[] = [];
  private readonly stop = new AbortController();
  private readonly done: Promise<void>;
  private marks: Marks = {};
  /** Points that are to be found in the run's record: up to these steps. */
  private owed: Marks;
  private samplesLost = 0;
  private trouble: string | undefined;
  private refused = false;
  private warned = false;
  private failures = 0;
  private opened = false;
  private caughtUp = false;
  private closing = false;
  /** When something last arrived. */
  private arrivedAt = 0;
  private wake: (() => void) | undefined;

  constructor(
    private readonly tracker: Tracker,
    private readonly run: TrackedRun,
    private readonly hooks: FeedHooks,
    private readonly limits: FeedLimits = feedLimits,
    /** What has arrived in an earlier part of the run. */
    known: Marks = {},
  ) {
    this.marks = known;
    const before = run.firstStep - 1;
    this.owed = before > 0 ? { train: before } : {};
    this.done = this.work();
  }

  push(point: Point): void {
    if (this.refused) return;
    if (this.queue.length >= this.limits.queuePoints) {
      if (point.kind === "sample") this.samplesLost++;
      else this.owed = marked(this.owed, [point]);
      return;
    }
    this.queue.push(point);
    // Texts are in no record that a killed run could send them from.
    if (point.kind === "sample" && this.failures === 0) this.wake?.();
  }

  /** Sends what is left, as long as the grace lasts, and tells what did not arrive. */
  async close(outcome: RunOutcome): Promise<void> {
    const { graceMs, graceWhenAwayMs, longestGraceMs } = this.limits;
    this.closing = true;
    this.wake?.();
    const begun = performance.now();
    this.arrivedAt = begun;
    const timer = setInterval(() => {
      const grace = this.failures > 0 ? graceWhenAwayMs : graceMs;
      const now = performance.now();
      if (now - this.arrivedAt > grace || now - begun > longestGraceMs) this.stop.abort();
    }, 100);
    await this.done;
    try {
      // A file is closed whatever became of it; a server that is away hears nothing.
      if (this.opened) await this.tracker.close(outcome, this.stop.signal);
    } catch (error) {
      this.trouble ??= (error as Error).message;
      if (!this.warned)
        this.hooks.warn(`${this.title}: the end of the run was not told there (${this.trouble})`);
    } finally {
      clearInterval(timer);
    }
    await this.tellUnsent();
  }

  private get title(): string {
    return `${this.tracker.name} (${this.tracker.place})`;
  }

  private async work(): Promise<void> {
    try {
      for (;;) {
        if (!this.opened) {
          const there = await this.tried(() => this.tracker.open(this.run, this.stop.signal));
          if (there.failed) {
            if (this.ends()) return;
            continue;
          }
          // The tracker knows better than our notes what it has.
          if (there.value) this.marks = there.value;
          this.opened = true;
          // Which evaluations there were before, the record alone knows.
          this.caughtUp = this.run.firstStep === 1;
        }
        if (!this.caughtUp || this.owes()) this.caughtUp = await this.catchUp();
        await this.sendQueue();
        if (this.ends() || (this.closing && this.isDone())) return;
        await this.pause(this.limits.collectMs);
      }
    } catch (error) {
      // A fault in here is no reason to end a run.
      this.trouble = (error as Error).message;
      this.refused = true;
    }
  }

  private ends(): boolean {
    return this.refused || this.stop.signal.aborted;
  }

  private isDone(): boolean {
    return this.caughtUp && this.queue.length === 0 && !this.owes();
  }

  private owes(): boolean {
    return Object.entries(this.owed).some(
      ([kind, step]) => !isSent({ kind: kind as Point["kind"], step }, this.marks),
    );
  }

  private async catchUp(): Promise<boolean> {
    for await (const points of this.hooks.missed(this.marks, this.tracker.batchPoints))
      if (!(await this.sendUntilDone(points))) return false;
    return true;
  }

  private async sendQueue(): Promise<void> {
    while (this.queue.length > 0) {
      const batch = this.queue.slice(0, this.tracker.batchPoints);
      if (!(await this.sendUntilDone(batch.filter((point) => !isSent(point, this.marks))))) return;
      this.queue.splice(0, batch.length);
    }
  }

  /** False where it was given up. */
  private async sendUntilDone(points: readonly Point[]): Promise<boolean> {
    if (points.length === 0) return true;
    for (;;) {
      const result = await this.tried(() => this.tracker.send(points, this.stop.signal));
      if (!result.failed) break;
      if (this.ends()) return false;
    }
    this.marks = marked(this.marks, points);
    this.hooks.onMarks?.(this.marks);
    return true;
  }

  /** One try; after a failure, the pause before the next. */
  private async tried<T>(
    what: () => Promise<T>,
  ): Promise<{ readonly failed: false; readonly value: T } | { readonly failed: true }> {
    if (this.ends()) return { failed: true };
    try {
      const value = await what();
      this.arrivedAt = performance.now();
      if (this.failures > 0) this.hooks.info(`${this.title} answers again`);
      this.failures = 0;
      this.trouble = undefined;
      return { failed: false, value };
    } catch (error) {
      this.trouble ??= (error as Error).message;
      if (error instanceof TrackerRefusal) {
        this.trouble = error.message;
        this.refused = true;
      }
      this.failures++;
      this.tellTrouble();
      const { firstPauseMs, longestPauseMs } = this.limits;
      if (!this.ends()) await this.pause(Math.min(longestPauseMs, firstPauseMs * 2 ** (this.failures - 1)));
      return { failed: true };
    }
  }

  private tellTrouble(): void {
    if (this.warned || this.stop.signal.aborted) return;
    this.warned = true;
    const then = this.refused
      ? "the run goes on without it"
      : "the run goes on, and what it misses is sent when it answers";
    this.hooks.warn(`${this.title}: ${this.trouble}; ${then}`);
  }

  private async tellUnsent(): Promise<void> {
    let unsent = this.queue.filter(({ kind }) => kind === "sample").length + this.samplesLost;
    for await (const points of this.hooks.missed(this.marks, 1000)) unsent += points.length;
    if (unsent === 0) return;
    const why = this.trouble ?? "there was no time for them";
    this.hooks.warn(
      `${this.title}: ${unsent} points of the run did not arrive (${why}); the same command with --resume sends those of metrics.jsonl`,
    );
  }

  /** At most so long: the end of the run wakes it, and then pauses are short. */
  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.closing ? Math.min(ms, closingPauseMs) : ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
