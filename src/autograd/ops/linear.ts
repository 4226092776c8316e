// Linear layers that share an input, with low-rank adapters, residual and bias, forward and backward.
// A frozen weight costs its product with dy and nothing else: no gradient, and x is kept only when an adapter
// or the weight itself trains.

import type { Dropout, LinearGradPart, LinearPart, Matrix, Tensor } from "../../backend/backend.ts";
import { rows } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";

/** A frozen matrix, or a parameter [out, in]. */
export type LinearWeight = { readonly frozen: Matrix } | { readonly parameter: Parameter };

export interface LinearSpec {
  readonly weight: LinearWeight;
  readonly bias?: Parameter;
  readonly adapter?: {
    readonly a: Parameter; // [R, in]
    readonly b: Parameter; // [out, R]
    readonly scale: number;
    readonly dropout?: Dropout;
  };
  readonly residual?: Value;
  /** Inference only: rows that have a weight or a bias of their own. */
  readonly rowWeights?: readonly RowWeight[];
  /** Inference only: y[start, end) += scale x[start, end) A^T B^T, each adapter on its own rows alone. */
  readonly rowAdapters?: readonly RowAdapter[];
}

export interface RowWeight {
  readonly start: number;
  readonly end: number;
  readonly weight?: Parameter;
  readonly bias?: Parameter;
}

export interface RowAdapter {
  readonly start: number;
  readonly end: number;
  readonly a: Parameter; // [R, in]
  readonly b: Parameter; // [out, R]
  readonly scale: number;
}

function matrixOf(weight: LinearWeight): Matrix {
  return "frozen" in weight ? weight.frozen : weight.parameter.tensor;
}

/** The base weight is read once for all rows; only these two skinny products differ between requests. */
function addRowAdapter(tape: Tape, x: Tensor, { start, end, a, b, scale }: RowAdapter, y: Tensor): void {
  invariant(!tape.recording, "adapters of single rows serve generation, not training");
  const u = tape.allocateTensor([end - start, a.tensor.shape[0]!], "workspace");
  const part = rows(y, start, end);
  tape.backend.linear(rows(x, start, end), [{ weight: a.tensor, y: u }]);
  tape.backend.scaleInPlace({ y: u, factor: scale });
  tape.backend.linear(u, [{ weight: b.tensor, residual: part, y: part }]);
  tape.backend.free(u.buffer);
}

/** Computes rows anew with what is their own; the base's share of them is lost work, a few rows of many. */
function replaceRows(tape: Tape, x: Tensor, spec: LinearSpec, own: RowWeight, y: Tensor): void {
  invariant(!tape.recording, "weights of single rows serve generation, not training");
  const { start, end } = own;
  tape.backend.linear(rows(x, start, end), [
    {
      weight: own.weight?.tensor ?? matrixOf(spec.weight),
      bias: (own.bias ?? spec.bias)?.tensor,
      residual: spec.residual && rows(spec.residual.data, start, end),
      y: rows(y, start, end),
    },
  ]);
}

/** y_i = x W_i^T + ... for every spec; x [T, in], results [T, out_i]. */
export function linear(tape: Tape, x: Value, specs: readonly LinearSpec[]): Value[] {
  const tokens = x.shape[0]!;
  const trains = specs.map((s) => ({
    weight: "parameter" in s.weight && s.weight.parameter.grad !== undefined,
    adapter: s.adapter?.a.grad !== undefined,
    bias: s.bias?.grad !== undefined,
  }));
  const keepsInput = trains.some((t) => t.weight || t.adapter);
  const ys = specs.map((s, i) => {
    const t = trains[i]!;
    const needsGrad = x.needsGrad || t.weight || t.adapter || t.bias || s.residual?.needsGrad === true;
    return tape.value([tokens, matrixOf(s.weight).shape[0]!], needsGrad);
  });
  const us = specs.map((s) => s.adapter && tape.value([tokens, s.adapter.a.tensor.shape[0]!], false));
  const adapterOf = (i: number) => {
    const adapter = specs[i]!.adapter;
    if (!adapter) return undefined;
    const u = us[i];
    invariant(u, "adapter without u");
    return {
      a: adapter.a.tensor,
      b: adapter.b.tensor,
      scale: adapter.scale,
      dropout: adapter.dropout,
      u: u.data,
    };
  };
  const keptUs = us.filter((u, i) => u !== undefined && trains[i]!.adapter) as Value[];
  tape.record({
    name: "linear",
    inputs: [x, ...specs.flatMap((s) => (s.residual ? [s.residual] : []))],
    outputs: [...ys, ...(us.filter((u) => u) as Value[])],
    saves: [...(keepsInput ? [x] : []), ...keptUs],
    forward() {
      const parts: LinearPart[] = specs.map((s, i) => ({
        weight: matrixOf(s.weight),
        bias: s.bias?.tensor,
        residual: s.residual?.data,
        adapter: adapterOf(i),
        y: ys[i]!.data,
      }));
      tape.backend.linear(x.data, parts);
      for (let i = 0; i < specs.length; i++) {
        for (const own of specs[i]!.rowWeights ?? []) replaceRows(tape, x.data, specs[i]!, own, ys[i]!.data);
        for (const adapter of specs[i]!.rowAdapters ?? []) addRowAdapter(tape, x.data, adapter, ys[i]!.data);
      }
    },
    backward: ys.some((y) => y.needsGrad)
      ? () => {
          const parts: LinearGradPart[] = [];
          for (const [i, s] of specs.entries()) {
            const dy = ys[i]!.grad;
            if (!dy) continue;
            parts.push({
              weight: matrixOf(s.weight),
              dy,
              adapter: s.adapter && {
                ...(trains[i]!.adapter
                  ? adapterOf(i)!
                  : {
                      a: s.adapter.a.tensor,
                      b: s.adapter.b.tensor,
                      scale: s.adapter.scale,
                      dropout: s.adapter.dropout,
                      u: dy,
                    }),
                dA: s.adapter.a.grad,
                dB: s.adapter.b.grad,
              },
              dWeight: "parameter" in s.weight ? s.weight.parameter.grad : undefined,
              dBias: s.bias?.grad,
            });
          }
          if (parts.length > 0 && (x.needsGrad || parts.some((p) => p.dWeight || p.dBias || p.adapter?.dA))) {
            const dx = x.needsGrad ? tape.gradOf(x) : undefined;
            tape.backend.linearBackward(
              keepsInput ? x.data : undefined,
              parts,
              dx?.tensor,
              dx?.accumulate ?? false,
            );
          }
          for (const [i, s] of specs.entries()) if (s.residual) tape.passGrad(ys[i]!, s.residual);
        }
      : undefined,
  });
  return ys;
}
