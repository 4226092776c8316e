// A Python with the reference libraries, for live comparisons: the interpreter that LOWRANK_PYTHON names.
// Tests skip where it is absent; no test needs it for what a committed golden can show.

import { spawnSync } from "node:child_process";

const path = process.env.LOWRANK_PYTHON ?? "";

export const python = {
  path,
  /** For the names of skipped tests. */
  reason: path ? "live" : "skipped: LOWRANK_PYTHON is not set",
  /** Whether the interpreter has all these modules. */
  has(...modules: string[]): boolean {
    if (!path) return false;
    const check = `import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in ${JSON.stringify(modules)}))`;
    return spawnSync(path, ["-c", check]).status === 0;
  },
  /** Runs a script; returns its stdout. Throws with its stderr when it fails. */
  run(script: string, ...args: string[]): string {
    const result = spawnSync(path, ["-c", script, ...args], { encoding: "utf8", maxBuffer: 1 << 26 });
    if (result.status !== 0) throw new Error(result.stderr);
    return result.stdout;
  },
};
