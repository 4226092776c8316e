// train(): the whole of `lowrank train` as a function. It runs on a thread of its own, tells its events to whoever
// iterates over it, and ends when they end. Not here: training itself (train/run.ts), the thread (train/worker.ts).

import type { InputOf } from "../config/define.ts";
import { resolveInput } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import type { TrainEvent, TrainSummary } from "../train/events.ts";
import { startTraining, type TrainingRun } from "../train/worker.ts";
import { UsageError } from "../util/errors.ts";
import { fetchOptions } from "./fetch-options.ts";
import { type HeldRewards, heldRewards, type Reward } from "./rewards.ts";
import { type MixedRows, namedRows, namedSourcesOf, type Rows } from "./rows.ts";

/** What says how several processes work on one run: the commands do, whose ends all ranks share. */
export type RankOptions = "distributed" | "collectiveTimeout" | "shardOptimizer";

/** The options of `lowrank train` in camelCase; rows may also be objects. It trains in this process alone. */
export type TrainInput = Omit<
  InputOf<typeof trainDefinition>,
  "data" | "evalData" | "forget" | "json" | "ui" | "uiPort" | "reward" | RankOptions
> & {
  readonly data: Rows | MixedRows;
  /** With objective "grpo": what completions are worth, by modules or functions. */
  readonly reward?: Reward | readonly Reward[];
  readonly evalData?: Rows | MixedRows;
  readonly forget?: Rows;
  /** Aborting finishes the step, saves a checkpoint and ends the run; `resume: true` continues it. */
  readonly signal?: AbortSignal;
};

/**
 * A run. Iterating gives its events from the first on; leaving the loop early interrupts it as `signal` does. Without
 * a loop it runs all the same: await `finished`.
 */
export interface TrainRun extends AsyncIterable<TrainEvent>, AsyncDisposable {
  /** Resolves when the run has ended, with status "done" or "interrupted"; rejects with its error. */
  readonly finished: Promise<TrainSummary>;
  /** Asks the run to finish its step, save and end. */
  interrupt(): void;
}

/** Fine-tunes a model. UsageError where options are wrong, at once; UserError later, from the loop and `finished`. */
export function train(input: TrainInput): TrainRun {
  const { data, evalData, forget, reward, signal, ...rest } = input;
  const rows = namedSourcesOf(data, "data");
  const evalRows = evalData === undefined ? undefined : namedSourcesOf(evalData, "evalData");
  const forgetRows = forget === undefined ? undefined : namedRows(forget, "forget");
  const rewards = heldRewards(reward);
  const release = () => {
    rewards[Symbol.dispose]();
    rows[Symbol.dispose]();
    evalRows?.[Symbol.dispose]();
    forgetRows?.[Symbol.dispose]();
  };
  try {
    // A program that a launcher of MPI started several times does as it likes: nothing here joins or ends the others.
    const named = { data: rows.choice, evalData: evalRows?.choice, forget: forgetRows?.name };
    const given = { ...rest, ...named, reward: rewards.names, distributed: "off" as const };
    const options = resolveInput(trainDefinition, given, "train()");
    if (options.ui)
      throw new UsageError(
        "train(): ui: the page is the command line's; `lowrank ui FOLDER` shows this run too",
      );
    return new Events(options, signal, rewards, release);
  } catch (error) {
    release();
    throw error;
  }
}

class Events implements TrainRun {
  readonly finished: Promise<TrainSummary>;
  private readonly told: TrainEvent[] = [];
  private readonly waiting = new Set<() => void>();
  private ended = false;
  private stopped = false;
  private run: TrainingRun | undefined;

  constructor(
    options: TrainOptions,
    signal: AbortSignal | undefined,
    private readonly rewards: HeldRewards,
    release: () => void,
  ) {
    const onAbort = () => this.interrupt();
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) this.stopped = true;
    this.finished = this.start(options).finally(() => {
      release();
      signal?.removeEventListener("abort", onAbort);
      this.ended = true;
      this.wake();
    });
    // Whoever iterates is told of the error there; nobody need await `finished` as well.
    this.finished.catch(() => {});
  }

  interrupt(): void {
    this.stopped = true;
    this.run?.interrupt();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    try {
      for (let at = 0; ; ) {
        while (at < this.told.length) yield this.told[at++]!;
        if (this.ended) break;
        await new Promise<void>((resolve) => void this.waiting.add(resolve));
      }
      await this.finished;
    } finally {
      if (!this.ended) await this[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.interrupt();
    await this.finished.catch(() => {});
  }

  private async start(options: TrainOptions): Promise<TrainSummary> {
    const tell = (event: TrainEvent) => {
      this.told.push(event);
      this.wake();
    };
    const hooks = {
      warn: (message: string) => tell({ type: "warning", message }),
      note: (message: string) => tell({ type: "info", message }),
    };
    await fetchOptions(trainDefinition, options, hooks);
    this.run = startTraining(options, tell, undefined, { rewards: this.rewards.ports });
    if (this.stopped) this.run.interrupt();
    return this.run.finished;
  }

  private wake(): void {
    for (const resolve of this.waiting) resolve();
    this.waiting.clear();
  }
}
