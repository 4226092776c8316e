// Users' reward functions: each module on a thread of its own (reward-thread.node.ts) or behind a port to
// another, held to a deadline, and what it
// returns held to being one finite number a completion, or null where it has nothing to say. Whatever goes wrong names the
// function and the row. What rewards come to: objectives/advantages.ts.

import { existsSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type MessagePort, Worker } from "node:worker_threads";
import { type RowId, rowLabel } from "../data/row.ts";
import type { RewardTable } from "../objectives/advantages.ts";
import { UserError } from "../util/errors.ts";
import { threadFlags } from "../util/thread-flags.node.ts";
import type { FromReward, Judgeable, RewardPort } from "./judging.ts";
import type { RewardJob } from "./reward-thread.node.ts";

/** A reward function that failed, told by its name and the row. */
export class RewardError extends UserError {}

/** A module and how much its rewards count. */
export interface RewardSpec {
  readonly path: string;
  readonly weight: number;
}

export interface JudgedItem extends Judgeable {
  readonly id: RowId;
}

const typeScript = new Set([".ts", ".mts", ".cts"]);

export class Rewards {
  private constructor(
    private readonly functions: readonly { readonly name: string; readonly port: RewardPort }[],
    readonly weights: readonly number[],
    private readonly timeoutSeconds: number,
  ) {}

  /** Starts every function's thread. UserError for a module that is missing or cannot be used. */
  static async open(
    specs: readonly RewardSpec[],
    timeoutSeconds: number,
    /** Ports of functions that live on another thread, in place of modules by the same number. */
    ports: readonly (RewardPort | undefined)[] = [],
    /** What a module may import takes a while. */
    loadSeconds = Math.max(60, timeoutSeconds),
  ): Promise<Rewards> {
    const names = uniqueNames(specs.map(({ path }) => path));
    const started: { name: string; port: RewardPort }[] = [];
    const rewards = new Rewards(
      started,
      specs.map(({ weight }) => weight),
      timeoutSeconds,
    );
    try {
      for (const [i, { path }] of specs.entries()) {
        const given = ports[i];
        const name = names[i]!;
        if (given) started.push({ name, port: given });
        else {
          const port = startThread(path);
          started.push({ name, port });
          await rewards.ready(name, port, loadSeconds);
        }
      }
      return rewards;
    } catch (error) {
      await rewards.close();
      throw error;
    }
  }

  /** As metrics name them. */
  get names(): readonly string[] {
    return this.functions.map(({ name }) => name);
  }

  /** By completion and function. UserError names the row and the function at fault. */
  async judge(items: readonly JudgedItem[]): Promise<RewardTable> {
    const columns = await Promise.all(this.functions.map(({ name, port }) => this.ask(name, port, items)));
    return items.map((_, i) => columns.map((column) => column[i]!));
  }

  async close(): Promise<void> {
    for (const { port } of this.functions) {
      if (port instanceof Worker) await port.terminate();
      else (port as MessagePort).close();
    }
  }

  private ready(name: string, port: RewardPort, seconds: number): Promise<void> {
    return this.exchange(port, seconds, (settle) => ({
      where: () => `reward ${name}: while it was loaded`,
      late: () => `reward ${name}: loading it took longer than ${seconds} s`,
      take(message) {
        if (message.kind === "ready") settle(undefined);
        else if (message.kind === "unusable") throw new UserError(`reward ${name}: ${message.problem}`);
      },
    }));
  }

  private ask(name: string, port: RewardPort, items: readonly JudgedItem[]): Promise<(number | null)[]> {
    const found: (number | null | undefined)[] = items.map(() => undefined);
    const place = (index: number | undefined) => {
      if (index === undefined) return `${rowLabel(items[0]!.id)} and those beside it`;
      return `${rowLabel(items[index]!.id)}, completion ${JSON.stringify(items[index]!.completion.slice(0, 60))}`;
    };
    const settled = this.exchange<(number | null)[]>(port, this.timeoutSeconds, (settle) => ({
      where: () => `reward ${name}: ${place(found.indexOf(undefined))}`,
      late: () =>
        `reward ${name}: no answer for ${this.timeoutSeconds} s, waiting for ${place(found.indexOf(undefined))}; make it faster, or raise --reward-timeout`,
      take(message) {
        switch (message.kind) {
          case "reward":
            found[message.index] = rewardOf(message.value, () => `reward ${name}: ${place(message.index)}`);
            break;
          case "rewards": {
            const { values } = message;
            if (!Array.isArray(values) || values.length !== items.length) {
              const got = Array.isArray(values) ? `${values.length} rewards` : foundText(values);
              throw new RewardError(
                `reward ${name}: ${place(undefined)}: expected ${items.length} rewards, one a completion, got ${got}`,
              );
            }
            for (const [i, value] of values.entries())
              found[i] = rewardOf(value, () => `reward ${name}: ${place(i)}`);
            break;
          }
          case "thrown":
            throw new RewardError(`reward ${name}: ${place(message.index)}: it threw ${message.problem}`);
          default:
            return;
        }
        if (!found.includes(undefined)) settle(found as (number | null)[]);
      },
    }));
    port.postMessage(items.map(({ prompt, completion, row }) => ({ prompt, completion, row })));
    return settled;
  }

