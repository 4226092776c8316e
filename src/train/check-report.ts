// What a preflight found: the rows, the memory, and what speaks against the run. Made by check.ts.

import type { Finding, PreflightReport } from "../data/preflight.ts";
import type { MemoryCheck } from "../memory/fit-memory.ts";

export interface CheckReport extends PreflightReport {
  readonly memory: MemoryCheck;
  /** Findings that stop the run as it is asked for. */
  readonly refused: readonly Finding[];
}
