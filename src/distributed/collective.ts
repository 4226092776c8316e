// The ranks of one run: what they may do together. Every method is called by all ranks, in the same order. `single` is a
// collective too, so that whoever trains has no case for more than one. Not here: sums of gradients (ordered-sum.ts),
// who starts the ranks (launch.node.ts), MPI (mpi.node.ts).

export interface Collective {
  readonly rank: number;
  readonly size: number;
  /** The ranks of this machine: they share its memory, cores and GPUs. */
  readonly local: { readonly rank: number; readonly size: number };
  /** For people: "MPI (Open MPI v4.1.4), 4 ranks on 2 hosts". */
  readonly description: string;
  /** "rank 3 on node-2", or "" where there is one. */
  nameOf(rank: number): string;
  /** Every rank's bytes, in the order of ranks; lengths may differ. For small things: all of it goes to everybody. */
  gather(mine: Uint8Array): Promise<readonly Uint8Array[]>;
  /** Rank 0's bytes, everywhere; the others' are ignored. */
  broadcast(bytes: Uint8Array): Promise<Uint8Array>;
  /** Waits until every rank is here. */
  barrier(): Promise<void>;
  /** Flat f32 buffers of `count` elements, exchanged by slices; absent where there is one rank. */
  flat?(count: number): FlatExchange;
  /** What exchanges took so far; absent where there is one rank. */
  traffic?(): Traffic;
  /** Ends all ranks with this exit code. Returns only where there is one. */
  abort(exitCode: number): void;
}

export interface Traffic {
  readonly bytesSent: number;
  /** Of exchanging and adding micro-batches' gradients, beside whatever else happened. */
  readonly exchangeSeconds: number;
  /** Of these, those in which nothing else happened. */
  readonly waitedSeconds: number;
  /** Of handing round what was added, in which nothing else can happen. */
  readonly shareSeconds: number;
}

/** Exchanges of one flat buffer's slices. Addresses are of the host's memory. Close frees what it holds. */
export interface FlatExchange {
  /** Elements of this rank's slice. */
  readonly begin: number;
  readonly end: number;
  /** Memory of the whole buffer on the host, to be sent from and received into. */
  readonly staging: HostMemory;
  /** Bytes of the host's memory that this holds. */
  readonly stagedBytes: number;
  /** Copies a whole buffer that lies at this address to the staging memory. */
  stage(from: number): void;
  /**
   * Starts to add the gradients of ranks 0..ranks-1, which lie in `from` (the staging memory when absent), to the own
   * slice of the sum, in this order; the first sets it. At most one is under way: a second waits for it.
   */
  addInOrder(ranks: number, first: boolean, from?: number): void;
  /** Waits for what is under way, then copies the own slice of the sum to where the whole buffer lies. */
  takeSlice(into?: number): void;
  /** Every rank's slice of the whole buffer, everywhere. */
  share(at?: number): void;
  close(): void;
}

export interface HostMemory {
  readonly address: number;
  write(data: Uint8Array, byteOffset?: number): void;
  read(byteOffset: number, sizeBytes: number): Uint8Array;
}

/** One rank, this one. */
export const single: Collective = {
  rank: 0,
  size: 1,
  local: { rank: 0, size: 1 },
  description: "one process",
  nameOf: () => "",
  gather: async (mine) => [mine],
  broadcast: async (bytes) => bytes,
  barrier: async () => {},
  abort: () => {},
};

/** What every rank says, in the order of ranks. */
export async function gatherValues<T>(collective: Collective, mine: T): Promise<T[]> {
  if (collective.size === 1) return [mine];
  const texts = await collective.gather(new TextEncoder().encode(JSON.stringify(mine ?? null)));
  return texts.map((text) => JSON.parse(new TextDecoder().decode(text)) as T);
}

/** What rank 0 says, everywhere. */
export async function broadcastValue<T>(collective: Collective, value: T): Promise<T> {
  if (collective.size === 1) return value;
  const text = await collective.broadcast(new TextEncoder().encode(JSON.stringify(value ?? null)));
  return JSON.parse(new TextDecoder().decode(text)) as T;
}

/** Numbers of every rank, in the order of ranks; as many of each. Exact: they travel as doubles. */
export async function gatherNumbers(collective: Collective, mine: readonly number[]): Promise<number[][]> {
  if (collective.size === 1) return [[...mine]];
  const bytes = await collective.gather(new Uint8Array(Float64Array.from(mine).buffer));
  return bytes.map((own) => {
    const view = new DataView(own.buffer, own.byteOffset, own.byteLength);
    return Array.from({ length: own.byteLength / 8 }, (_, i) => view.getFloat64(8 * i, true));
  });
}
