// Who a process is, so that another can tell later whether it still lives: a number alone is soon somebody else's. On
// Linux the start time, the boot and the space of process numbers (a container has its own) come from /proc; elsewhere
// the start time comes from ps, and where there is none the number must do. What is made of it: place-lock.ts.

import { execFileSync } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

export interface ProcessIdentity {
  readonly pid: number;
  readonly host: string;
  /** When it started, in the system's own words; equal for equal processes. */
  readonly started?: string;
  /** The boot of the system it runs under. */
  readonly boot?: string;
  /** The space that its number belongs to. */
  readonly space?: string;
}

let own: ProcessIdentity | undefined;

export function thisProcess(): ProcessIdentity {
  own ??= {
    pid: process.pid,
    host: hostname(),
    started: startOf(process.pid),
    boot: readOrNothing(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
    space: readOrNothing(() => readlinkSync("/proc/self/ns/pid")),
  };
  return own;
}

/**
 * What can be said of a process from here: "unknown" of one on another machine that shares the disk, or in another
 * container. `me` is for tests.
 */
export function fateOf(other: ProcessIdentity, me = thisProcess()): "alive" | "gone" | "unknown" {
  if (other.boot !== me.boot || other.boot === undefined) {
    if (other.host !== me.host) return "unknown";
    if (other.boot !== me.boot) return "gone";
  }
  if (other.space !== me.space) return "unknown";
  if (!lives(other.pid)) return "gone";
  const started = startOf(other.pid);
  return started === undefined || other.started === undefined || started === other.started ? "alive" : "gone";
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  // A process that ended and whose parent has not asked how still has its number, and nothing else.
  const state = statFields(pid)?.[0];
  return state !== "Z" && state !== "X";
}

/** Fields of /proc/PID/stat from the state on: the name before it may hold anything. */
function statFields(pid: number): string[] | undefined {
  const text = readOrNothing(() => readFileSync(`/proc/${pid}/stat`, "latin1"));
  return text?.slice(text.lastIndexOf(")") + 2).split(" ");
}

function startOf(pid: number): string | undefined {
  if (process.platform === "linux") return statFields(pid)?.[19];
  if (process.platform === "win32") return undefined;
  const ps = () =>
    execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "pipe", "ignore"],
      timeout: 5000,
    });
  return readOrNothing(ps)?.trim() || undefined;
}

function readOrNothing(read: () => string): string | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
