// An optimizer whose state each rank keeps for its own slice of the parameters alone (ZeRO stage 1, Rajbhandari et al.
// 2020): an update changes the slice, and the slices are shared. The arithmetic is element by element, so the result is
// the same as whole. Checkpoints hold whole state: it comes together in the gradient's memory, which is spent between
// steps. Not here: the gradient's own way over the ranks (distributed/ordered-sum.ts).

import type { Backend, Tensor } from "../backend/backend.ts";
import type { Collective, FlatExchange } from "../distributed/collective.ts";
import { shareSlices } from "../distributed/ordered-sum.ts";
import { rows } from "../tensor/tensor.ts";
import { type Optimizer, rangesOf, type StateTensor, type Trainables } from "./optimizer.ts";

/** Bytes that are read or sent at a time. */
const pieceBytes = 64 * 2 ** 20;

/** `make` is given this rank's slice of the parameters. */
export function sharded(
  backend: Backend,
  parameters: Trainables,
  { collective, exchange }: { readonly collective: Collective; readonly exchange: FlatExchange },
  make: (own: Trainables) => Optimizer,
): Optimizer {
  const { data, grad } = parameters;
  const { begin, end } = exchange;
  const inner = make({
    data: rows(data, begin, end),
    grad: rows(grad, begin, end),
    entries: [],
    ranges: rangesOf(parameters)
      .map((range) => ({
        ...range,
        begin: Math.max(range.begin, begin) - begin,
        end: Math.min(range.end, end) - begin,
      }))
      .filter((range) => range.begin < range.end),
  });
  const whole = (own: StateTensor): StateTensor => ({
    name: own.name,
    tensor: grad,
    store: backend,
    async collect() {
      await eachPiece(
        own.tensor,
        (offset, size) => own.store.read(own.tensor.buffer, offset, size),
        backend,
        {
          ...grad,
          byteOffset: grad.byteOffset + 4 * begin,
        },
      );
      await shareSlices(backend, grad, exchange, false);
    },
    async spread() {
      const total = 4 * grad.shape[0]!;
      for (let at = 0; at < total; at += pieceBytes) {
        const size = Math.min(pieceBytes, total - at);
        const mine =
          collective.rank === 0
            ? await backend.read(grad.buffer, grad.byteOffset + at, size)
            : new Uint8Array(0);
        backend.write(grad.buffer, await collective.broadcast(mine), grad.byteOffset + at);
      }
      const slice = { ...own.tensor, buffer: grad.buffer, byteOffset: grad.byteOffset + 4 * begin };
      await eachPiece(
        slice,
        (offset, size) => backend.read(grad.buffer, offset, size),
        own.store,
        own.tensor,
      );
    },
  });
  return {
    async update(step, learningRate, clip) {
      await inner.update(step, learningRate, clip);
      await shareSlices(backend, data, exchange, false);
    },
    state: () => inner.state().map(whole),
    free() {
      inner.free();
      exchange.close();
    },
  };
}

/** Copies a flat f32 tensor through the host. */
async function eachPiece(
  from: Tensor,
  read: (offset: number, sizeBytes: number) => Promise<Uint8Array>,
  to: Pick<Backend, "write">,
  target: Tensor,
): Promise<void> {
  const total = 4 * from.shape[0]!;
  for (let at = 0; at < total; at += pieceBytes) {
    const bytes = await read(from.byteOffset + at, Math.min(pieceBytes, total - at));
    to.write(target.buffer, bytes, target.byteOffset + at);
  }
}
