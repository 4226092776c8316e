// A mixture of experts on the tape: the router's choice, the order of tokens by expert, the experts' linear layers, their
// activation, and the sum of their answers, forward and backward. The choice itself has no gradient; the weights of what
// was chosen have. Not here: the layers as data (nn/), the block they make (models/).

import type { ActivationKind, GroupedGradPart, MatrixStack, Tensor } from "../../backend/backend.ts";
import { reshape } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";

/** Which experts each token goes to, and where its pairs stand in the experts' order. */
export interface Routing {
  readonly weights: Value; // [T, k]
  readonly chosen: Value; // i32 [T, k]
  readonly slots: Value; // i32 [T, k]
  readonly tokens: Value; // i32 [T, k]: flat, the token of each slot
  readonly offsets: Value; // i32 [E + 1]
}

/** Routes tokens by their logits [T, E] to k experts each; weights as the contract's router has them. */
export function route(tape: Tape, logits: Value, k: number, normalized: boolean): Routing {
  const [t, experts] = logits.shape as [number, number];
  const { backend } = tape;
  const weights = tape.value([t, k], logits.needsGrad);
  const chosen = tape.value([t, k], false, "i32");
  tape.record({
    name: "router",
    inputs: [logits],
    outputs: [weights, chosen],
    saves: [logits, weights, chosen],
    forward: () =>
      backend.router({ logits: logits.data, normalized, weights: weights.data, chosen: chosen.data }),
    backward: weights.needsGrad
      ? () => {
          if (!weights.grad) return;
          invariant(!logits.grad, "a router's logits have one reader");
          backend.routerBackward({
            logits: logits.data,
            normalized,
            weights: weights.data,
            chosen: chosen.data,
            dWeights: weights.grad,
            dLogits: tape.gradOf(logits).tensor,
          });
        }
      : undefined,
  });
  const [slots, tokens] = [0, 1].map(() => tape.value([t, k], false, "i32")) as [Value, Value];
  const offsets = tape.value([experts + 1], false, "i32");
  tape.record({
    name: "sortByExpert",
    inputs: [chosen],
    outputs: [slots, tokens, offsets],
    forward: () =>
      backend.sortByExpert({
        chosen: chosen.data,
        offsets: offsets.data,
        slots: slots.data,
        tokens: tokens.data,
      }),
  });
  return { weights, chosen, slots, tokens, offsets };
}

/** The routing with each weight times its expert's number of `scale` [E]: an element of it is looked up as a row of a table. */
export function scaleByExpert(tape: Tape, routing: Routing, scale: Parameter): Routing {
  const { backend } = tape;
  const { weights, chosen } = routing;
  const count = weights.shape[0]! * weights.shape[1]!;
  const column = (tensor: Tensor, rows: number) => reshape(tensor, [rows, 1]);
  const experts = scale.tensor.shape[0]!;
  const { grad } = scale;
  const factors = tape.value([count, 1], false);
  const scaled = tape.value(weights.shape, weights.needsGrad || grad !== undefined);
  const ids = () => reshape(chosen.data, [count]);
  tape.record({
    name: "scaleByExpert",
    inputs: [weights, chosen],
    outputs: [factors, scaled],
    saves: [weights, chosen, factors],
    forward() {
      backend.embedding({ ids: ids(), table: column(scale.tensor, experts), y: factors.data });
      backend.gatedActivation({
        ...{ activation: "identity", gate: weights.data, up: reshape(factors.data, weights.shape) },
        y: scaled.data,
      });
    },
    backward: scaled.needsGrad
      ? () => {
          const dy = scaled.grad;
          if (!dy) return;
          const dWeights = tape.allocateTensor(weights.shape, "activations");
          const dFactors = tape.allocateTensor(weights.shape, "workspace");
          backend.gatedActivationBackward({
            ...{ activation: "identity", gate: weights.data, up: reshape(factors.data, weights.shape), dy },
            ...{ dGate: dWeights, dUp: dFactors },
          });
          if (grad) {
            const dTable = column(grad, experts);
            backend.embeddingBackward({ ids: ids(), dy: column(dFactors, count), dTable });
          }
          backend.free(dFactors.buffer);
          if (weights.needsGrad) addGrad(tape, weights, dWeights);
          else backend.free(dWeights.buffer);
        }
      : undefined,
  });
  return { ...routing, weights: scaled };
}

/** A linear layer of every expert. */
export interface GroupedSpec {
  readonly weight: { readonly frozen: MatrixStack } | { readonly parameter: Parameter }; // [E, out, in]
  readonly bias?: Parameter; // [E, out]
  readonly adapter?: {
    readonly a: Parameter; // [E * R, in]
    readonly b: Parameter; // [E, out, R]
    readonly scale: number;
  };
}

/**
 * y [T k, out] in the experts' order, of x by token [T, in] when `spread`, else by row of that order [T k, in]. `few`: the
 * pass is one of few tokens.
 */
