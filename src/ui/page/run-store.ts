// What the page knows: the server, its runs and comparisons, and the numbers of the runs that are looked at, kept up to
// date by the server's events. Views read signals and ask for a run's numbers by useMetrics. Not here: the wire
// (server-calls.ts, event-stream.ts).

import { batch, type Signal, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { CompareSummary, LiveEvent, RunMetrics, RunSummary, ServerInfo } from "../api.ts";
import { type Following, followStream } from "./event-stream.ts";
import { appendMetrics, rewound } from "./metrics-columns.ts";
import { go, place } from "./route.ts";
import { CallError, calls } from "./server-calls.ts";

export const server = signal<ServerInfo | undefined>(undefined);
export const runs = signal<readonly RunSummary[] | undefined>(undefined);
export const compares = signal<readonly CompareSummary[]>([]);
export const truncated = signal(false);
export const connection = signal<"connecting" | "live" | "lost">("connecting");
/** Why nothing can be shown at all. */
export const failure = signal<string | undefined>(undefined);

interface Watched {
  readonly data: Signal<RunMetrics | undefined>;
  readonly error: Signal<string | undefined>;
  points: number;
  users: number;
  loading: boolean;
  /** In a row. */
  failures: number;
  /** Asked for again while a request was out. */
  stale: boolean;
}
const watched = new Map<string, Watched>();

/** Live lines are never joined: beyond this many times the points that were asked for, all are asked for anew. */
const regrow = 2;
/** What comes faster than this is taken together. */
const gatherMs = 300;
/**
 * Numbers are drawn at most this often, and after a view's first moments so seldom that drawing takes one part in so many
 * of the time: the page may be watched on the machine that trains.
 */
const drawEveryMs = 1000;
const timesDrawing = 200;
const livelyMs = 20_000;
const seldomMs = 10_000;
const askAgainMs = 3000;
/** What waiting for a frame takes by itself. */
const frameMs = 17;

let following: Following | undefined;
let streamed = "";
let waiting: LiveEvent[] = [];
let timer: number | undefined;
let timerAt = 0;
let paceMs = drawEveryMs;
/** When the reader last turned to other runs. */
let turnedAt = 0;

export async function openStore(): Promise<void> {
  follow();
  await refresh();
}

let isFirst = true;

async function refresh(): Promise<void> {
  try {
    const [info, list] = await Promise.all([calls.server(), calls.runs()]);
    batch(() => {
      server.value = info;
      runs.value = list.runs;
      compares.value = list.compares;
      truncated.value = list.truncated;
      failure.value = undefined;
    });
    // `train --ui` opens the page for its run.
    if (isFirst && info.beside !== undefined && place.value.path.length === 0) go(["run", info.beside]);
    isFirst = false;
  } catch (error) {
    failure.value = error instanceof Error ? error.message : String(error);
    const refused = error instanceof CallError && (error.status === 401 || error.status === 403);
    if (!refused) window.setTimeout(() => void refresh(), askAgainMs);
  }
}

/** The stream tells the numbers of the runs that are named to it: another one for another set of runs. */
function follow(): void {
  const names = [...watched.keys()].sort().map(encodeURIComponent).join(",");
  if (following && names === streamed) return;
  following?.stop();
  streamed = names;
  const query = names === "" ? "" : `?runs=${encodeURIComponent(names)}`;
  const hooks = {
    onState: (state: "live" | "lost") => {
      connection.value = state;
    },
    onEvent: (_: string, data: string) => {
      const event = JSON.parse(data) as LiveEvent;
      waiting.push(event);
      takeWithin(isUrgent(event) ? gatherMs : document.hidden ? seldomMs : paceMs);
    },
  };
  following = followStream(`events${query}`, hooks, following?.lastId);
}

/** Growing numbers can wait; what a run has become cannot. */
function isUrgent(event: LiveEvent): boolean {
  if (event.type === "metrics") return false;
  return event.type !== "run" || runs.value?.find(({ id }) => id === event.run.id)?.state !== event.run.state;
}

function takeWithin(ms: number): void {
  const at = performance.now() + ms;
  if (timer !== undefined) {
    if (at >= timerAt) return;
    window.clearTimeout(timer);
  }
  timerAt = at;
  timer = window.setTimeout(takeEvents, ms);
}

function takeEvents(): void {
  timer = undefined;
  const events = waiting;
  waiting = [];
  const begun = performance.now();
  batch(() => {
    for (const event of events) take(event);
  });
  // Views are made again and drawn before the task after the next frame.
  requestAnimationFrame(() =>
    window.setTimeout(() => {
      const drawMs = performance.now() - begun;
      const isNew = performance.now() - turnedAt < livelyMs;
      paceMs = isNew
        ? drawEveryMs
        : Math.min(seldomMs, Math.max(drawEveryMs, timesDrawing * (drawMs - frameMs)));
    }),
  );
}

let greeted = false;

function take(event: LiveEvent): void {
  if (event.type === "hello") {
    if (event.resumed) return;
    // What was told before the stream began, or while it was broken, is not known. Of the first stream that is little.
    void refresh();
    for (const id of watched.keys()) if (greeted || !isAtRest(id)) void load(id);
    greeted = true;
  } else if (event.type === "run") putRun(event.run);
  else if (event.type === "removed") runs.value = runs.value?.filter(({ id }) => id !== event.id);
  else if (event.type === "compare") {
    compares.value = [event.compare, ...compares.value.filter(({ id }) => id !== event.compare.id)];
  } else {
    const entry = watched.get(event.id);
    const known = entry?.data.value;
    // What comes while a request is out may be older or newer than its answer: asked for again after it.
    if (entry?.loading) entry.stale = true;
    if (!entry || !known) return;
    entry.data.value = event.type === "rewind" ? rewound(known, event.step) : appendMetrics(known, event);
    if (entry.data.value.train.step.length > regrow * entry.points) void load(event.id);
  }
}

function isAtRest(id: string): boolean {
  const state = runs.value?.find((run) => run.id === id)?.state;
  return state === "done" || state === "failed" || state === "paused" || state === "stopped";
}

/** Before the list of all has come, what is told of single ones is in it. */
export function putRun(run: RunSummary): void {
  const list = runs.value;
  if (!list) return;
  const at = list.findIndex(({ id }) => id === run.id);
  runs.value = at < 0 ? [run, ...list] : list.with(at, run);
}

async function load(id: string): Promise<void> {
  const entry = watched.get(id);
  if (!entry) return;
  if (entry.loading) {
    entry.stale = true;
    return;
  }
  entry.loading = true;
  entry.stale = false;
  asked++;
  let answer: Answer;
  try {
    answer = { entry, data: await calls.metrics(id, entry.points) };
    entry.failures = 0;
  } catch (error) {
    // A run that has been started has no folder yet; a server that is busy or gone may answer the next time.
    const isEarly = error instanceof CallError && error.status === 404;
    answer = { entry, error: isEarly ? undefined : error instanceof Error ? error.message : String(error) };
    const waitMs = Math.min(seldomMs, gatherMs * 2 ** entry.failures++);
    window.setTimeout(() => {
      if (watched.get(id) === entry && entry.users > 0) void load(id);
    }, waitMs);
  }
  asked--;
  entry.loading = false;
  if (entry.stale) window.setTimeout(() => void load(id), gatherMs);
  answers.push(answer);
  if (asked === 0) takeAnswers();
  else if (answerTimer === undefined) answerTimer = window.setTimeout(takeAnswers, gatherMs);
}

interface Answer {
  readonly entry: Watched;
  readonly data?: RunMetrics;
  readonly error?: string;
}
/** Requests that are out. */
let asked = 0;
let answers: Answer[] = [];
let answerTimer: number | undefined;

/** The numbers of many runs come one by one, and are drawn together. */
function takeAnswers(): void {
  window.clearTimeout(answerTimer);
  answerTimer = undefined;
  const taken = answers;
  answers = [];
  batch(() => {
    for (const { entry, data, error } of taken) {
      if (data) entry.data.value = data;
      entry.error.value = error;
    }
  });
}

const useless = signal<RunMetrics | undefined>(undefined);

function watch(id: string, points: number): () => void {
  let entry = watched.get(id);
  turnedAt = performance.now();
  if (!entry) {
    entry = {
      data: signal(undefined),
      error: signal(undefined),
      ...{ points, users: 0, loading: false, failures: 0, stale: false },
    };
    watched.set(id, entry);
    void load(id);
  } else if (points > entry.points) {
    entry.points = points;
    void load(id);
  }
  entry.users++;
  revision.value++;
  const mine = entry;
  return () => {
    mine.users--;
    // The next view may want it too.
    window.setTimeout(() => {
      if (mine.users === 0 && watched.get(id) === mine) {
        watched.delete(id);
        follow();
      }
    }, 1000);
  };
}

const revision = signal(0);

/** The numbers of several runs, `points` of each at most, kept up to date while the view is shown. */
export function useMetrics(ids: readonly string[], points: number): readonly (RunMetrics | undefined)[] {
  const key = JSON.stringify(ids);
  useEffect(() => {
    const stops = ids.map((id) => watch(id, points));
    follow();
    return () => {
      for (const stop of stops) stop();
    };
  }, [key, points]);
  // Read, so that a view hears when its runs begin to be watched.
  void revision.value;
  return ids.map((id) => (watched.get(id)?.data ?? useless).value);
}

export function metricsError(id: string): string | undefined {
  return watched.get(id)?.error.value;
}

/** The name counted up to the first that no run has: first -> first-2, run-0 -> run-1. */
export function freeName(name: string): string {
  const taken = new Set((runs.value ?? []).map(({ id }) => id));
  const [, stem, digits] = /^(.*?)(?:-(\d{1,6}))?$/s.exec(name)!;
  let next = digits === undefined ? 2 : Number(digits) + 1;
  while (taken.has(`${stem}-${next}`)) next++;
  return `${stem}-${next}`;
}

const colors = new Map<string, number>();

/** A run's color stays its own while the page is open, whatever else is drawn. */
export function colorOfRun(id: string): number {
  for (const run of runs.value ?? []) if (!colors.has(run.id)) colors.set(run.id, colors.size);
  return colors.get(id) ?? 0;
}
