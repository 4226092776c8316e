// Ops by column: of adapters that give each output of a layer a magnitude of its own (DoRA), the two halves that dropout
// makes of a layer's input, and the parts of a layer that computes several at once, forward and backward. Not here: which
// layer has what (nn/adapter-kinds/).

import type { Backend, Dropout, Matrix, Tensor } from "../../backend/backend.ts";
import { reshape, tensorBytes, viewOf } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";

/** What scales a layer's outputs: magnitude / norm, by column. */
export interface ColumnScale {
  readonly magnitude: Parameter; // [out]
  readonly factors: Value; // [out]
  readonly norms: Value; // [out]
}

export interface MagnitudeSpec {
  readonly weight: Matrix; // [out, in]
  /** Squared norms of its rows, [out]. */
  readonly squares: Tensor;
  readonly magnitude: Parameter; // [out]
  readonly a: Parameter; // [R, in]
  readonly b: Parameter; // [out, R]
  readonly scale: number;
}

/** magnitude / ||W + scale B A|| by row; the norm is a constant of the backward pass (Liu et al. 2024, section 4.3). */
export function columnScale(tape: Tape, spec: MagnitudeSpec): ColumnScale {
  const { shape } = spec.magnitude.tensor;
  const [factors, norms] = [tape.value(shape, false), tape.value(shape, false)];
  tape.record({
    name: "columnScale",
    inputs: [],
    outputs: [factors, norms],
    forward: () => writeMagnitudeFactors(tape.backend, spec, factors.data, norms.data),
  });
  return { magnitude: spec.magnitude, factors, norms };
}

/** factors = magnitude / norms and norms = ||W + scale B A|| by row, [out] each; W's products are with A's few rows. */
export function writeMagnitudeFactors(
  backend: Backend,
  { weight, squares, magnitude, a, b, scale }: MagnitudeSpec,
  factors: Tensor,
  norms: Tensor,
): void {
  const [outputs, rank] = b.tensor.shape as [number, number];
  const made = [
    [rank, outputs],
    [rank, rank],
    [outputs, rank],
  ].map((shape) => {
    const buffer = backend.allocate(tensorBytes(shape, backend.floatType), "workspace");
    return viewOf(buffer, shape, backend.floatType);
  });
  const [wa, gram, bGram] = made as [Tensor, Tensor, Tensor];
  backend.linear(a.tensor, [{ weight, y: wa }]);
  backend.linear(a.tensor, [{ weight: a.tensor, y: gram }]);
  backend.linear(b.tensor, [{ weight: gram, y: bGram }]);
  backend.magnitudeFactors({
    ...{ magnitude: magnitude.tensor, squares, b: b.tensor, bGram, wa, scale },
    ...{ factors, norms },
  });
  for (const { buffer } of made) backend.free(buffer);
}

/** x * factors + bias + residual, [T, out]. */
export function scaleColumns(
  tape: Tape,
  x: Value,
  { magnitude, factors, norms }: ColumnScale,
  { bias, residual }: { readonly bias?: Parameter; readonly residual?: Value },
): Value {
  const { backend } = tape;
  const dMagnitude = magnitude.grad;
  const dBias = bias?.grad;
  const passes = residual?.needsGrad === true;
  const needsGrad = x.needsGrad || dMagnitude !== undefined || dBias !== undefined || passes;
  const y = tape.value(x.shape, needsGrad);
  tape.record({
    name: "scaleColumns",
    inputs: [x, factors, norms, ...(residual ? [residual] : [])],
    outputs: [y],
    saves: [factors, ...(dMagnitude ? [x, norms] : [])],
    forward: () =>
      backend.scaleColumns({
        ...{ x: x.data, factors: factors.data, bias: bias?.tensor, residual: residual?.data, y: y.data },
      }),
    backward: y.needsGrad
      ? () => {
          const dy = y.grad;
          if (!dy) return;
          if (dMagnitude) {
            backend.addColumnDots({ x: dy, y: x.data, divisor: norms.data, out: dMagnitude });
          }
          if (dBias) backend.addColumnDots({ x: dy, y: undefined, divisor: undefined, out: dBias });
          if (x.needsGrad) {
            const scaled = passes ? tape.allocateTensor(x.shape, "activations") : dy;
            const given = { bias: undefined, residual: undefined };
            backend.scaleColumns({ x: dy, factors: factors.data, ...given, y: scaled });
            if (!passes) tape.passGrad(y, x);
            else if (x.grad) {
              backend.addInPlace({ x: scaled, y: x.grad });
              backend.free(scaled.buffer);
            } else tape.giveGrad(x, scaled);
          }
          if (residual) tape.passGrad(y, residual);
        }
      : undefined,
  });
  return y;
}

