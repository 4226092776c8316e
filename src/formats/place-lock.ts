// One process at a time in a place (a run's folder, a file to be written): a lock file made exclusively that says who
// holds it. It is removed at every end of the process that code can see; one that a killed process left is recognised
// and taken over. Of a holder that cannot be looked up (another machine on a shared disk, another container) its
// pulse tells: the holder touches the file every few seconds.
//
// Taking over is the delicate part: two processes may find the same stale lock at once, and the slower must not remove
// what the faster one made since. So a stale lock is removed only under a second lock named after its content, and
// only while it still has that content.

import { createHash, randomBytes } from "node:crypto";
import { readFileSync, unlinkSync } from "node:fs";
import { link, open, readdir, readFile, stat, unlink, utimes } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UserError } from "../util/errors.ts";
import { writeProblem } from "./atomic-file.ts";
import { fateOf, type ProcessIdentity, thisProcess } from "./process-identity.ts";

export interface PlaceLock {
  /** Of this lock alone: what is meant for another holder is not meant for this one. */
  readonly nonce: string;
  /** Removes the lock file. Does nothing the second time. */
  release(): void;
}

export interface LockOptions {
  /** What is locked and what to do instead, for the refusal: "--out runs/a", "give another folder". */
  readonly place: string;
  readonly instead: string;
  /** Called when another process took the lock, because this one was stopped too long to answer. */
  readonly onLost?: (error: UserError) => void;
  /** Called before a wait of some seconds for a holder's pulse. */
  readonly onWait?: (message: string) => void;
  /** Told to whoever reads the lock: its holder hears what is asked of it (train/run-requests.ts). */
  readonly takesRequests?: boolean;
  /** How often a holder touches its file, and how long a silence makes it stale; for tests. */
  readonly pulseMs?: number;
  readonly silenceMs?: number;
}

interface Holder extends ProcessIdentity {
  /** ISO time, for people. */
  readonly since: string;
  /** No two locks are alike. */
  readonly nonce: string;
  readonly takesRequests?: boolean;
}

/** Who works in a place, as a bystander sees it. */
export interface SeenHolder {
  readonly pid: number;
  readonly nonce: string;
  readonly takesRequests: boolean;
  /** On this machine, and in this container. */
  readonly isHere: boolean;
}

const usualPulseMs = 10_000;
const usualSilenceMs = 35_000;
/** An unreadable lock is one that is being written, for so long. */
const writingMs = 2_000;
/** Locks left by kills within takeovers within takeovers: more never happened by chance. */
const deepest = 4;
const contentCapBytes = 4096;

/** Locks of this process, by path, with their content. */
const held = new Map<string, string>();
let watchesExit = false;

/** Takes the lock at `path`, whose folder must be there. UserError, naming the holder, when another has it. */
export async function lockPlace(path: string, options: LockOptions): Promise<PlaceLock> {
  const nonce = randomBytes(8).toString("hex");
  const content = await acquire(path, options, 0, nonce);
  held.set(path, content);
  if (!watchesExit) {
    watchesExit = true;
    process.on("exit", () => {
      for (const [lock, mine] of held) removeIfMine(lock, mine);
    });
  }
  const pulse = setInterval(() => void beat(), options.pulseMs ?? usualPulseMs);
  pulse.unref();
  const end = () => {
    clearInterval(pulse);
    held.delete(path);
  };
  const beat = async () => {
    const found = await readLock(path).catch(() => content);
    if (found === content) return utimes(path, new Date(), new Date()).catch(() => {});
    if (!held.has(path)) return;
    end();
    options.onLost?.(
      new UserError(
        `${options.place}: another process works here now, because this one had stopped for too long; nothing more is written by this one`,
      ),
    );
  };
  return {
    nonce,
    release() {
      if (held.get(path) !== content) return;
      end();
      removeIfMine(path, content);
    },
  };
}

/** Who holds the lock at `path` and lives, as far as can be seen without waiting; undefined when nobody does. */
export async function holderAt(path: string): Promise<SeenHolder | undefined> {
  const found = await readLock(path).catch(() => undefined);
  const holder = found === undefined ? undefined : parseHolder(found);
  if (!holder) return undefined;
  const fate = fateOf(holder);
  if (fate === "gone") return undefined;
  if (fate === "unknown" && Date.now() - ((await touchedMs(path)) ?? 0) > 2 * usualSilenceMs)
    return undefined;
  const { pid, nonce, takesRequests = false } = holder;
  return { pid, nonce, takesRequests, isHere: fate === "alive" };
}

/** The name of a lock beside a file or folder that does not exist yet. */
export function lockBeside(path: string): string {
  return join(dirname(path), `.${basename(path)}${lockSuffix}`);
}

const lockSuffix = ".lowrank-lock";
/** The lock inside a folder. */
export const FOLDER_LOCK = ".lowrank-lock";

/** Whether a file name is a lock's, or was made on the way to one. */
export function isLockName(name: string): boolean {
  return name === FOLDER_LOCK || name.startsWith(`${FOLDER_LOCK}.`);
}

/** Removes what killed processes left on the way to a lock in this folder. */
export async function removeLockLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name !== FOLDER_LOCK && isLockName(name) && !(await ownerMayLive(join(folder, name))))
      await unlink(join(folder, name)).catch(() => {});
  }
}

async function ownerMayLive(path: string): Promise<boolean> {
  const holder = parseHolder((await readLock(path).catch(() => undefined)) ?? "");
  return holder === undefined || fateOf(holder) !== "gone";
}

