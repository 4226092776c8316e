// Processes of runs that the page has started: `lowrank train` on its own, apart from this server, so that a run goes on
// when the server ends, however it ends. Each has a recipe and a log in a folder beside the runs; what is true of a run
// is told by its own folder and lock, and only its last words come from here. What may be started: start-run.ts.

import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { type FileHandle, lstat, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { makeFolder } from "../formats/make-folder.ts";
import { RequestError } from "../serve/request-error.ts";
import { UserError } from "../util/errors.ts";
import { openPlain } from "./metrics-tail.ts";
import { readJsonObject } from "./run-record-file.ts";

/** Beside the runs; of no interest to those who look for runs. */
const ownFolder = ".lowrank-ui";
/** At one time, started by one server: a machine trains one run well. */
const mostAtWork = 4;
const logTailBytes = 16 * 1024;
const mostLogLines = 200;

export interface LaunchFate {
  readonly alive: boolean;
  /** Of a process that has ended; null where a signal ended it. */
  readonly code?: number | null;
  readonly signal?: NodeJS.Signals | null;
}

export interface LogTail {
  readonly lines: readonly string[];
  readonly changedMs: number;
}

export class LaunchedRuns {
  private readonly children = new Map<string, { child: ChildProcess; fate: LaunchFate }>();
  /** Asked for, with no process yet: of two pages that ask at once, one is too late. */
  private readonly starting = new Set<string>();

  constructor(
    private readonly root: string,
    /** Called when a process has ended. */
    private readonly onEnd: (id: string) => void,
  ) {}

  /** Ids of what this server has started. */
  get ids(): string[] {
    return [...this.children.keys()];
  }

  fateOf(id: string): LaunchFate | undefined {
    return this.children.get(id)?.fate;
  }

  /** Starts `lowrank train` with these values, in the folder `out`. RequestError where too many are at work. */
  async launch(
    id: string,
    out: string,
    values: Readonly<Record<string, unknown>>,
    resume: boolean,
  ): Promise<void> {
    if (this.fateOf(id)?.alive || this.starting.has(id))
      throw new RequestError(`${id}: it is at work already`, null, 409);
    const alive = [...this.children.values()].filter(({ fate }) => fate.alive).length;
    const atWork = alive + this.starting.size;
    if (atWork >= mostAtWork)
      throw new RequestError(`${atWork} runs that were started here are at work already`, null, 429);
    this.starting.add(id);
    try {
      await this.begin(id, out, values, resume);
    } finally {
      this.starting.delete(id);
    }
  }

  private async begin(
    id: string,
    out: string,
    values: Readonly<Record<string, unknown>>,
    resume: boolean,
  ): Promise<void> {
    await this.makeOwnFolder();
    const recipe = this.fileOf(id, "yaml");
    // JSON is YAML.
    await writeFileAtomic(recipe, `${JSON.stringify(values, null, 2)}\n`);
    // Made anew: what lies in its place may be a link to any file.
    await rm(this.fileOf(id, "log"), { force: true });
    const log = await open(this.fileOf(id, "log"), "wx");
    try {
      const main = fileURLToPath(new URL(`../cli/main${import.meta.url.slice(-3)}`, import.meta.url));
      const words = [main, "train", recipe, "--out", out, ...(resume ? ["--resume"] : [])];
      this.follow(id, words, log);
    } finally {
      await log.close();
    }
  }

  /** The values that a run was started with here, by this server or an earlier one. */
  async recipeOf(id: string): Promise<Readonly<Record<string, unknown>> | undefined> {
    return (await readJsonObject(this.fileOf(id, "yaml")))?.value;
  }

  /** The last lines that its process told. */
  async logOf(id: string): Promise<LogTail | undefined> {
    const file = await openPlain(this.fileOf(id, "log"));
    if (!file) return undefined;
    try {
      const { size, mtimeMs } = await file.stat();
      const bytes = Buffer.alloc(Math.min(size, logTailBytes));
      const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length);
      const lines = bytes.toString("utf8", 0, bytesRead).split("\n");
      // The first may be the end of one.
      if (size > bytes.length) lines.shift();
      return { lines: lines.filter((line) => line.trim() !== "").slice(-mostLogLines), changedMs: mtimeMs };
    } finally {
      await file.close();
    }
  }

  /** When the log last changed, without reading it; undefined where there is none. */
  async logChangedMs(id: string): Promise<number | undefined> {
    return (await lstat(this.fileOf(id, "log")).catch(() => undefined))?.mtimeMs;
  }

  private async makeOwnFolder(): Promise<void> {
    const own = join(this.root, ownFolder);
    await makeFolder(own).catch((error: NodeJS.ErrnoException) => {
      throw new UserError(`${own}: the folder cannot be made (${error.code})`);
    });
    if (!(await lstat(own)).isDirectory())
      throw new UserError(`${own}: a link is in place of the folder for recipes and logs; remove it`);
  }

  private follow(id: string, words: readonly string[], log: FileHandle): void {
    const { LOWRANK_API_KEY: _, ...env } = process.env;
    const child = spawn(process.execPath, words, {
      // Of its own: neither the end of this server nor Ctrl-C in its terminal is the run's.
      detached: true,
      stdio: ["ignore", "ignore", log.fd],
      env: { ...env, NO_COLOR: "1" },
      windowsHide: true,
    });
    const started = { child, fate: { alive: true } as LaunchFate };
    this.children.set(id, started);
    const end = (fate: LaunchFate) => {
      started.fate = fate;
      this.onEnd(id);
    };
    child.once("error", () => end({ alive: false, code: 1 }));
    child.once("exit", (code, signal) => end({ alive: false, code, signal }));
    child.unref();
  }

  private fileOf(id: string, kind: "yaml" | "log"): string {
    const name = createHash("sha256").update(id).digest("hex").slice(0, 24);
    return join(this.root, ownFolder, `${name}.${kind}`);
  }
}