/** dropout(x), and what it took away: x - dropout(x). */
export function splitByDropout(tape: Tape, x: Value, mask: Dropout): { kept: Value; rest: Value } {
  const { backend } = tape;
  const [kept, rest] = [tape.value(x.shape, x.needsGrad), tape.value(x.shape, x.needsGrad)];
  /** y = x - y. */
  const subtractFrom = (minuend: Tensor, y: Tensor) => {
    backend.scaleInPlace({ y, factor: -1 });
    backend.addInPlace({ x: minuend, y });
  };
  tape.record({
    name: "splitByDropout",
    inputs: [x],
    outputs: [kept, rest],
    forward() {
      backend.dropout({ x: x.data, ...mask, y: kept.data });
      backend.cast({ x: kept.data, y: rest.data });
      subtractFrom(x.data, rest.data);
    },
    backward: x.needsGrad
      ? () => {
          // dx = dRest + dropout(dKept - dRest).
          const [dKept, dRest] = [kept.grad, rest.grad];
          if (!dKept || !dRest) return;
          subtractFrom(dKept, dRest);
          const dx = tape.allocateTensor(x.shape, "activations");
          backend.dropout({ x: dRest, ...mask, y: dx });
          // dRest is dKept - dRest by now, so dKept - (dKept - dRest) is what it was.
          subtractFrom(dKept, dRest);
          backend.addInPlace({ x: dRest, y: dx });
          if (x.grad) {
            backend.addInPlace({ x: dx, y: x.grad });
            backend.free(dx.buffer);
          } else tape.giveGrad(x, dx);
        }
      : undefined,
  });
  return { kept, rest };
}

/**
 * Columns of x [T, sum of widths] as values of their own, in order; with `heads`, of each head of x [T, heads * sum of
 * widths], and then parts have the heads side by side.
 */
export function splitColumns(tape: Tape, x: Value, widths: readonly number[], heads = 1): Value[] {
  const { backend } = tape;
  const [tokens, width] = x.shape as [number, number];
  invariant(
    heads * widths.reduce((sum, each) => sum + each, 0) === width,
    `columns ${widths} of ${heads} heads of a value [${x.shape}]`,
  );
  const parts = widths.map((each) => tape.value([tokens, heads * each], x.needsGrad));
  const byHead = (tensor: Tensor) => reshape(tensor, [tokens * heads, tensor.shape[1]! / heads]);
  const starts = widths.map((_, i) => widths.slice(0, i).reduce((sum, each) => sum + each, 0));
  tape.record({
    name: "splitColumns",
    inputs: [x],
    outputs: parts,
    forward() {
      for (const [i, part] of parts.entries())
        backend.copyColumns({
          ...{ x: byHead(x.data), from: starts[i]!, y: byHead(part.data), to: 0 },
          count: widths[i]!,
        });
    },
    backward: x.needsGrad
      ? () => {
          if (parts.every(({ grad }) => !grad)) return;
          const dx = tape.allocateTensor(x.shape, "activations");
          if (parts.some(({ grad }) => !grad)) backend.fill({ y: dx, value: 0 });
          for (const [i, { grad }] of parts.entries())
            if (grad)
              backend.copyColumns({
                ...{ x: byHead(grad), from: 0, y: byHead(dx), to: starts[i]! },
                count: widths[i]!,
              });
          if (x.grad) {
            backend.addInPlace({ x: dx, y: x.grad });
            backend.free(dx.buffer);
          } else tape.giveGrad(x, dx);
        }
      : undefined,
  });
  return parts;
}
