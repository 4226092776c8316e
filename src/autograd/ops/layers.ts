// Embedding lookup, RMSNorm, scalars, the soft cap and the gated MLP activation, forward and backward.

import type { ActivationKind, Tensor } from "../../backend/backend.ts";
import { reshape, rows } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";

/** Rows of table [V, C] named by ids i32 [T] -> [T, C]. */
export function embedding(
  tape: Tape,
  ids: Tensor,
  table: Parameter,
  own: readonly RowParameter[] = [],
): Value {
  const y = tape.value([ids.shape[0]!, table.tensor.shape[1]!], table.grad !== undefined);
  const tableGrad = table.grad;
  tape.record({
    name: "embedding",
    inputs: [],
    outputs: [y],
    forward() {
      tape.backend.embedding({ ids, table: table.tensor, y: y.data });
      for (const { start, end, parameter } of own) {
        tape.backend.embedding({
          ids: rows(ids, start, end),
          table: parameter.tensor,
          y: rows(y.data, start, end),
        });
      }
    },
    backward: tableGrad
      ? () => {
          if (y.grad) tape.backend.embeddingBackward({ ids, dy: y.grad, dTable: tableGrad });
        }
      : undefined,
  });
  return y;
}

/** x * factor in x's own memory, which the result takes over: x must have no other reader. */
export function scaled(tape: Tape, x: Value, factor: number): Value {
  const y = tape.value(x.shape, x.needsGrad);
  tape.record({
    name: "scaled",
    inputs: [x],
    outputs: [],
    forward() {
      invariant(x.readers === 1 && x.holders === 0 && x.owned, "scaling in place a value that others read");
      const memory = tape.takeData(x);
      tape.backend.scaleInPlace({ y: memory, factor });
      tape.giveData(y, memory);
    },
    backward: x.needsGrad
      ? () => {
          if (!y.grad) return;
          tape.backend.scaleInPlace({ y: y.grad, factor });
          tape.passGrad(y, x);
        }
      : undefined,
  });
  return y;
}

/** x + factor * y, where y's own memory is taken over: y must have no other reader. */
export function addScaled(tape: Tape, x: Value, y: Value, factor: number): Value {
  const sum = tape.value(x.shape, x.needsGrad || y.needsGrad);
  tape.record({
    name: "addScaled",
    inputs: [x, y],
    outputs: [],
    forward() {
      invariant(y.readers === 1 && y.holders === 0 && y.owned, "adding in place to a value that others read");
      const memory = tape.takeData(y);
      tape.backend.scaleInPlace({ y: memory, factor });
      tape.backend.addInPlace({ x: x.data, y: memory });
      tape.giveData(sum, memory);
    },
    backward: sum.needsGrad
      ? () => {
          const { grad } = sum;
          if (!grad) return;
          if (y.needsGrad) {
            invariant(!y.grad, "gradient of a value that had one reader");
            const dy = tape.allocateTensor(y.shape, "activations");
            tape.backend.cast({ x: grad, y: dy });
            tape.backend.scaleInPlace({ y: dy, factor });
            tape.giveGrad(y, dy);
          }
          tape.passGrad(sum, x);
        }
      : undefined,
  });
  return sum;
}

/** y = x + c, in x's own memory; c, of x's shape, is from outside and has no gradient. */
export function addConstant(tape: Tape, x: Value, c: Tensor): Value {
  const y = tape.value(x.shape, x.needsGrad);
  tape.record({
    name: "addConstant",
    inputs: [x],
    outputs: [],
    forward() {
      invariant(x.readers === 1 && x.holders === 0 && x.owned, "adding in place to a value that others read");
      const memory = tape.takeData(x);
      tape.backend.addInPlace({ x: c, y: memory });
      tape.giveData(y, memory);
    },
    backward: x.needsGrad
      ? () => {
          if (y.grad) tape.passGrad(y, x);
        }
      : undefined,
  });
  return y;
}

/** cap * tanh(x / cap) in x's own memory, which the result takes over: x must have no other reader. */
export function softCapped(tape: Tape, x: Value, cap: number): Value {
  const y = tape.value(x.shape, x.needsGrad);
  tape.record({
    name: "softCapped",
    inputs: [x],
    outputs: [],
    saves: [y],
    forward() {
      invariant(x.readers === 1 && x.holders === 0 && x.owned, "capping in place a value that others read");
      const memory = tape.takeData(x);
      tape.backend.softCap({ x: memory, cap, y: memory });
      tape.giveData(y, memory);
    },
    backward: x.needsGrad
      ? () => {
          if (!y.grad) return;
          tape.backend.softCapBackward({ y: y.data, cap, dy: y.grad, dx: y.grad });
          tape.passGrad(y, x);
        }
      : undefined,
  });
  return y;
}

/** What some rows of a pass have of their own, in inference. */
export interface RowParameter {
  readonly start: number;
  readonly end: number;
  readonly parameter: Parameter;
}

