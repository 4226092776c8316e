// Layers that walk along a sequence, forward and backward: the short convolution and the gated delta rule with its gates.
// In generation they go on from a state that their caller keeps (generate/). Not here: the norms and gates around them.

import type { Segments, Tensor } from "../../backend/backend.ts";
import { reshape } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";
import { gradTarget } from "./grad-target.ts";

/** Segments whose kStart is a row of `state`, as the recurrent kernels of the contract read them. */
export interface RecurrentState {
  readonly segments: Segments;
  readonly tensor: Tensor;
}

export interface ConvolutionSpec {
  /** [C, 1, taps], as torch keeps it. */
  readonly weight: Parameter;
  readonly bias?: Parameter;
  /** x * sigmoid(x) of the result. */
  readonly silu: boolean;
  readonly segments: Segments;
  /** [slots, taps, C]; generation alone. */
  readonly state?: RecurrentState;
}

/** A kernel [C, 1, taps] as [C, taps]. */
const byChannel = (kernel: Tensor) => reshape(kernel, [kernel.shape[0]!, kernel.shape.at(-1)!]);

/** Depthwise causal convolution of x [T, C] within each segment. */
export function causalConv1d(tape: Tape, x: Value, spec: ConvolutionSpec): Value {
  const { weight, bias, silu, state } = spec;
  invariant(!(state && tape.recording), "a state serves generation, not training");
  const { backend } = tape;
  const trains = weight.grad !== undefined || bias?.grad !== undefined;
  const y = tape.value(x.shape, x.needsGrad || trains);
  const shared = () => ({
    ...{ x: x.data, w: byChannel(weight.tensor), bias: bias?.tensor, silu },
    segments: state?.segments ?? spec.segments,
  });
  tape.record({
    name: "causalConv1d",
    inputs: [x],
    outputs: [y],
    saves: [x],
    forward: () => backend.causalConv1d({ ...shared(), state: state?.tensor, y: y.data }),
    backward: y.needsGrad
      ? () => {
          if (!y.grad) return;
          const dx = x.needsGrad ? gradTarget(tape, x) : undefined;
          backend.causalConv1dBackward({
            ...shared(),
            dy: y.grad,
            dx: dx?.tensor,
            dw: weight.grad && byChannel(weight.grad),
            dBias: bias?.grad,
          });
          dx?.finish();
        }
      : undefined,
  });
  return y;
}

/** g and beta [T, heads] of a and b [T, heads]. */
export function deltaGates(
  tape: Tape,
  a: Value,
  b: Value,
  logDecay: Parameter,
  timeBias: Parameter,
): { g: Value; beta: Value } {
  const { backend } = tape;
  const trains = logDecay.grad !== undefined || timeBias.grad !== undefined;
  const needsGrad = a.needsGrad || b.needsGrad || trains;
  const [g, beta] = [tape.value(a.shape, needsGrad), tape.value(b.shape, needsGrad)];
  const shared = () => ({ a: a.data, b: b.data, logDecay: logDecay.tensor, timeBias: timeBias.tensor });
  tape.record({
    name: "deltaGates",
    inputs: [a, b],
    outputs: [g, beta],
    saves: [a, b],
    forward: () => backend.deltaGates({ ...shared(), g: g.data, beta: beta.data }),
    backward: needsGrad
      ? () => {
          if (!g.grad || !beta.grad) return;
          const [da, db] = [gradTarget(tape, a), gradTarget(tape, b)];
          backend.deltaGatesBackward({
            ...shared(),
            ...{ dg: g.grad, dBeta: beta.grad, da: da.tensor, db: db.tensor },
            ...{ dLogDecay: logDecay.grad, dTimeBias: timeBias.grad },
          });
          da.finish();
          db.finish();
        }
      : undefined,
  });
  return { g, beta };
}

export interface DeltaRuleSpec {
  readonly keyHeads: number;
  readonly keyWidth: number;
  readonly valueHeads: number;
  readonly valueWidth: number;
  readonly segments: Segments;
  /** [slots, valueHeads, keyWidth, valueWidth]; generation alone. */
  readonly state?: RecurrentState;
}

/** What is added to the sum of squares of a query or key before its root: torch's and FLA's l2norm. */
const lengthEpsilon = 1e-6;

/** qkv [T, 2 keyHeads keyWidth + valueHeads valueWidth], g and beta [T, valueHeads] -> [T, valueHeads valueWidth]. */
export function gatedDeltaRule(tape: Tape, qkv: Value, g: Value, beta: Value, spec: DeltaRuleSpec): Value {
  const { keyHeads, keyWidth, valueHeads, valueWidth, state } = spec;
  invariant(!(state && tape.recording), "a state serves generation, not training");
  invariant(
    qkv.shape[1] === 2 * keyHeads * keyWidth + valueHeads * valueWidth && valueHeads % keyHeads === 0,
    `delta rule of ${keyHeads}/${valueHeads} heads of ${keyWidth} and ${valueWidth} on [${qkv.shape}]`,
  );
  invariant(!state || state.tensor.shape[2] === keyWidth, "the state has keys of another width");
  const { backend } = tape;
  const tokens = qkv.shape[0]!;
  const needsGrad = qkv.needsGrad || g.needsGrad || beta.needsGrad;
  const out = tape.value([tokens, valueHeads * valueWidth], needsGrad);
  const byHeads = (t: Tensor): Tensor => ({ ...t, shape: [tokens, valueHeads, valueWidth] });
  const shared = () => ({
    ...{ qkv: qkv.data, g: g.data, beta: beta.data, kHeads: keyHeads, keyWidth },
    segments: state?.segments ?? spec.segments,
    scale: 1 / Math.sqrt(keyWidth),
    epsilon: lengthEpsilon,
  });
  tape.record({
    name: "gatedDeltaRule",
    inputs: [qkv, g, beta],
    outputs: [out],
    saves: [qkv, g, beta],
    forward: () => backend.gatedDeltaRule({ ...shared(), state: state?.tensor, out: byHeads(out.data) }),
    backward: needsGrad
      ? () => {
          if (!out.grad) return;
          const grads = [qkv, g, beta].map((value) => gradTarget(tape, value));
          const [dqkv, dg, dBeta] = grads.map(({ tensor }) => tensor) as [Tensor, Tensor, Tensor];
          backend.gatedDeltaRuleBackward({ ...shared(), dOut: byHeads(out.grad), dqkv, dg, dBeta });
          for (const grad of grads) grad.finish();
        }
      : undefined,
  });
  return out;
}
