// What a process holds beside the ledger's bytes: Node itself, the compiled code, JavaScript's heap, and the native
// engine's working memory. Measured, not derived: bench/plan-against-bench.mjs prints the figure this constant is from.

/** Node 20 with the program loaded and a step done, before any tensor. */
const processBytes = 90e6;

/** Resident memory that a run on the CPU backend will reach, where its ledger peaks at `peakBytes`. */
export function predictRss(peakBytes: number): number {
  return peakBytes + processBytes;
}