export function groupedLinear(
  tape: Tape,
  x: Value,
  routing: Routing,
  spec: GroupedSpec,
  { spread, few }: { readonly spread: boolean; readonly few: boolean },
): Value {
  const { backend } = tape;
  const { slots, tokens, offsets } = routing;
  const weight = "frozen" in spec.weight ? spec.weight.frozen : spec.weight.parameter.tensor;
  const dWeight = "frozen" in spec.weight ? undefined : spec.weight.parameter.grad;
  const { bias, adapter } = spec;
  const count = slots.shape[0]! * slots.shape[1]!;
  const [, out, width] = weight.shape as readonly [number, number, number];
  const trainsAdapter = adapter?.a.grad !== undefined;
  const keepsInput = trainsAdapter || dWeight !== undefined;
  const trains = keepsInput || bias?.grad !== undefined;
  const y = tape.value([count, out], x.needsGrad || trains);
  const u = adapter && tape.value([count, adapter.b.tensor.shape[2]!], false);
  const rows = () => ({
    offsets: offsets.data,
    index: spread ? reshape(tokens.data, [count]) : undefined,
    few,
  });
  const factors = (held: Tensor) =>
    adapter && { a: adapter.a.tensor, b: adapter.b.tensor, scale: adapter.scale, u: held };
  tape.record({
    name: "groupedLinear",
    inputs: [x, slots, tokens, offsets],
    outputs: u ? [y, u] : [y],
    saves: [...(keepsInput ? [x] : []), ...(u && trainsAdapter ? [u] : []), ...[offsets, tokens, slots]],
    forward: () =>
      backend.groupedLinear(x.data, rows(), {
        weight,
        bias: bias?.tensor,
        adapter: u && factors(u.data),
        y: y.data,
      }),
    backward: y.needsGrad
      ? () => {
          const dy = y.grad;
          if (!dy) return;
          const part: GroupedGradPart = {
            weight,
            dy,
            adapter: adapter && {
              ...factors(u && trainsAdapter ? u.data : dy)!,
              dA: adapter.a.grad,
              dB: adapter.b.grad,
            },
            dWeight,
            dBias: bias?.grad,
          };
          // Frozen adapters were only multiplied with: their u is not there, and not read.
          const input = keepsInput ? x.data : undefined;
          if (!x.needsGrad) return backend.groupedLinearBackward(input, rows(), part, undefined);
          if (!spread && !x.grad) {
            return backend.groupedLinearBackward(input, rows(), part, tape.gradOf(x).tensor);
          }
          const bySlot = tape.allocateTensor([count, width], "workspace");
          backend.groupedLinearBackward(input, rows(), part, bySlot);
          const { tensor, accumulate } = tape.gradOf(x);
          if (spread) {
            backend.combineExperts({
              z: bySlot,
              slots: slots.data,
              weights: undefined,
              residual: accumulate ? tensor : undefined,
              y: tensor,
            });
          } else backend.addInPlace({ x: bySlot, y: tensor });
          backend.free(bySlot.buffer);
        }
      : undefined,
  });
  return y;
}

/** How experts make F numbers of their 2 F: an activation, or gpt-oss' clamped one. */
export interface ExpertActivation {
  readonly activation: ActivationKind;
  /** 0: none. */
  readonly limit: number;
  readonly alpha: number;
}

/** [M, 2 F] -> [M, F]: a row's gate stands before its up. */
export function expertActivation(tape: Tape, kind: ExpertActivation, x: Value): Value {
  const { backend } = tape;
  const [count, width] = [x.shape[0]!, x.shape[1]! / 2];
  const y = tape.value([count, width], x.needsGrad);
  const pairs = (tensor: Tensor) => reshape(tensor, [count, 2, width]);
  tape.record({
    name: "expertActivation",
    inputs: [x],
    outputs: [y],
    saves: [x],
    forward: () => backend.expertActivation({ ...kind, x: pairs(x.data), y: y.data }),
    backward: y.needsGrad
      ? () => {
          if (!y.grad) return;
          inPlace(tape, x, (from, to) => {
            backend.expertActivationBackward({ ...kind, x: pairs(from), dy: y.grad!, dx: pairs(to) });
          });
        }
      : undefined,
  });
  return y;
}

/** y [T, C] = residual + the weighted sum of what a token's experts answered, z [T k, C] in their order. */
export function combineExperts(tape: Tape, z: Value, { weights, slots }: Routing, residual?: Value): Value {
  const { backend } = tape;
  const y = tape.value(
    [slots.shape[0]!, z.shape[1]!],
    z.needsGrad || weights.needsGrad || residual?.needsGrad === true,
  );
  tape.record({
    name: "combineExperts",
    inputs: [z, slots, weights, ...(residual ? [residual] : [])],
    outputs: [y],
    saves: [z, slots, weights],
    forward: () =>
      backend.combineExperts({
        z: z.data,
        slots: slots.data,
        weights: weights.data,
        residual: residual?.data,
        y: y.data,
      }),
    backward: y.needsGrad
      ? () => {
          const dy = y.grad;
          if (!dy) return;
          if (z.needsGrad || weights.needsGrad) {
            const dWeights = tape.allocateTensor(weights.shape, "activations");
            inPlace(tape, z, (from, dz) => {
              const common = { dy, z: from, slots: slots.data, weights: weights.data };
              backend.combineExpertsBackward({ ...common, dz, dWeights });
            });
            if (weights.needsGrad) addGrad(tape, weights, dWeights);
            else backend.free(dWeights.buffer);
          }
          if (residual) tape.passGrad(y, residual);
        }
      : undefined,
  });
  return y;
}

/** Makes the gradient of a value that is read here for the last time, in its own memory where nobody else holds that. */
function inPlace(tape: Tape, value: Value, make: (from: Tensor, to: Tensor) => void): void {
  const own = value.needsGrad && value.owned && !value.grad && value.holders === 1 && value.readers === 0;
  if (own) {
    const memory = tape.takeData(value);
    tape.giveGrad(value, memory);
    make(memory, memory);
    return;
  }
  const made = tape.allocateTensor(value.shape, "activations");
  make(value.data, made);
  if (value.needsGrad) addGrad(tape, value, made);
  else tape.backend.free(made.buffer);
}

/** Adds a gradient whose memory the tape takes over. */
function addGrad(tape: Tape, value: Value, made: Tensor): void {
  if (!value.grad) {
    tape.giveGrad(value, made);
    return;
  }
  tape.backend.addInPlace({ x: made, y: value.grad });
  tape.backend.free(made.buffer);
}
