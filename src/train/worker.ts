// Hosts the training engine on a thread of its own, so that kernels that block for seconds never stall the terminal
// or a server. Both sides of the port live here: startTraining() is the parent's, the last lines are the worker's.
// Events go up as messages. The wish to stop goes down as one shared integer, because a thread inside a kernel
// reads no messages. Errors cross as data and arrive as the class they were. Not here: training itself (run.ts).

import { existsSync, rmdirSync } from "node:fs";
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from "node:worker_threads";
import type { TrainOptions } from "../config/train-options.ts";
import { sourcesOf } from "../data/data-source.ts";
import { keepRows, rowsNamed } from "../data/memory-rows.ts";
import { ranksLaunched } from "../distributed/join.node.ts";
import type { PlaceLock } from "../formats/place-lock.ts";
import type { RewardPort } from "../rollouts/judging.ts";
import { BugError, type ErrorData, errorFromData, errorToData, UserError } from "../util/errors.ts";
import { threadFlags } from "../util/thread-flags.node.ts";
import type { EngineModule } from "./engine.ts";
import type { TrainEvent, TrainSummary } from "./events.ts";
import { type ClaimHooks, claimRunFolder } from "./run-folder.ts";
import { hearRequests, type RunRequest } from "./run-requests.ts";
import type { RunTrackers } from "./trackers/run-trackers.ts";

/** A run in progress. */
export interface TrainingRun {
  /** Resolves with the summary; rejects with the engine's error. */
  readonly finished: Promise<TrainSummary>;
  /** Asks the engine to finish its step, save and return. */
  interrupt(): void;
  /** Asks the engine to make the step that it is at the run's last. */
  end(): void;
  /** Ends the thread at once; nothing is saved. `finished` rejects. */
  kill(): Promise<void>;
}

type Message =
  | { readonly kind: "event"; readonly event: TrainEvent }
  | { readonly kind: "summary"; readonly summary: TrainSummary }
  | { readonly kind: "error"; readonly error: ErrorData };

interface Job {
  readonly lowrankTraining: true;
  readonly options: TrainOptions;
  readonly stop: Int32Array;
  readonly engine?: string;
  readonly rows: readonly { readonly name: string; readonly bytes: Uint8Array }[];
  readonly rewards: readonly (RewardPort | undefined)[];
}

/** What the parent wishes, in the shared integer. */
const wishes = { none: 0, interrupt: 1, end: 2 } as const;

/** How long the thread may take to end by itself. */
const graceMs = 1000;

/**
 * Starts training on its own thread, alone in its folder: the lock is held here, where no kernel keeps it waiting, from
 * before the thread starts until it is gone. `engine` is the URL of another module that exports runTraining (tests).
 */
export function startTraining(
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
  engine?: string,
  {
    rewards = [],
    onRequest,
  }: {
    /** Ports to reward functions that stay on this thread, by their place in options.reward. */
    readonly rewards?: readonly (RewardPort | undefined)[];
    /** Obeys what others ask of the run by its folder, and tells of it; without it, nobody is heard. */
    readonly onRequest?: (request: RunRequest) => void;
  } = {},
): TrainingRun {
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const sources = [options.data, options.evalData ?? [], options.forget ?? []].flatMap(sourcesOf);
  const rows = sources.flatMap(({ path: name }) => {
    const bytes = rowsNamed(name);
    return bytes ? [{ name, bytes }] : [];
  });
  const job: Job = { lowrankTraining: true, options, stop, engine, rows, rewards };
  let worker: Worker | undefined;
  let killed = false;
  let lost: UserError | undefined;
  const run = async (): Promise<TrainSummary> => {
    const lock = await claim(options, {
      onWait: (message) => emit({ type: "info", message }),
      onLost: (error) => {
        lost = error;
        void worker?.terminate();
      },
      takesRequests: onRequest !== undefined,
    });
    const stopHearing = onRequest && lock.nonce !== "" && hearRequests(options.out, lock.nonce, obey);
    let outcome: "failed" | TrainSummary["status"] = "failed";
    let trackers: RunTrackers | undefined;
    try {
      trackers = await openTrackers(options, emit);
      if (killed) throw endedEarly(1);
      const tell = (event: TrainEvent) => {
        emit(event);
        trackers?.event(event);
      };
      worker = startThread(job, tell);
      const summary = await resultOf(worker, tell);
      outcome = summary.status;
      return summary;
    } catch (error) {
      throw lost ?? error;
    } finally {
      if (stopHearing) stopHearing();
      await trackers?.close(outcome);
      lock.release();
    }
  };
  const wish = (what: keyof typeof wishes) => void Atomics.store(stop, 0, wishes[what]);
  const obey = (request: RunRequest) => {
    wish(request === "pause" ? "interrupt" : "end");
    onRequest?.(request);
  };
  return {
    finished: run(),
    interrupt: () => wish("interrupt"),
    end: () => wish("end"),
    async kill() {
      killed = true;
      await worker?.terminate();
    },
  };
}

