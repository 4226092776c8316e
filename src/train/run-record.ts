// run.json: what a run was made of and what came out, for people and scripts. Written when a run starts and again
// when it ends.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import type { DatasetReport } from "../data/dataset-report.ts";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import type { MemoryChoices } from "../memory/fit-memory.ts";
import { type Chain, sealedRecord } from "../publish/chain.ts";
import type { TrainSummary } from "./events.ts";
import type { RunIdentity } from "./run-identity.ts";

/** "running" is also what a process that was killed leaves behind. */
export type RunStatus = "running" | "interrupted" | "failed" | "done";

export interface RunFacts {
  readonly status: RunStatus;
  readonly identity: RunIdentity;
  readonly totalSteps: number;
  readonly memory: MemoryChoices;
  readonly data: DatasetReport;
  readonly evalData?: DatasetReport;
  readonly summary?: TrainSummary;
  /** What a failed run ended with. */
  readonly error?: unknown;
  /** Operations of training on one token, by the rows' mean length. */
  readonly flopsPerToken: number;
  /** Of a run that is done. */
  readonly chain?: Omit<Chain, "version" | "self">;
}

export async function writeRunRecord(
  options: TrainOptions,
  backend: Backend,
  facts: RunFacts,
): Promise<void> {
  const { summary, identity } = facts;
  const record = {
    status: facts.status,
    error: facts.error === undefined ? undefined : messageOf(facts.error),
    lowrank: lowrankVersion(),
    node: process.versions.node,
    options,
    seed: options.seed,
    modelHash: identity.modelHash,
    tokenizerHash: identity.tokenizerHash,
    dataHash: identity.dataHash,
    evalDataHash: identity.evalDataHash,
    backend: backend.name,
    device: backend.description,
    precision: backend.precision,
    gradientCheckpointing: facts.memory.gradientCheckpointing,
    logitsChunkBytes: facts.memory.logitsChunkBytes,
    paged: facts.memory.paged,
    totalSteps: facts.totalSteps,
    flopsPerToken: facts.flopsPerToken,
    data: facts.data,
    evalData: facts.evalData,
    trainableParameters: summary?.trainableParameters,
    totalParameters: summary?.totalParameters,
    peakBytes: backend.peakBytes,
    deviceBytes: backend.deviceMemory?.().heldBytes,
    peakRssBytes: peakRssBytes(),
    memory: backend.ledger(),
    wallMs: summary?.elapsedMs,
    best: summary?.best,
    stoppedEarly: summary?.stoppedEarly,
    toldToEnd: summary?.toldToEnd,
    averagedSteps: summary?.averagedSteps,
    forgetting: summary?.forgetting,
    final: summary && {
      steps: summary.steps,
      loss: summary.finalLoss,
      evalLoss: summary.evalLoss,
      perplexity: summary.perplexity,
      tokens: summary.tokens,
      tokensPerSecond: summary.tokensPerSecond,
    },
  };
  const text = facts.chain ? sealedRecord(record, facts.chain) : `${JSON.stringify(record, null, 2)}\n`;
  await writeFileAtomic(join(options.out, "run.json"), text);
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 2000);
}

/** Most memory the process has held, in bytes: the kernel's own high-water mark. */
export function peakRssBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}

export function lowrankVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
