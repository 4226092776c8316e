// What a tracker gets and what a run suffers where the tracker is away, slow, full or refuses: nothing twice, nothing
// lost that metrics.jsonl has, one warning, and an end.

import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { Feed, type FeedLimits } from "../../../src/train/trackers/feed.ts";
import { isSent, type Marks, type Point } from "../../../src/train/trackers/points.ts";
import {
  type RunOutcome,
  type TrackedRun,
  type Tracker,
  TrackerRefusal,
} from "../../../src/train/trackers/tracker.ts";

const limits: FeedLimits = {
  ...{ queuePoints: 10, collectMs: 1, firstPauseMs: 1, longestPauseMs: 4 },
  ...{ graceMs: 200, graceWhenAwayMs: 50, longestGraceMs: 1000 },
};
const run = (firstStep: number): TrackedRun => ({
  ...{ id: "an-id", project: "p", name: "n", out: "out", firstStep, startedMs: 0 },
  recipe: {},
});
const point = (step: number, kind: Point["kind"] = "train"): Point => ({
  ...{ kind, step, timeMs: 0, values: { "train/loss": step } },
});
const to = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

class Fake implements Tracker {
  readonly name = "fake";
  readonly place = "nowhere";
  readonly batchPoints = 4;
  readonly got: Point[] = [];
  outcome: RunOutcome | undefined;
  calls = 0;
  constructor(
    private readonly answers: (call: number, signal: AbortSignal) => Promise<void> | void = () => {},
    private readonly known?: Marks,
  ) {}
  async open(): Promise<Marks | undefined> {
    return this.known;
  }
  async send(points: readonly Point[], signal: AbortSignal): Promise<void> {
    await this.answers(this.calls++, signal);
    this.got.push(...points);
  }
  async close(outcome: RunOutcome): Promise<void> {
    this.outcome = outcome;
  }
}

/** A feed, and what it tells; `record` is what metrics.jsonl holds. */
function feed(tracker: Tracker, record: readonly Point[], firstStep = 1, known: Marks = {}) {
  const told: string[] = [];
  const warned: string[] = [];
  const hooks = {
    info: (message: string) => void told.push(message),
    warn: (message: string) => void warned.push(message),
    async *missed(marks: Marks, most: number) {
      const left = record.filter((each) => !isSent(each, marks));
      for (let at = 0; at < left.length; at += most) yield left.slice(at, at + most);
    },
  };
  return { told, warned, feed: new Feed(tracker, run(firstStep), hooks, limits, known) };
}
const steps = ({ got }: Fake, kind = "train") =>
  got.filter((each) => each.kind === kind).map(({ step }) => step);

it("sends everything in order, in batches, and tells the end", async () => {
  const tracker = new Fake();
  const record = to(10).map((step) => point(step));
  const { feed: own, warned } = feed(tracker, record);
  for (const each of record) own.push(each);
  await own.close("done");
  expect(steps(tracker)).toEqual(to(10));
  expect(tracker.calls).toBe(3);
  expect(tracker.outcome).toBe("done");
  expect(warned).toEqual([]);
});

it("tries again, warns once, and reads what the queue had no room for from the record", async () => {
  const tracker = new Fake((call) => {
    if (call < 5) throw new Error("it is away");
  });
  const record: Point[] = [];
  const { feed: own, warned, told } = feed(tracker, record);
  for (const step of to(200)) {
    record.push(point(step), ...(step % 50 === 0 ? [point(step, "eval")] : []));
    own.push(point(step));
    if (step % 50 === 0) own.push(point(step, "eval"));
  }
  while (tracker.calls < 8) await sleep(1);
  await own.close("interrupted");
  expect(steps(tracker)).toEqual(to(200));
  expect(steps(tracker, "eval")).toEqual([50, 100, 150, 200]);
  expect(warned).toEqual([
    "fake (nowhere): it is away; the run goes on, and what it misses is sent when it answers",
  ]);
  expect(told).toEqual(["fake (nowhere) answers again"]);
});

it("a server that is dead to the end: the run ends, and is told what did not arrive", async () => {
  const tracker = new Fake(() => {
    throw new Error("it cannot be reached (ECONNREFUSED)");
  });
  const record = to(30).map((step) => point(step));
  const { feed: own, warned } = feed(tracker, record);
  for (const each of record) own.push(each);
  await own.close("done");
  expect(tracker.got).toEqual([]);
  expect(warned).toHaveLength(2);
  expect(warned[1]).toMatch(/30 points of the run did not arrive \(it cannot be reached.*--resume sends/);
});

it("a server that never answers holds up nothing", async () => {
  const tracker = new Fake(
    (_, signal) =>
      new Promise((_, reject) =>
        signal.addEventListener("abort", () => reject(new Error("it does not answer in time"))),
      ),
  );
  const record = to(3).map((step) => point(step));
  const { feed: own, warned } = feed(tracker, record);
  for (const each of record) own.push(each);
  await own.close("done");
  expect(warned.at(-1)).toMatch(/3 points of the run did not arrive/);
});

it("a refusal ends it, with one warning", async () => {
  const tracker = new Fake(() => {
    throw new TrackerRefusal("it answers 403: no");
  });
  const record = to(3).map((step) => point(step));
  const { feed: own, warned } = feed(tracker, record);
  for (const each of record) own.push(each);
  while (warned.length === 0) await sleep(1);
  for (const step of to(100, 4)) own.push(point(step));
  await own.close("done");
  expect(tracker.calls).toBe(1);
  expect(warned[0]).toBe("fake (nowhere): it answers 403: no; the run goes on without it");
});

it("a resumed run: what the server has is not sent again, what it lacks is", async () => {
  // Killed at step 9, resumed from 6; the server got 8 steps, and not the evaluation of step 4.
  const tracker = new Fake(() => {}, { train: 8, eval: 2 });
  const record = [...to(6).map((step) => point(step)), point(2, "eval"), point(4, "eval")];
  const { feed: own } = feed(tracker, record, 7, { train: 7 });
  for (const step of to(12, 7)) {
    record.push(point(step));
    own.push(point(step));
  }
  await own.close("done");
  expect(steps(tracker)).toEqual(to(12, 9));
  expect(steps(tracker, "eval")).toEqual([4]);
});

it("without an answer of the server our own notes count", async () => {
  const tracker = new Fake();
  const record = to(6).map((step) => point(step));
  const { feed: own } = feed(tracker, record, 7, { train: 4 });
  for (const step of to(8, 7)) own.push(point(step));
  await own.close("done");
  expect(steps(tracker)).toEqual(to(8, 5));
});
