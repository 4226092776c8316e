// The gated activation of MLPs and its gradients: launches of gated-activation*.wgsl, or rows that a product makes itself
// (deferred-rows.ts).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ActivationKind, ContractKernels, Operands } from "../contract.ts";
import { activations, copyFloats, forElements, sameMemory } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { apart, quadsOf, rowsMayWait } from "./project-rows.ts";

/** Rows, and their width. */
const rowsOf = ({ shape }: Tensor) => [shape[0]!, elementCount(shape) / Math.max(1, shape[0]!)] as const;

function gatedMayWait(gpu: Gpu, { gate, up, y }: Operands<"gatedActivation">): boolean {
  return rowsMayWait(gpu, ...rowsOf(gate), [gate, up, y]) && apart(gpu, [gate, up], [y]);
}

/** Puts y = act(gate) up off: a product of an MLP reads it. */
function deferGated(
  gpu: Gpu,
  operands: Operands<"gatedActivation">,
  run: (operands: Operands<"gatedActivation">) => void,
): void {
  const { activation, gate, up, y } = operands;
  const own = gpu.deferred.handlesOf({ gate, up, y });
  gpu.deferred.add({
    ...{ makes: [own.y], reads: [own.gate, own.up], isWhole: true },
    source: {
      ...{ files: ["activation", "rows-gated"], constants: { ACTIVATION: activations[activation] } },
      ...{ outputs: 1, pitch: rowsOf(gate)[1], quads: true, own: [] },
      operands: [quadsOf(own.gate), quadsOf(own.up), quadsOf(own.y)],
    },
    run: () => run({ ...operands, ...own }),
  });
}

/** Puts the gradients of gate and up off, which are made in their places: products read them. */
function deferGatedBackward(
  gpu: Gpu,
  operands: Operands<"gatedActivationBackward">,
  run: (operands: Operands<"gatedActivationBackward">) => void,
): void {
  const { activation, gate, up, dy } = operands;
  const own = gpu.deferred.handlesOf({ gate, up, dy });
  gpu.deferred.add({
    ...{ makes: [own.gate, own.up], reads: [own.dy], isWhole: false },
    source: {
      ...{ files: ["activation", "rows-gated-backward"], constants: { ACTIVATION: activations[activation] } },
      ...{ outputs: 2, pitch: rowsOf(gate)[1], quads: true, own: [] },
      operands: [quadsOf(own.gate), quadsOf(own.up), quadsOf(own.dy)],
    },
    run: () => run({ ...operands, ...own, dGate: own.gate, dUp: own.up }),
  });
}

export function gatedKernels(gpu: Gpu): Pick<ContractKernels, "gatedActivation" | "gatedActivationBackward"> {
  const launch = (
    file: "gated-activation" | "gated-activation-backward",
    kind: ActivationKind,
    tensors: Tensor[],
  ) =>
    forElements(
      gpu,
      `${file} ${kind}`,
      () => ({ files: ["activation", file], constants: { ACTIVATION: activations[kind] } }),
      tensors,
      [],
    );
  const forward = ({ activation, gate, up, y }: Operands<"gatedActivation">) =>
    launch("gated-activation", activation, [gate, up, y]);
  const backward = ({ activation, dGate, dUp, dy }: Operands<"gatedActivationBackward">) =>
    launch("gated-activation-backward", activation, [dGate, dUp, dy]);
  return {
    gatedActivation(operands) {
      if (gatedMayWait(gpu, operands)) deferGated(gpu, operands, forward);
      else forward(operands);
    },
    gatedActivationBackward(operands) {
      const { gate, up, dy, dGate, dUp } = operands;
      const [rows, width] = rowsOf(gate);
      const inPlace = sameMemory(gate, dGate) && sameMemory(up, dUp) && apart(gpu, [gate], [up]);
      if (inPlace && rowsMayWait(gpu, rows, width, [gate, up, dy]) && apart(gpu, [gate, up], [dy])) {
        deferGatedBackward(gpu, operands, backward);
        return;
      }
      // The kernel works in place; the tape usually asks for just that.
      if (!sameMemory(gate, dGate)) copyFloats(gpu, gate, dGate);
      if (!sameMemory(up, dUp)) copyFloats(gpu, up, dUp);
      backward(operands);
    },
  };
}
