// What a process holds beside the ledger's bytes and the packed operands of products (predict-memory.ts): Node itself, the
// compiled code, JavaScript's heap, and the native engine's other working memory. Measured, not derived: bench/plan-against-bench.mjs prints the figure this constant is from.

/** Median of ten cases on two threads, from 112 to 168 MB: Node 20 with the program loaded and steps done, before any tensor. */
const processBytes = 125e6;

/** Resident memory that a run on the CPU backend will reach, where its ledger peaks at `peakBytes` and so much lies beside it. */
export function predictRss(peakBytes: number, besideBytes: number): number {
  return peakBytes + besideBytes + processBytes;
}