async function acquire(
  path: string,
  options: LockOptions,
  depth: number,
  nonce = randomBytes(8).toString("hex"),
): Promise<string> {
  const mine = describe(nonce, options.takesRequests);
  for (;;) {
    if (await create(path, mine, options.place)) return mine;
    const found = await readSettled(path);
    if (found === undefined) continue;
    if (!(await isStale(path, found, options))) {
      // The lock over a takeover is held for a moment by whoever takes over.
      if (depth > 0) await sleep(20);
      else throw refusal(parseHolder(found)!, path, options);
      continue;
    }
    if (depth === deepest)
      throw new UserError(`${path}: this lock is left over; remove it and run the command again`);
    const guard = `${path}.${createHash("sha256").update(found).digest("hex").slice(0, 16)}`;
    const guarding = await acquire(guard, options, depth + 1);
    try {
      if ((await readLock(path)) === found) await unlink(path);
    } finally {
      removeIfMine(guard, guarding);
    }
  }
}

function describe(nonce: string, takesRequests: boolean | undefined): string {
  const holder: Holder = {
    ...thisProcess(),
    since: new Date().toISOString(),
    nonce,
    ...(takesRequests && { takesRequests }),
  };
  return `${JSON.stringify(holder)}\n`;
}

/** Makes the file with its content at once, by a link; false when there is one. */
async function create(path: string, content: string, place: string): Promise<boolean> {
  const aside = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`;
  try {
    await writeNew(aside, content);
    try {
      await link(aside, path);
    } catch (error) {
      if (isPresent(error)) return false;
      // Some file systems have no links.
      await writeNew(path, content);
    }
    return true;
  } catch (error) {
    if (isPresent(error)) return false;
    throw lockProblem(error, place);
  } finally {
    await unlink(aside).catch(() => {});
  }
}

function lockProblem(error: unknown, place: string): unknown {
  const told = writeProblem(error, place);
  const { code } = error as NodeJS.ErrnoException;
  if (told !== error && told instanceof UserError) return new UserError(`${told.message} (${code})`);
  return code === undefined ? error : new UserError(`${place}: cannot be written (${code})`);
}

const isPresent = (error: unknown) => (error as NodeJS.ErrnoException).code === "EEXIST";

async function writeNew(path: string, content: string): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.writeFile(content);
  } catch (error) {
    await unlink(path).catch(() => {});
    throw error;
  } finally {
    await file.close();
  }
}

/** Undefined when there is none. */
async function readLock(path: string): Promise<string | undefined> {
  try {
    const info = await stat(path);
    if (!info.isFile()) throw new UserError(`${path}: something that is no lock is in its place; remove it`);
    if (info.size > contentCapBytes) return "too long";
    return await readFile(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    throw code === undefined ? error : new UserError(`${path}: this lock cannot be read (${code})`);
  }
}

/** Waits while the content may still be on its way. */
async function readSettled(path: string): Promise<string | undefined> {
  const until = performance.now() + writingMs;
  for (;;) {
    const found = await readLock(path);
    if (found === undefined || parseHolder(found) || performance.now() > until) return found;
    await sleep(50);
  }
}

function parseHolder(content: string): Holder | undefined {
  try {
    const value = JSON.parse(content) as Partial<Holder> | null;
    const whole = Number.isSafeInteger(value?.pid) && value!.pid! > 0 && typeof value?.host === "string";
    return whole ? (value as Holder) : undefined;
  } catch {
    return undefined;
  }
}

async function isStale(path: string, found: string, options: LockOptions): Promise<boolean> {
  const holder = parseHolder(found);
  if (!holder) return true;
  const fate = fateOf(holder);
  if (fate !== "unknown") return fate === "gone";
  const silenceMs = options.silenceMs ?? usualSilenceMs;
  const first = await touchedMs(path);
  // Clocks of two machines differ by seconds, not by this.
  if (first === undefined || Date.now() - first > 20 * silenceMs) return true;
  options.onWait?.(
    `${options.place}: process ${holder.pid} on ${holder.host} may be at work here; waiting up to ${Math.ceil(silenceMs / 1000)} s for a sign of life`,
  );
  for (let waited = 0; waited < silenceMs; waited += 250) {
    await sleep(250);
    const touched = await touchedMs(path);
    if (touched === undefined) return true;
    if (touched !== first) return false;
  }
  return true;
}

async function touchedMs(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.mtimeMs;
}

function refusal(holder: Holder, path: string, { place, instead }: LockOptions): UserError {
  const me = thisProcess();
  const { pid, since } = holder;
  const isHere = holder.boot === me.boot && holder.space === me.space;
  const elsewhere = holder.host === me.host ? " in another container" : ` on ${holder.host}`;
  const where = isHere ? "" : elsewhere;
  const stop = isHere ? `stop it with \`kill ${pid}\`` : "stop it there";
  const who = pid === me.pid && isHere ? "this process" : "another process";
  return new UserError(
    `${place}: ${who} is at work here (pid ${pid}${where}, since ${since}, says ${path}); wait for its end, ${stop}, or ${instead}`,
  );
}

function removeIfMine(path: string, content: string): void {
  try {
    if (readFileSync(path, "utf8") === content) unlinkSync(path);
  } catch {
    // Gone with its folder, or the disk is: whoever comes next sees that this process has ended.
  }
}
