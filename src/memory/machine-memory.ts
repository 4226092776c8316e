// The memory that a plan may count on: the machine's, or what its control groups allow where that is less (a container,
// a service, a job of a cluster). Versions 1 and 2, nested ones, and hierarchies mounted anywhere: a group's limit holds
// for all groups inside it, so each is asked up to where the hierarchy is mounted. memory.high counts as a limit, because
// beyond it the system slows a process down until it hardly moves. Whether a block can be had now is asked by the
// engine itself (native/available.cc).

import { readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";
import { join } from "node:path";

export interface MachineMemory {
  readonly bytes: number;
  /** What `bytes` is of, as people are told. */
  readonly source: string;
  /** Of these, not in use now; what can be dropped from caches counts as not in use. */
  readonly availableBytes: number;
}

interface GroupFiles {
  readonly limits: readonly string[];
  readonly usage: string;
  /** Lines of memory.stat: files in memory that can be dropped. */
  readonly droppable: readonly string[];
}

const version2: GroupFiles = {
  limits: ["memory.max", "memory.high"],
  usage: "memory.current",
  droppable: ["inactive_file", "active_file"],
};
const version1: GroupFiles = {
  limits: ["memory.limit_in_bytes"],
  usage: "memory.usage_in_bytes",
  droppable: ["total_inactive_file", "total_active_file"],
};

/** `root` is where /proc and the groups are looked for; for tests. */
export function machineMemory(root = "/"): MachineMemory {
  let bytes = totalmem();
  let source = "this machine's memory";
  let availableBytes = availableInSystem(root);
  for (const { folder, files } of groupFolders(root)) {
    const limit = Math.min(...files.limits.map((name) => readNumber(join(folder, name))));
    if (limit < bytes) {
      bytes = limit;
      source = "the control group's limit";
    }
    if (limit < Number.POSITIVE_INFINITY) {
      const usage = readNumber(join(folder, files.usage));
      const inUse = Number.isFinite(usage) ? Math.max(0, usage - droppableBytes(folder, files)) : 0;
      availableBytes = Math.min(availableBytes, Math.max(0, limit - inUse));
    }
  }
  return { bytes, source, availableBytes };
}

function availableInSystem(root: string): number {
  const kilobytes = /^MemAvailable:\s*(\d+) kB/m.exec(readText(join(root, "proc/meminfo")) ?? "")?.[1];
  return kilobytes === undefined ? freemem() : 1024 * Number(kilobytes);
}

/** The folders of this process's groups and of those around them. */
function groupFolders(root: string): { folder: string; files: GroupFiles }[] {
  const mounts = readMounts(root);
  const found: { folder: string; files: GroupFiles }[] = [];
  for (const line of (readText(join(root, "proc/self/cgroup")) ?? "").split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const isVersion2 = controllers === "";
    if (!isVersion2 && !controllers.split(",").includes("memory")) continue;
    const files = isVersion2 ? version2 : version1;
    for (const mount of mounts.filter((one) => one.isVersion2 === isVersion2)) {
      for (let below = pathBelow(mount.root, path); ; below = below.slice(0, below.lastIndexOf("/"))) {
        found.push({ folder: join(root, mount.place, below), files });
        if (below === "") break;
      }
    }
  }
  return found;
}

interface Mount {
  readonly isVersion2: boolean;
  /** The group that is mounted, and where. */
  readonly root: string;
  readonly place: string;
}

/** Lines "36 31 0:33 ROOT PLACE options ... - cgroup2 source options"; blanks in paths are written \040. */
function readMounts(root: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of (readText(join(root, "proc/self/mountinfo")) ?? "").split("\n")) {
    const [before, after] = line.split(" - ");
    const [, , , mounted, place] = (before ?? "").split(" ").map(unescaped);
    const [type, , options] = (after ?? "").split(" ");
    const isVersion2 = type === "cgroup2";
    const holdsMemory = isVersion2 || (type === "cgroup" && options?.split(",").includes("memory"));
    if (holdsMemory && mounted !== undefined && place !== undefined)
      mounts.push({ isVersion2, root: mounted, place });
  }
  return mounts;
}

function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
}

/** "/a/b" below "/a" is "/b"; a group outside what is mounted is seen as the mounted one. */
function pathBelow(mounted: string, path: string): string {
  const base = mounted === "/" ? "" : mounted;
  const inside = path === base || path.startsWith(`${base}/`);
  const below = inside ? path.slice(base.length) : "";
  return below === "/" || below.split("/").includes("..") ? "" : below;
}

/** A file that holds one number; "max", version 1's number near 2^63, or no file, is no limit. */
function readNumber(path: string): number {
  const value = Number.parseInt(readText(path) ?? "", 10);
  return Number.isFinite(value) && value < 2 ** 60 ? value : Number.POSITIVE_INFINITY;
}

function droppableBytes(folder: string, { droppable }: GroupFiles): number {
  const stat = readText(join(folder, "memory.stat")) ?? "";
  const bytesOf = (key: string) => Number(new RegExp(`^${key} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
  return droppable.reduce((sum, key) => sum + bytesOf(key), 0);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
