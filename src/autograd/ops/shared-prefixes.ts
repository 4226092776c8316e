// Sequences that begin with the same tokens: these pass once through all that treats tokens one by one, and what mixes tokens
// (attention, convolutions, recurrences) sees a copy of them before each sequence. A row of what is laid out for it is a
// token; a token may be several rows, whose gradients add up. Nothing but gathers and sums around the same kernels, so that
// windows, sinks and states need no word.

import type { Tensor } from "../../backend/backend.ts";
import { rows } from "../../tensor/tensor.ts";
import type { Tape, Value } from "../tape.ts";
import { type AttentionSpec, attention } from "./attention.ts";

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

/**
 * attention() over rows laid out so, of queries, keys and values that stay by token: only these and the result are kept for
 * the backward pass, which lays them out once more.
 */
export function attentionOverPrefixes(
  tape: Tape,
  [q, k, v]: readonly [Value, Value, Value],
  spec: AttentionSpec,
  shared: SharedPrefixes | undefined,
): Value {
  if (!shared) return attention(tape, q, k, v, spec);
  const { backend } = tape;
  const { tokens, firstRows } = shared;
  const count = tokens.shape[0]!;
  const { heads, kvHeads, headWidth, segments, window, scale, softcap = 0, sinks } = spec;
  const needsGrad = q.needsGrad || k.needsGrad || v.needsGrad || sinks?.grad !== undefined;
  const out = tape.value(q.shape, needsGrad);
  const lse = tape.value([count, heads], false);
  const asHeads = (t: Tensor, own: number): Tensor => ({ ...t, shape: [count, own, headWidth] });
  const rowsOf = (width: number) => tape.allocateTensor([count, width], "workspace");
  const laidOut = (value: Value) => {
    const y = rowsOf(value.shape[1]!);
    backend.gatherRows({ x: value.data, index: tokens, y });
    return y;
  };
  /** What both passes are given, and what frees it. */
  const operands = (result: Tensor) => {
    const [queries, keys, values] = [q, k, v].map(laidOut) as [Tensor, Tensor, Tensor];
    const made = [queries, keys, values, result];
    return {
      given: {
        q: asHeads(queries, heads),
        k: asHeads(keys, kvHeads),
        v: asHeads(values, kvHeads),
        ...{ segments, scale, window, softcap, sinks: sinks?.tensor },
        out: asHeads(result, heads),
        lse: lse.data,
      },
      free: () => {
        for (const { buffer } of made) backend.free(buffer);
      },
    };
  };
  tape.record({
    name: "attentionOverPrefixes",
    inputs: [q, k, v],
    outputs: [out, lse],
    saves: [q, k, v, out, lse],
    forward() {
      const { given, free } = operands(rowsOf(heads * headWidth));
      backend.attention(given);
      const result = { ...given.out, shape: [count, heads * headWidth] };
      backend.gatherRows({ x: result, index: firstRows, y: out.data });
      free();
    },
    backward: needsGrad
      ? () => {
          if (!out.grad) return;
          const { given, free } = operands(laidOut(out));
          const dOut = rowsOf(heads * headWidth);
          backend.fill({ y: dOut, value: 0 });
          backend.scatterRows({ x: out.grad, index: firstRows, y: dOut });
          const [dq, dk, dv] = [q, k, v].map((value) => rowsOf(value.shape[1]!)) as [Tensor, Tensor, Tensor];
          backend.attentionBackward({
            ...given,
            dOut: asHeads(dOut, heads),
            dq: asHeads(dq, heads),
            dk: asHeads(dk, kvHeads),
            dv: asHeads(dv, kvHeads),
            dSinks: sinks?.grad,
          });
          free();
          backend.free(dOut.buffer);
          for (const [value, grad] of [
            [q, dq],
            [k, dk],
            [v, dv],
          ] as const) {
            if (value.needsGrad) addRows(tape, value, grad, shared);
            backend.free(grad.buffer);
          }
        }
      : undefined,
  });
  return out;
}

/** Adds the gradient of rows [E, C] to that of their tokens. */
function addRows(tape: Tape, x: Value, dy: Tensor, { firstRows, copies }: SharedPrefixes): void {
  const { backend } = tape;
  const { tensor, accumulate } = tape.gradOf(x);
  const dx = accumulate ? tape.allocateTensor(x.shape, "workspace") : tensor;
  backend.gatherRows({ x: dy, index: firstRows, y: dx });
  for (const { at, token, count } of copies)
    backend.addInPlace({ x: rows(dy, at, at + count), y: rows(dx, token, token + count) });
  if (!accumulate) return;
  backend.addInPlace({ x: dx, y: tensor });
  backend.free(dx.buffer);
}

/** [T, C] -> [E, C]. */
function layOut(tape: Tape, x: Value, shared: SharedPrefixes): Value {
  const { backend } = tape;
  const { tokens } = shared;
  const y = tape.value([tokens.shape[0]!, ...x.shape.slice(1)], x.needsGrad);
  tape.record({
    name: "layOutPrefixes",
    inputs: [x],
    outputs: [y],
    forward: () => backend.gatherRows({ x: x.data, index: tokens, y: y.data }),
    backward: x.needsGrad
      ? () => {
          if (y.grad) addRows(tape, x, y.grad, shared);
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
