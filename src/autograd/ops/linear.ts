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

/** The adapters that scale their rows' products, whose bias and residual come after all else. */
function scalingOf({ rowAdapters = [] }: LinearSpec): readonly RowAdapter[] {
  return rowAdapters.filter(({ columns }) => columns !== undefined);
}

/**
 * Where products without bias and residual go: nowhere unless some rows are scaled, to y when all are, else beside it. Then
 * there are two products, so that a row comes to the bits that it has in a pass whose rows are all of its kind.
 */
function bareProduct(tape: Tape, spec: LinearSpec, y: Tensor): Tensor | undefined {
  const scaled = scalingOf(spec).reduce((sum, { start, end }) => sum + end - start, 0);
  if (scaled === 0) return undefined;
  return scaled === y.shape[0] ? y : tape.allocateTensor(y.shape, "workspace");
}

/** What rows have of their own: weights, adapters; of scaled ones then the scale, bias and residual. */
function addOwn(tape: Tape, x: Tensor, spec: LinearSpec, y: Tensor, bare: Tensor | undefined): void {
  const scaling = scalingOf(spec);
  const scales = ({ start, end }: { readonly start: number; readonly end: number }) =>
    scaling.some((group) => group.start <= start && end <= group.end);
  const { rowWeights = [], rowAdapters = [], residual } = spec;
  for (const own of rowWeights) replaceRows(tape, x, spec, own, scales(own) ? bare! : y, scales(own));
  for (const adapter of rowAdapters) addRowAdapter(tape, x, adapter, adapter.columns ? bare! : y);
  for (const { start, end, columns } of scaling) {
    const own = rowWeights.find((group) => group.bias && group.start <= start && end <= group.end);
    tape.backend.scaleColumns({
      x: rows(bare!, start, end),
      factors: columns,
      bias: (own?.bias ?? spec.bias)?.tensor,
      residual: residual && rows(residual.data, start, end),
      y: rows(y, start, end),
    });
  }
  if (bare && bare !== y) tape.backend.free(bare.buffer);
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
      const bares = specs.map((s, i) => bareProduct(tape, s, ys[i]!.data));
      const parts = specs.flatMap((s, i): LinearPart[] => {
        const [bare, y] = [bares[i], ys[i]!.data];
        const product = { weight: matrixOf(s.weight), adapter: adapterOf(i) };
        const whole = { ...product, bias: s.bias?.tensor, residual: s.residual?.data, y };
        return [...(bare === y ? [] : [whole]), ...(bare ? [{ ...product, y: bare }] : [])];
      });
      tape.backend.linear(x.data, parts);
      for (const [i, s] of specs.entries()) addOwn(tape, x.data, s, ys[i]!.data, bares[i]);
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
