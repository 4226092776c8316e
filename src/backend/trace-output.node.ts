// Where the table of LOWRANK_TRACE=1 goes: standard error itself, past process.stderr, which a worker's host would take for
// warnings. The table: trace.ts.

import { writeSync } from "node:fs";

export function writeTrace(text: string): void {
  try {
    writeSync(2, `${text}\n`);
  } catch {
    // A closed stream ends no run.
  }
}
