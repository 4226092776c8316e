// The memory that a run was planned to take, by category: counted again as its preflight counted it. In the analysing
// process only.

import { checkRun } from "../train/check.ts";
import type { MemoryView } from "./api.ts";
import { optionsOf, type RunJob } from "./open-run.ts";

export async function viewMemory(job: RunJob): Promise<NonNullable<MemoryView["planned"]>> {
  const { memory } = await checkRun(optionsOf(job), () => {});
  return { peakBytes: memory.prediction.ledger.peakBytes, atPeak: { ...memory.prediction.ledger.atPeak } };
}
