// Sequences that begin with the same tokens: these pass once through all that treats tokens one by one, and what mixes tokens
// (attention, convolutions, recurrences) sees a copy of them before each sequence. A row of what is laid out for it is a
// token; a token may be several rows, whose gradients add up. Nothing but gathers and sums around the same kernels, so that
// windows, sinks and states need no word.

import type { Tensor } from "../../backend/backend.ts";
import { rows } from "../../tensor/tensor.ts";
import type { Tape, Value } from "../tape.ts";

/** E rows of T tokens; segments are of the rows. */
export interface SharedPrefixes {
  /** The token of each row, i32 [E]. */
  readonly tokens: Tensor;
  /** The first row of each token, i32 [T]. */
  readonly firstRows: Tensor;
  /** Rows [at, at + count) are tokens [token, token + count) once more. */
  readonly copies: readonly { readonly at: number; readonly token: number; readonly count: number }[];
}

/**
 * What `run` makes of rows [E, ...] of these tokens [T, ...], by token again; without sharing, of the tokens as they lie.
 * `run` must give all rows of a token the same.
 */
export function overPrefixes<T extends readonly [Value, ...Value[]]>(
  tape: Tape,
  shared: SharedPrefixes | undefined,
  values: T,
  run: (values: T) => Value,
): Value {
  if (!shared) return run(values);
  const rowsOf = values.map((value) => layOut(tape, value, shared));
  return takeBack(tape, run(rowsOf as unknown as T), shared);
}

/** [T, C] -> [E, C]. */
function layOut(tape: Tape, x: Value, { tokens, firstRows, copies }: SharedPrefixes): Value {
  const { backend } = tape;
  const y = tape.value([tokens.shape[0]!, ...x.shape.slice(1)], x.needsGrad);
  tape.record({
    name: "layOutPrefixes",
    inputs: [x],
    outputs: [y],
    forward: () => backend.gatherRows({ x: x.data, index: tokens, y: y.data }),
    backward: x.needsGrad
      ? () => {
          if (!y.grad) return;
          const { tensor, accumulate } = tape.gradOf(x);
          const dx = accumulate ? tape.allocateTensor(x.shape, "workspace") : tensor;
          backend.gatherRows({ x: y.grad, index: firstRows, y: dx });
          for (const { at, token, count } of copies)
            backend.addInPlace({ x: rows(y.grad, at, at + count), y: rows(dx, token, token + count) });
          if (!accumulate) return;
          backend.addInPlace({ x: dx, y: tensor });
          backend.free(dx.buffer);
        }
      : undefined,
  });
  return y;
}

/** [E, C] -> [T, C]: what a token's first row came to; the others come to the same. */
function takeBack(tape: Tape, x: Value, { firstRows }: SharedPrefixes): Value {
  const { backend } = tape;
  const y = tape.value([firstRows.shape[0]!, ...x.shape.slice(1)], x.needsGrad);
  tape.record({
    name: "takeBackPrefixes",
    inputs: [x],
    outputs: [y],
    forward: () => backend.gatherRows({ x: x.data, index: firstRows, y: y.data }),
    backward: x.needsGrad
      ? () => {
          if (!y.grad) return;
          const dx = tape.allocateTensor(x.shape, "activations");
          backend.fill({ y: dx, value: 0 });
          backend.scatterRows({ x: y.grad, index: firstRows, y: dx });
          tape.giveGrad(x, dx);
        }
      : undefined,
  });
  return y;
}