export interface RmsNormOptions {
  readonly epsilon: number;
  /** What the weight is taken from: it stands for shift + w. */
  readonly shift?: number;
  readonly own?: readonly RowParameter[];
  /** Added to what the norm makes. */
  readonly residual?: Value;
}

/** RMSNorm over groups of w.length elements, and a residual on top: x [T, n * w.length]. */
export function rmsNorm(tape: Tape, x: Value, w: Parameter, options: RmsNormOptions): Value {
  const { epsilon, shift = 0, own = [], residual } = options;
  const { backend } = tape;
  const width = w.tensor.shape[0]!;
  const grouped = [(x.shape[0]! * x.shape[1]!) / width, width];
  const y = tape.value(x.shape, x.needsGrad || w.grad !== undefined || residual?.needsGrad === true);
  const rstd = tape.value([grouped[0]!], false);
  const normGrad = x.needsGrad || w.grad !== undefined;
  tape.record({
    name: "rmsNorm",
    inputs: residual ? [x, residual] : [x],
    outputs: [y, rstd],
    saves: normGrad ? [x, rstd] : [],
    forward() {
      const [from, to] = [reshape(x.data, grouped), reshape(y.data, grouped)];
      backend.rmsNorm({ x: from, w: w.tensor, shift, epsilon, y: to, rstd: rstd.data });
      const groups = grouped[0]! / x.shape[0]!;
      for (const { start, end, parameter } of own) {
        const [first, last] = [start * groups, end * groups];
        const part = (tensor: Tensor) => rows(tensor, first, last);
        backend.rmsNorm({
          ...{ x: part(from), w: parameter.tensor, shift, epsilon },
          ...{ y: part(to), rstd: part(rstd.data) },
        });
      }
      if (residual) backend.addInPlace({ x: residual.data, y: y.data });
    },
    backward: y.needsGrad
      ? () => {
          if (!y.grad) return;
          if (normGrad) {
            const dx = x.needsGrad ? tape.gradOf(x) : undefined;
            backend.rmsNormBackward({
              ...{ x: reshape(x.data, grouped), w: w.tensor, shift, rstd: rstd.data },
              dy: reshape(y.grad, grouped),
              dx: dx && reshape(dx.tensor, grouped),
              accumulate: dx?.accumulate ?? false,
              dw: w.grad,
            });
          }
          if (residual) tape.passGrad(y, residual);
        }
      : undefined,
  });
  return y;
}

/** act(gate) * up; Shazeer 2020, "GLU variants improve transformer". */
export function gatedActivation(tape: Tape, kind: ActivationKind, gate: Value, up: Value): Value {
  const { backend } = tape;
  const y = tape.value(gate.shape, gate.needsGrad || up.needsGrad);
  tape.record({
    name: "gatedActivation",
    inputs: [gate, up],
    outputs: [y],
    saves: [gate, up],
    forward: () => backend.gatedActivation({ activation: kind, gate: gate.data, up: up.data, y: y.data }),
    backward: y.needsGrad
      ? () => {
          if (!y.grad) return;
          // gate and up are read here for the last time, so their own memory receives the gradients.
          const [dGate, dUp] = [gate, up].map((value) => {
            const moved =
              value.needsGrad && value.owned && !value.grad && value.holders === 1 && value.readers === 0;
            if (moved) tape.giveGrad(value, tape.takeData(value));
            return { value, moved };
          }) as [{ value: Value; moved: boolean }, { value: Value; moved: boolean }];
          const source = (v: { value: Value; moved: boolean }) => (v.moved ? v.value.grad! : v.value.data);
          const target = (v: { value: Value; moved: boolean }) =>
            v.moved ? v.value.grad! : tape.allocateTensor(v.value.shape, "activations");
          const [gateSource, upSource] = [source(dGate), source(dUp)];
          const [gateTarget, upTarget] = [target(dGate), target(dUp)];
          backend.gatedActivationBackward({
            activation: kind,
            gate: gateSource,
            up: upSource,
            dy: y.grad,
            dGate: gateTarget,
            dUp: upTarget,
          });
          for (const [v, tensor] of [
            [dGate, gateTarget],
            [dUp, upTarget],
          ] as const) {
            if (v.moved) continue;
            if (v.value.needsGrad && !v.value.grad) {
              tape.giveGrad(v.value, tensor);
              continue;
            }
            if (v.value.grad) backend.addInPlace({ x: tensor, y: v.value.grad });
            backend.free(tensor.buffer);
          }
        }
      : undefined,
  });
  return y;
}

/** Rows of x [T, C] named by index i32 [n] -> [n, C]; for generation, so it has no backward pass. */
export function gather(tape: Tape, x: Value, index: Tensor): Value {
  invariant(!tape.recording, "gather has no backward pass");
  const y = tape.value([index.shape[0]!, x.shape[1]!], false);
  tape.record({
    name: "gather",
    inputs: [x],
    outputs: [y],
    forward: () => tape.backend.gatherRows({ x: x.data, index, y: y.data }),
  });
  return y;
}
