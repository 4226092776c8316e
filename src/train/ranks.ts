// A run on several ranks: what all must agree on before the first step, which of them save and restore, and what a
// person should know of how they were started. Rank 0 alone writes; the others take part in what it needs of them. On
// one rank all of this is the plain thing. Not here: exchanges (distributed/), whose gradient is whose (session/).

import { availableParallelism, cpus } from "node:os";
import type { Backend, BackendOptions } from "../backend/backend.ts";
import { cpuIsas } from "../backend/cpu.ts";
import { type Collective, gatherNumbers, gatherValues } from "../distributed/collective.ts";
import type { Optimizer, StateTensor } from "../optim/optimizer.ts";
import type { ByteStore } from "../optim/paging.ts";
import { type Tensor, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import type { RunIdentity } from "./run-identity.ts";

/** Bytes that travel at a time. */
const pieceBytes = 64 * 2 ** 20;

/** Threads and instruction set of each rank's CPU backend, so that they share cores and make the same bits. */
export async function backendOfRank(
  collective: Collective,
  options: { readonly backend: string; readonly threads: number },
  tell: (message: string) => void,
  warn: (message: string) => void,
): Promise<Pick<BackendOptions, "threads" | "isa">> {
  if (collective.size === 1) return { threads: options.threads };
  const { size } = collective.local;
  const [own, all] = [availableParallelism(), cpus().length];
  const share = Math.max(1, Math.floor(all / size));
  const bound = await gatherNumbers(collective, [own < share ? own : 0, share]);
  const few = bound.findIndex(([cores]) => cores! > 0);
  if (few >= 0) {
    const [cores, could] = bound[few] as [number, number];
    warn(
      `${collective.nameOf(few)} may use ${cores} of the ${could} cores that are its share: the launcher binds ranks to cores; start with --bind-to none (Open MPI), I_MPI_PIN=off (Intel MPI) or -c (srun)`,
    );
  }
  const threads = options.threads > 0 ? options.threads : Math.min(own, share);
  if (options.backend !== "cpu" && options.backend !== "auto") return { threads };
  const lists = await gatherValues(collective, cpuIsas());
  const common = lists[0]!.find((isa) => lists.every((list) => list.includes(isa)));
  if (common === undefined) {
    const told = lists.map((list, rank) => `${collective.nameOf(rank)} runs ${list.join(", ")}`);
    throw new UserError(
      `the ranks have no instruction set in common: ${told.join("; ")}; start them on machines of one kind`,
    );
  }
  if (lists.some((list) => list[0] !== common))
    tell(`the ranks' processors differ: all use ${common}, which every one of them runs`);
  return { threads, isa: common };
}

/** Refuses ranks that differ in anything that decides the run's course, naming which and in what. */
export async function requireSameOnRanks(
  collective: Collective,
  backend: Backend,
  version: string,
  identity: RunIdentity,
): Promise<void> {
  if (collective.size === 1) return;
  const mine = { version, backend: backend.name, precision: backend.precision, ...identity };
  const everyone = await gatherValues(collective, JSON.parse(JSON.stringify(mine)) as RunIdentity);
  const first = everyone[0]!;
  for (const [rank, other] of everyone.entries()) {
    const keys = Object.keys({ ...first, ...other }).filter(
      (key) => JSON.stringify(first[key]) !== JSON.stringify(other[key]),
    );
    if (keys.length === 0) continue;
    const told = keys
      .slice(0, 4)
      .map((key) => `${key} is ${JSON.stringify(other[key])}, and ${JSON.stringify(first[key])} there`);
    throw new UserError(
      `${collective.nameOf(rank)} is not set up as ${collective.nameOf(0)}: ${told.join("; ")}. Give all ranks the same lowrank, model, data and options`,
    );
  }
}

/** BugError when the ranks' parameters are no longer the same. */
export async function requireSameParameters(
  collective: Collective,
  backend: Backend,
  data: Tensor,
  step: number,
): Promise<void> {
  if (collective.size === 1) return;
  const out = viewOf(backend.allocate(256, "workspace"), [1], backend.floatType);
  backend.sumSquares({ x: data, out });
  const bytes = await backend.read(out.buffer, 0, 4);
  backend.free(out.buffer);
  const sums = await gatherNumbers(collective, [new DataView(bytes.buffer).getFloat32(0, true)]);
  const other = sums.findIndex(([sum]) => !Object.is(sum, sums[0]![0]));
  if (other >= 0)
    throw new BugError(`step ${step}: ${collective.nameOf(other)} has other parameters than rank 0`);
}

/**
 * Has rank 0 save by `save`, which is given the optimizer; the others take part. Rank 0's error is thrown on all ranks
 * where `mayFail` says that the run goes on without what was to be saved, else on rank 0 alone, whose end ends the rest.
 */
export async function saveOnRanks<T extends string>(
  collective: Collective,
  optimizer: Optimizer,
  save: (optimizer: Pick<Optimizer, "state">) => Promise<T>,
  mayFail: (error: unknown) => boolean,
): Promise<{ readonly saved?: T; readonly error?: unknown }> {
  if (collective.size === 1) {
    try {
      return { saved: await save(optimizer) };
    } catch (error) {
      if (!mayFail(error)) throw error;
      return { error };
    }
  }
  const states = optimizer.state();
  let collected = 0;
  const counted: StateTensor[] = states.map((state) => ({
    ...state,
    collect: async () => {
      collected++;
      await state.collect?.();
    },
  }));
  let result: { saved?: T; error?: unknown } = {};
  if (collective.rank === 0) {
    try {
      result = { saved: await save({ state: () => counted }) };
    } catch (error) {
      if (!mayFail(error)) throw error;
      result = { error };
    }
  }
  // Whatever rank 0 came to not, the others wait in.
  for (const state of states.slice(collected)) await state.collect?.();
  const [outcome] = await gatherValues(collective, { saved: result.saved ?? null });
  return collective.rank === 0 ? result : { saved: (outcome!.saved as T | null) ?? undefined };
}

/** Has rank 0 restore by `restore`, and gives all ranks what it read. */
export async function restoreOnRanks(
  collective: Collective,
  backend: Backend,
  parameters: Tensor,
  optimizer: Optimizer,
  restore: () => Promise<void>,
): Promise<void> {
  if (collective.rank === 0) await restore();
  else for (const { spread } of optimizer.state()) await spread?.();
  if (collective.size === 1) return;
  await broadcastTensor(collective, parameters, backend);
  for (const { tensor, store, spread } of optimizer.state())
    if (!spread) await broadcastTensor(collective, tensor, store);
}

/** Gives all ranks rank 0's values of a tensor. */
export async function broadcastTensor(
  collective: Collective,
  tensor: Tensor,
  store: ByteStore,
): Promise<void> {
  if (collective.size === 1) return;
  const total = tensorBytes(tensor.shape, tensor.dtype);
  for (let at = 0; at < total; at += pieceBytes) {
    const offset = tensor.byteOffset + at;
    const size = Math.min(pieceBytes, total - at);
    const mine = collective.rank === 0 ? await store.read(tensor.buffer, offset, size) : new Uint8Array(0);
    const bytes = await collective.broadcast(mine);
    if (collective.rank !== 0) store.write(tensor.buffer, bytes, offset);
  }
}
