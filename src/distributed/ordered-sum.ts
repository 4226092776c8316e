// The gradient of a step is the sum, in the order of its micro-batches, of gradients that each began at zero. On one
// rank a second buffer holds the sum so far; on several, micro-batch i is rank i mod N's, ranks exchange slices, and each
// slice's owner adds in that order: the same additions, so the same bits on any number of ranks. Exchanges of a round
// run while the next computes. Not here: who computes a gradient (session/), the messages (mpi.node.ts).

import type { Backend, Tensor } from "../backend/backend.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";
import { BugError } from "../util/errors.ts";
import type { Collective, FlatExchange } from "./collective.ts";

/** Adds a micro-batch's gradient; a promise where it has to read on the way. */
export type MicroBatchRun = (index: number) => void | Promise<void>;

export interface OrderedSum {
  /** Bytes of memory beside the gradient that ranks hold for exchanges, on the host. */
  readonly hostBytes: number;
  /**
   * Runs micro-batches 0..count-1 of a step, those that are this rank's, each from a zeroed gradient; at the end `grad`
   * holds the sum on every rank. `continues`: what grad holds already comes first.
   */
  run(count: number, continues: boolean, micro: MicroBatchRun): Promise<void>;
  /** Whether this rank computes micro-batch `index`. */
  isOwn(index: number): boolean;
  free(): void;
}

export function orderedSum(backend: Backend, grad: Tensor, collective: Collective): OrderedSum {
  return collective.flat
    ? new RankedSum(backend, grad, collective, collective.flat(grad.shape[0]!))
    : new OwnSum(backend, grad);
}

class OwnSum implements OrderedSum {
  readonly hostBytes = 0;
  private sum: Tensor | undefined;

  constructor(
    private readonly backend: Backend,
    private readonly grad: Tensor,
  ) {}

  async run(count: number, continues: boolean, micro: MicroBatchRun): Promise<void> {
    const { backend, grad } = this;
    let sum: Tensor | undefined;
    for (let index = 0; index < count; index++) {
      if (index > 0 || continues) {
        if (!sum) {
          sum = this.memory();
          backend.cast({ x: grad, y: sum });
        }
      }
      backend.fill({ y: grad, value: 0 });
      await micro(index);
      if (sum) backend.addInPlace({ x: grad, y: sum });
    }
    if (count === 0 && !continues) backend.fill({ y: grad, value: 0 });
    if (sum) backend.cast({ x: sum, y: grad });
  }

  isOwn(): boolean {
    return true;
  }

  free(): void {
    if (this.sum) this.backend.free(this.sum.buffer);
    this.sum = undefined;
  }

  /** Only steps of several micro-batches need it. */
  private memory(): Tensor {
    const { shape, dtype } = this.grad;
    this.sum ??= viewOf(this.backend.allocate(tensorBytes(shape, dtype), "gradients"), shape, dtype);
    return this.sum;
  }
}

class RankedSum implements OrderedSum {
  constructor(
    private readonly backend: Backend,
    private readonly grad: Tensor,
    private readonly collective: Collective,
    private readonly exchange: FlatExchange,
  ) {
    if (grad.dtype !== "f32") throw new BugError("gradients of several ranks are f32");
  }

  get hostBytes(): number {
    return this.exchange.stagedBytes;
  }

  isOwn(index: number): boolean {
    return index % this.collective.size === this.collective.rank;
  }

  async run(count: number, continues: boolean, micro: MicroBatchRun): Promise<void> {
    if (continues) throw new BugError("on several ranks a step's micro-batches come in one call");
    const { backend, grad, exchange, collective } = this;
    const { rank, size } = collective;
    const rounds = Math.ceil(count / size);
    if (rounds === 0) return backend.fill({ y: grad, value: 0 });
    for (let round = 0; round < rounds; round++) {
      const index = round * size + rank;
      const ranks = Math.min(size, count - round * size);
      let from: number | undefined;
      if (index < count) {
        backend.fill({ y: grad, value: 0 });
        await micro(index);
        // The last round's gradient is sent from where it lies; an earlier one makes room for the next.
        from = round === rounds - 1 ? backend.addressOf?.(grad) : undefined;
        if (from === undefined) await toHost(backend, grad, exchange);
      }
      exchange.addInOrder(ranks, round === 0, from);
    }
    await shareSlices(backend, grad, exchange, true);
  }

  free(): void {
    this.exchange.close();
  }
}

/** Every rank's slice of a flat f32 tensor, everywhere; with `fromSum` its own is the exchange's sum first. */
export async function shareSlices(
  backend: Backend,
  flat: Tensor,
  exchange: FlatExchange,
  fromSum: boolean,
): Promise<void> {
  const address = backend.addressOf?.(flat);
  if (address !== undefined) {
    if (fromSum) exchange.takeSlice(address);
    exchange.share(address);
    return;
  }
  const { begin, end, staging } = exchange;
  if (fromSum) exchange.takeSlice();
  else {
    const own = await backend.read(flat.buffer, flat.byteOffset + 4 * begin, 4 * (end - begin));
    staging.write(own, 4 * begin);
  }
  exchange.share();
  backend.write(flat.buffer, staging.read(0, 4 * flat.shape[0]!), flat.byteOffset);
}

async function toHost(backend: Backend, flat: Tensor, exchange: FlatExchange): Promise<void> {
  const address = backend.addressOf?.(flat);
  if (address !== undefined) return exchange.stage(address);
  const bytes = await backend.read(flat.buffer, flat.byteOffset, 4 * flat.shape[0]!);
  exchange.staging.write(bytes);
}
