// The memory ledger: every device allocation belongs to a category, and live and peak bytes are counted by
// category. Each backend owns one; run.json and `bench --json` report it; plan/ predicts it.

import { BugError } from "../util/errors.ts";

export const memoryCategories = [
  "weights",
  "scales",
  "adapters",
  "gradients",
  "optimizer",
  "activations",
  "logits",
  "workspace",
] as const;

export type MemoryCategory = (typeof memoryCategories)[number];

export interface LedgerReport {
  readonly liveBytes: number;
  readonly peakBytes: number;
  /** Live bytes now, and at the moment of the overall peak, by category. */
  readonly live: Readonly<Record<MemoryCategory, number>>;
  readonly atPeak: Readonly<Record<MemoryCategory, number>>;
}

function zeros(): Record<MemoryCategory, number> {
  return Object.fromEntries(memoryCategories.map((c) => [c, 0])) as Record<MemoryCategory, number>;
}

export class Ledger {
  liveBytes = 0;
  peakBytes = 0;
  private live = zeros();
  private atPeak = zeros();
  private stale = false;

  add(category: MemoryCategory, bytes: number): void {
    this.snapshotIfFalling(bytes);
    this.live[category] += bytes;
    this.liveBytes += bytes;
    if (this.liveBytes > this.peakBytes) {
      this.peakBytes = this.liveBytes;
      this.stale = true;
    }
  }

  remove(category: MemoryCategory, bytes: number): void {
    this.snapshotIfFalling(-bytes);
    this.live[category] -= bytes;
    this.liveBytes -= bytes;
    if (this.live[category] < 0) throw new BugError(`memory ledger: ${category} fell below zero`);
  }

  /** The categories at the peak are copied lazily: only when the total first falls after a new peak. */
  private snapshotIfFalling(change: number): void {
    if (change < 0 && this.stale) {
      this.atPeak = { ...this.live };
      this.stale = false;
    }
  }

  report(): LedgerReport {
    return {
      liveBytes: this.liveBytes,
      peakBytes: this.peakBytes,
      live: { ...this.live },
      atPeak: this.stale ? { ...this.live } : { ...this.atPeak },
    };
  }
}
