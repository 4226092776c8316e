// The question turned round: which is the cheapest adapter that keeps a given share of full fine-tuning's quality? Each
// method's ranks are bisected over powers of two, at the learning rate that its search settled on, within the budget of
// runs. Cheapest: fewest trained parameters, and of equals the least memory. Says how near the best came when none did.

import type { Method } from "../config/fields.ts";
import type { ComparedRow, KeepResult } from "./row.ts";

/** What the search needs of the comparison that runs it. */
export interface RankSearch {
  readonly options: { readonly methods: readonly Method[]; readonly maxRuns: number };
  readonly comparedRows: readonly ComparedRow[];
  readonly trainedRuns: number;
  /** Of the smallest side of a targeted layer. */
  readonly largestRank: number;
  rateOf(method: Method): number;
  /** Trains and measures one more; undefined when interrupted. */
  addAt(method: Method, rank: number, learningRate: number): Promise<ComparedRow | undefined>;
}

const largestRank = 256;

/** Undefined when interrupted. */
export async function searchKeep(comparing: RankSearch, percent: number): Promise<KeepResult | undefined> {
  const { options } = comparing;
  const adapters = options.methods.filter((method) => method !== "full");
  let exhausted = false;
  for (const method of adapters) {
    const outcome = await bisectRanks(comparing, method, percent);
    if (outcome === "interrupted") return undefined;
    if (outcome === "exhausted") exhausted = true;
  }
  const rows = comparing.comparedRows.filter((row) => row.kept && row.rank > 0);
  const good = rows.filter((row) => row.kept!.percent >= percent).sort(byCost);
  const best = rows.toSorted((a, b) => b.kept!.percent - a.kept!.percent)[0]!;
  const [found] = good;
  return {
    percent,
    ...(found ? { found: found.name, certain: found.kept!.interval.low >= percent } : {}),
    best: best.name,
    bestPercent: best.kept!.percent,
    budget: options.maxRuns,
    runs: comparing.trainedRuns,
    exhausted,
  };
}

function byCost(a: ComparedRow, b: ComparedRow): number {
  return a.trainableParameters - b.trainableParameters || (a.peakBytes ?? 0) - (b.peakBytes ?? 0);
}

/** The smallest power of two that is good enough, between what was measured already. */
async function bisectRanks(
  comparing: RankSearch,
  method: Method,
  percent: number,
): Promise<"done" | "exhausted" | "interrupted"> {
  const rank = (row: ComparedRow) => row.rank;
  for (;;) {
    const rows = comparing.comparedRows.filter((row) => row.method === method && row.kept);
    const good = rows.filter((row) => row.kept!.percent >= percent).map(rank);
    const high = good.length > 0 ? Math.min(...good) : undefined;
    const below = rows.map(rank).filter((r) => high === undefined || r < high);
    const low = below.length > 0 ? Math.max(...below) : 0;
    const most = 2 ** Math.floor(Math.log2(Math.min(largestRank, comparing.largestRank)));
    const next = high === undefined ? Math.min(nextAbove(low), most) : between(low, high);
    if (next === undefined || next <= low) return "done";
    if (comparing.trainedRuns >= comparing.options.maxRuns) return "exhausted";
    const row = await comparing.addAt(method, next, comparing.rateOf(method));
    if (!row) return "interrupted";
  }
}

/** The power of two after `rank`; a doubling twice over saves runs on the way up. */
function nextAbove(rank: number): number {
  return rank === 0 ? 8 : 2 ** (Math.floor(Math.log2(rank)) + 2);
}

/** A power of two strictly between, nearest the middle of the exponents; undefined when there is none. */
function between(low: number, high: number): number | undefined {
  const from = low === 0 ? 0 : Math.floor(Math.log2(low)) + 1;
  const to = Math.ceil(Math.log2(high)) - 1;
  return from > to ? undefined : 2 ** Math.floor((from + to) / 2);
}