/** Of several ranks the first speaks for all. */
async function openTrackers(
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
): Promise<RunTrackers | undefined> {
  if (options.log === undefined || (ranksLaunched(options)?.rank ?? 0) > 0) return undefined;
  const { trackersOf } = await import("./trackers/run-trackers.ts");
  return trackersOf(options, emit);
}

/** Of several ranks the first holds the folder for all. */
async function claim(options: TrainOptions, hooks: ClaimHooks): Promise<PlaceLock> {
  if ((ranksLaunched(options)?.rank ?? 0) > 0) return { nonce: "", release: () => {} };
  const { out } = options;
  const isNew = !existsSync(out);
  const { nonce, release } = await claimRunFolder(out, options.resume, hooks);
  return {
    nonce,
    release() {
      release();
      // Made for a run that was refused before it wrote anything; a folder that holds something stays.
      if (isNew)
        try {
          rmdirSync(out);
        } catch {}
    },
  };
}

function startThread(job: Job, emit: (event: TrainEvent) => void): Worker {
  // stdout and stderr of the thread stay apart from ours: under --json, stdout carries the result alone.
  const worker = newWorker(job);
  for (const [stream, type] of [
    [worker.stdout, "info"],
    [worker.stderr, "warning"],
  ] as const) {
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => {
      for (const message of text.split("\n")) if (message.trim() !== "") emit({ type, message });
    });
  }
  return worker;
}

function newWorker(job: Job): Worker {
  try {
    const transferList = job.rewards.filter((port) => port !== undefined) as MessagePort[];
    return new Worker(new URL(import.meta.url), {
      ...{ ...threadFlags(), workerData: job, transferList },
      ...{ stdout: true, stderr: true },
    });
  } catch (error) {
    if (!/EAGAIN|ENOMEM|ERR_WORKER_INIT_FAILED/.test(String(error))) throw error;
    throw new UserError(
      `no thread can be started for training (${(error as Error).message}): this process is limited in threads (\`ulimit -u\`) or memory (\`ulimit -v\`)`,
    );
  }
}

/**
 * Settles once the thread is gone, and with it the device's memory. A thread that reported its result and still does
 * not end (an open handle, a device's polling) is ended.
 */
function resultOf(worker: Worker, emit: (event: TrainEvent) => void): Promise<TrainSummary> {
  let settle: (() => void) | undefined;
  return new Promise<TrainSummary>((resolve, reject) => {
    let grace: NodeJS.Timeout | undefined;
    const end = (settlement: () => void) => {
      settle ??= settlement;
      grace ??= setTimeout(() => void worker.terminate(), graceMs);
    };
    worker.on("message", (message: Message) => {
      if (message.kind === "event") emit(message.event);
      else if (message.kind === "summary") end(() => resolve(message.summary));
      else end(() => reject(errorFromData(message.error)));
    });
    worker.on("error", (error: NodeJS.ErrnoException) => {
      const outOfMemory = error.code === "ERR_WORKER_OUT_OF_MEMORY";
      const told = new UserError(
        "Training ran out of JavaScript memory: give Node more with NODE_OPTIONS=--max-old-space-size=8192.",
      );
      end(() => reject(outOfMemory ? told : errorFromData(error)));
    });
    worker.on("exit", (code) => {
      clearTimeout(grace);
      if (settle) settle();
      else reject(endedEarly(code));
    });
  });
}

function endedEarly(code: number): BugError {
  return new BugError(`The training thread ended early, with code ${code}.`);
}

/** The worker's side: runs the engine and reports. */
async function host(job: Job, post: (message: Message) => void): Promise<void> {
  const signal = {
    get interrupted() {
      return Atomics.load(job.stop, 0) === wishes.interrupt;
    },
    get ended() {
      return Atomics.load(job.stop, 0) === wishes.end;
    },
  };
  for (const { name, bytes } of job.rows) keepRows(name, bytes);
  try {
    const engine: EngineModule = await import(job.engine ?? defaultEngine());
    const summary = await engine.runTraining(
      Object.freeze(job.options),
      (event) => post({ kind: "event", event }),
      signal,
      job.rewards,
    );
    post({ kind: "summary", summary });
  } catch (error) {
    post({ kind: "error", error: errorToData(error) });
  } finally {
    // Messages already posted still arrive; without the port, nothing of ours keeps the thread alive.
    parentPort?.close();
  }
}

const defaultEngine = () => new URL(`./run${import.meta.url.slice(-3)}`, import.meta.url).href;

if (!isMainThread && parentPort && (workerData as Job | undefined)?.lowrankTraining) {
  const port = parentPort;
  void host(workerData as Job, (message) => port.postMessage(message));
}
