// What a process holds beside the ledger's bytes: Node itself, the compiled code, the native engine with its threads'
// working memory, and JavaScript's own heap. Measured, not derived: bench/plan-against-bench.mjs prints the figures
// these two constants come from.

/** Node 20 with the program loaded and a step done, before any tensor. */
const processBytes = 75e6;
/** Working memory of each pool thread: packed panels of the product kernels and scratch of attention. */
const threadBytes = 3e6;

/** Resident memory that a run on the CPU backend will reach, where its ledger peaks at `peakBytes`. */
export function predictRss(peakBytes: number, threads: number): number {
  return peakBytes + processBytes + threads * threadBytes;
}
