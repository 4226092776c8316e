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
  /** [out], where the adapter scales the product, bias and residual aside. */
  readonly columns?: Tensor;
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
function replaceRows(
  tape: Tape,
  x: Tensor,
  spec: LinearSpec,
  own: RowWeight,
  y: Tensor,
  bare: boolean,
): void {
  invariant(!tape.recording, "weights of single rows serve generation, not training");
  const { start, end } = own;
  tape.backend.linear(rows(x, start, end), [
    {
      weight: own.weight?.tensor ?? matrixOf(spec.weight),
      bias: bare ? undefined : (own.bias ?? spec.bias)?.tensor,
      residual: bare ? undefined : spec.residual && rows(spec.residual.data, start, end),
      y: rows(y, start, end),
    },
  ]);
}

/** Whether some rows' products are scaled, so that bias and residual come after all else. */
function scalesRows(spec: LinearSpec): boolean {
  return spec.rowAdapters?.some(({ columns }) => columns !== undefined) ?? false;
}

/** Scales the products of rows whose adapters ask for it, and adds to every row its bias and residual. */
function finishRows({ backend }: Tape, spec: LinearSpec, y: Tensor): void {
  const { rowAdapters = [], rowWeights = [], residual } = spec;
  const ends = [...rowAdapters, ...rowWeights].flatMap(({ start, end }) => [start, end]);
  const cuts = [...new Set([0, ...ends, y.shape[0]!])].sort((one, other) => one - other);
  for (const [i, start] of cuts.slice(0, -1).entries()) {
    const end = cuts[i + 1]!;
    const covers = (group: { readonly start: number; readonly end: number }) =>
      group.start <= start && end <= group.end;
    const bias = rowWeights.find((group) => covers(group) && group.bias)?.bias ?? spec.bias;
    const part = rows(y, start, end);
    backend.scaleColumns({
      x: part,
      factors: rowAdapters.find(covers)?.columns,
      bias: bias?.tensor,
      residual: residual && rows(residual.data, start, end),
      y: part,
    });
  }
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
        bias: scalesRows(s) ? undefined : s.bias?.tensor,
        residual: scalesRows(s) ? undefined : s.residual?.data,
        adapter: adapterOf(i),
        y: ys[i]!.data,
      }));
      tape.backend.linear(x.data, parts);
      for (const [i, s] of specs.entries()) {
        const y = ys[i]!.data;
        for (const own of s.rowWeights ?? []) replaceRows(tape, x.data, s, own, y, scalesRows(s));
        for (const adapter of s.rowAdapters ?? []) addRowAdapter(tape, x.data, adapter, y);
        if (scalesRows(s)) finishRows(tape, s, y);
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
