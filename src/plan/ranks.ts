// What several ranks make of a method: memory of each, bytes over the wire, and the share of a step that is computing.
// The exchange is counted as distributed/ordered-sum.ts does it; its rate is the network's, of which a stated part is
// taken to be reached. What is not in it: rounds wait for their longest micro-batch (packing evens them).

import { UsageError } from "../util/errors.ts";
import type { MethodPlan } from "./memory-plan.ts";
import type { Estimate } from "./time-cost.ts";

/** Part of a network's rate that exchanges reach: 0.6 to 0.9 was measured on shaped links; see docs/CLUSTER.md. */
export const networkShare = 0.8;
/** Seconds that a message takes beside its bytes, of which an exchange sends one to every other rank. */
export const messageSeconds = 30e-6;
/** Elements of the smallest slice: as in native/mpi/thread.h. */
const sliceUnit = 32_768;

export interface RanksWork {
  /** Asked for; the table has others beside it. */
  readonly ranks: number;
  /** Bytes a second that a rank sends and receives at the same time; absent: nothing is said of time. */
  readonly networkBytesPerSecond?: number;
  /** Of each rank in a step. */
  readonly microBatches: number;
  readonly tokensPerMicroBatch: number;
  /** Of all training; absent when none were given. */
  readonly tokens?: number;
}

export interface RanksRow {
  readonly ranks: number;
  /** Device memory of each rank at its peak, the host's for exchanges included. */
  readonly memoryBytes: number;
  /** The same with --shard-optimizer. */
  readonly shardedMemoryBytes: number;
  /** That a rank sends in a step, and receives. */
  readonly bytesPerStep: number;
  /** Of one exchange of a gradient; absent without a network. */
  readonly exchangeSeconds?: number;
  /** Of a step, in which exchanges of a round run behind the next; absent without a rate or a network. */
  readonly stepSeconds?: number;
  /** Computing's share of the step. */
  readonly efficiency?: number;
  readonly tokensPerSecond?: number;
  readonly tokensPerStep: number;
  /** What gives way first as ranks become more: "network", "messages", "slices", "data", or nothing yet. */
  readonly breaksFirst?: string;
}

const usualRanks = [1, 2, 4, 8, 16, 32, 64, 1024];

/** Rows for usual numbers of ranks and the one asked for. `estimate` gives the rate of one rank. */
export function ranksTable(method: MethodPlan, estimate: Estimate | undefined, work: RanksWork): RanksRow[] {
  const sizes = [...new Set([...usualRanks, work.ranks])].sort((a, b) => a - b);
  return sizes.map((ranks) => rowOf(method, estimate, work, ranks));
}

function rowOf(method: MethodPlan, estimate: Estimate | undefined, work: RanksWork, ranks: number): RanksRow {
  const { microBatches, networkBytesPerSecond, tokensPerMicroBatch } = work;
  const gradient = 4 * method.trainableParameters;
  const sent = (gradient * (ranks - 1)) / ranks;
  const wire = networkBytesPerSecond && sent / (networkShare * networkBytesPerSecond);
  const messages = (ranks - 1) * messageSeconds;
  const exchangeSeconds = ranks === 1 ? 0 : wire && wire + messages;
  const variant = method.variants.find(({ checkpointing }) => checkpointing)!;
  const host = ranks === 1 ? 0 : gradient / ranks + (microBatches > 1 ? gradient : 0);
  const state = variant.ledger.atPeak.optimizer;
  const tokensPerStep = ranks * microBatches * tokensPerMicroBatch;
  const micro = estimate && tokensPerMicroBatch / estimate.tokensPerSecond;
  const stepSeconds =
    micro === undefined || exchangeSeconds === undefined
      ? undefined
      : microBatches * micro +
        (microBatches - 1) * Math.max(0, exchangeSeconds - micro) +
        2 * exchangeSeconds;
  const efficiency = stepSeconds && (microBatches * micro!) / stepSeconds;
  return {
    ranks,
    memoryBytes: variant.peakBytes + host,
    shardedMemoryBytes: variant.peakBytes + host - state * (1 - 1 / ranks),
    bytesPerStep: Math.round((microBatches + 1) * sent),
    exchangeSeconds,
    stepSeconds,
    efficiency,
    tokensPerSecond: stepSeconds && tokensPerStep / stepSeconds,
    tokensPerStep,
    breaksFirst: breaks(),
  };

  function breaks(): string | undefined {
    if (efficiency !== undefined && efficiency < 0.8) return messages > (wire ?? 0) ? "messages" : "network";
    if (work.tokens !== undefined && work.tokens / tokensPerStep < 100) return "data";
    if (gradient / 4 / sliceUnit < ranks) return "slices";
    return undefined;
  }
}

/** Bytes a second of "10Gbit", "100 Mbit/s", "1.2 GB/s". Throws UsageError. */
export function networkRate(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kMGT])(bit|b|B)(?:ps|\/s)?\s*$/.exec(text);
  const value = Number(match?.[1]);
  if (!match || !(value > 0))
    throw new UsageError(`--network: expected a rate such as 10Gbit, 100Mbit or 1.2GB/s, found "${text}"`);
  const scale = { k: 1e3, M: 1e6, G: 1e9, T: 1e12 }[match[2] as "k" | "M" | "G" | "T"];
  return (value * scale) / (match[3] === "B" ? 1 : 8);
}
