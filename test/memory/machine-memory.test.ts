// Control groups as they are found: version 2 and 1, nested, mounted in parts as containers see them, and none.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { machineMemory } from "../../src/memory/machine-memory.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-groups-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let made = 0;

/** A system's files below a folder of its own. */
function system(files: Readonly<Record<string, string>>): string {
  const folder = join(root, String(++made));
  for (const [path, text] of Object.entries({ "proc/meminfo": "MemAvailable: 8000000 kB\n", ...files })) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return folder;
}

const mib = 2 ** 20;
const mount2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
const mount1 = [
  "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
  "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
  "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
].join("\n");
const groupLimit = (bytes: number) => ({ bytes, source: "the control group's limit" });

it("without control groups, the machine's", () => {
  const { bytes, source, availableBytes } = machineMemory(system({}));
  expect({ bytes, source }).toEqual({ bytes: totalmem(), source: "this machine's memory" });
  expect(availableBytes).toBe(8_000_000 * 1024);
});

it("version 2: the least of a group and those around it, and what files in memory give back", () => {
  const found = machineMemory(
    system({
      "proc/self/cgroup": "0::/jobs/night/one\n",
      "proc/self/mountinfo": mount2,
      "sys/fs/cgroup/jobs/night/one/memory.max": "max\n",
      "sys/fs/cgroup/jobs/night/one/memory.high": "max\n",
      "sys/fs/cgroup/jobs/night/memory.max": `${300 * mib}\n`,
      "sys/fs/cgroup/jobs/night/memory.current": `${200 * mib}\n`,
      "sys/fs/cgroup/jobs/night/memory.stat": `anon 1\nactive_file ${20 * mib}\ninactive_file ${30 * mib}\n`,
      "sys/fs/cgroup/jobs/memory.max": `${400 * mib}\n`,
    }),
  );
  expect(found).toEqual({ ...groupLimit(300 * mib), availableBytes: 150 * mib });
});

it("version 2: memory.high is a limit too", () => {
  const files = {
    "proc/self/cgroup": "0::/a\n",
    "proc/self/mountinfo": mount2,
    "sys/fs/cgroup/a/memory.max": `${300 * mib}\n`,
    "sys/fs/cgroup/a/memory.high": `${250 * mib}\n`,
  };
  expect(machineMemory(system(files))).toMatchObject(groupLimit(250 * mib));
});

it("version 2 in a container whose group is the root of what it sees, and beside version 1", () => {
  const files = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": mount2,
    "sys/fs/cgroup/memory.max": `${128 * mib}\n`,
  };
  expect(machineMemory(system(files))).toMatchObject(groupLimit(128 * mib));
});

it("version 1: nested groups, and a number near 2^63 for no limit", () => {
  const files = {
    "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/slurm/job_7/step_0\n1:cpu,cpuacct:/\n0::/\n",
    "proc/self/mountinfo": mount1,
    "sys/fs/cgroup/memory/slurm/job_7/step_0/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": `${512 * mib}\n`,
    "sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes": `${100 * mib}\n`,
    "sys/fs/cgroup/memory/slurm/job_7/memory.stat": `total_inactive_file ${40 * mib}\n`,
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
  };
  expect(machineMemory(system(files))).toEqual({ ...groupLimit(512 * mib), availableBytes: 452 * mib });
});

it("version 1 in a container: the group's own path is the root of the mount, or lies outside it", () => {
  const limit = { "mnt/my groups/memory.limit_in_bytes": `${64 * mib}\n` };
  const mounted = "40 31 0:32 /docker/abc /mnt/my\\040groups ro - cgroup cgroup rw,memory\n";
  for (const path of ["/docker/abc", "/somewhere/else", "/../outside"]) {
    const files = { ...limit, "proc/self/cgroup": `4:memory:${path}\n`, "proc/self/mountinfo": mounted };
    expect(machineMemory(system(files)), path).toMatchObject(groupLimit(64 * mib));
  }
});