  /** Listens until settled, or until nothing has come for too long. */
  private exchange<T>(
    port: RewardPort,
    seconds: number,
    make: (settle: (value: T) => void) => {
      where: () => string;
      late: () => string;
      take: (message: FromReward) => void;
    },
  ): Promise<T> {
    return new Promise<T>((done, fail) => {
      let timer: NodeJS.Timeout | undefined;
      const events = port as unknown as Worker;
      const end = (act: () => void) => {
        clearTimeout(timer);
        for (const [event, listener] of Object.entries(listeners)) events.off(event, listener);
        act();
      };
      const { where, late, take } = make((value) => end(() => done(value)));
      const wait = () => {
        clearTimeout(timer);
        timer = setTimeout(() => end(() => fail(new RewardError(late()))), 1000 * seconds);
      };
      const lost = (how: string) => end(() => fail(new RewardError(`${where()}: ${how}`)));
      const gone = () => lost("its thread ended by itself; a reward returns its number and ends no process");
      const listeners = {
        message(message: FromReward) {
          wait();
          try {
            take(message);
          } catch (error) {
            end(() => fail(error as Error));
          }
        },
        error: (error: Error) => lost(`its thread failed: ${error.message}`),
        exit: gone,
        close: gone,
      };
      for (const [event, listener] of Object.entries(listeners)) events.on(event, listener);
      wait();
    });
  }
}

function startThread(path: string): RewardPort {
  const file = resolve(path);
  if (!existsSync(file)) throw new UserError(`--reward ${path}: there is no such file`);
  if (typeScript.has(extname(file)) && !runsTypeScript()) {
    throw new UserError(
      `--reward ${path}: Node ${process.version} does not run TypeScript by itself; use Node 22.18 or newer, or write it as JavaScript`,
    );
  }
  const job: RewardJob = { lowrankReward: true, module: pathToFileURL(file).href };
  const source = new URL(`./reward-thread.node${import.meta.url.slice(-3)}`, import.meta.url);
  const worker = new Worker(source, { ...threadFlags(), workerData: job });
  // Whoever waits for it has a timer.
  worker.unref();
  return worker;
}

/** Node strips types since 22.6 behind a flag, since 22.18 and 23.6 without. */
function runsTypeScript(): boolean {
  return Boolean((process.features as { typescript?: string | boolean }).typescript);
}

/** Single precision's: what is larger has no spread that could be told, so that a step would learn nothing. */
const LARGEST_REWARD = 3.4028234663852886e38;

function rewardOf(value: unknown, where: () => string): number | null {
  if (value === null || (typeof value === "number" && Math.abs(value) <= LARGEST_REWARD)) return value;
  if (typeof value === "number" && Number.isFinite(value))
    throw new RewardError(
      `${where()}: ${value} is no reward to compare with others; expected a number from -3.4e38 to 3.4e38`,
    );
  throw new RewardError(
    `${where()}: expected a finite number, or null where it has nothing to say, got ${foundText(value)}`,
  );
}

function foundText(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null && "found" in value) return String(value.found);
  if (typeof value === "string") return `the text ${JSON.stringify(value.slice(0, 40))}`;
  return String(value);
}

/** Files' names without their ending; the same name twice is told apart by number. */
function uniqueNames(paths: readonly string[]): string[] {
  const names = paths.map((path) =>
    path.startsWith("function:") ? path.slice(9) : basename(path, extname(path)),
  );
  return names.map((name, i) => {
    const before = names.slice(0, i).filter((other) => other === name).length;
    return before === 0 ? name : `${name}-${before + 1}`;
  });
}
