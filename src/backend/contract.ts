// The kernels that every device implements: the one place where their operands stand, what these are shaped like, which
// of them are written and which may share memory, a file a family in contract/. From this come the types of the calls (a
// forgotten operand does not compile), the checks of every call (operand-check.ts), the CPU's argument writer
// (cpu/write-call.ts) with its agreement with native/kernels.def, the counting backend, the traced one, and the operands
// of the conformance cases. Not here: products, whose calls carry lists of parts (backend.ts), memory (backend.ts),
// arithmetic (reference.ts). Look first at contract/operands.ts, the language of shapes.

import type { Tensor } from "../tensor/tensor.ts";
import { attentionKernels } from "./contract/attention.ts";
import { columnKernels } from "./contract/columns.ts";
import { elementwiseKernels } from "./contract/elementwise.ts";
import { expertKernels } from "./contract/experts.ts";
import type { ChoiceOperand, NumberOperand, Segments, TensorOperand } from "./contract/operands.ts";
import { quantizedKernels } from "./contract/quantized.ts";
import { recurrentKernels } from "./contract/recurrent.ts";
import { rowKernels } from "./contract/rows.ts";
import { updateKernels } from "./contract/updates.ts";

export type { ActivationKind, Operand, OperandType, Segments, TensorOperand } from "./contract/operands.ts";
export { momentBlockSize } from "./contract/updates.ts";

export const contract = {
  ...elementwiseKernels,
  ...columnKernels,
  ...rowKernels,
  ...recurrentKernels,
  ...attentionKernels,
  ...expertKernels,
  ...updateKernels,
  ...quantizedKernels,
} as const;

export type Contract = typeof contract;
export type KernelName = keyof Contract;
export const kernelNames = Object.keys(contract) as readonly KernelName[];

type ValueOf<O> =
  O extends TensorOperand<true>
    ? Tensor | undefined
    : O extends TensorOperand
      ? Tensor
      : O extends NumberOperand<infer T>
        ? T
        : O extends ChoiceOperand<infer T>
          ? T
          : O extends { readonly kind: "flag" }
            ? boolean
            : O extends { readonly kind: "segments" }
              ? Segments
              : ArrayLike<number>;

/** What a call of kernel K is given. An absent optional operand is `undefined`, and still named. */
export type Operands<K extends KernelName> = {
  readonly [Name in keyof Contract[K]]: ValueOf<Contract[K][Name]>;
};

/** One method a kernel. */
export type ContractKernels = { readonly [K in KernelName]: (operands: Operands<K>) => void };

/** A value for every kernel of the contract. */
export function forEachKernel<T>(make: (name: KernelName) => T): Record<KernelName, T> {
  return Object.fromEntries(kernelNames.map((name) => [name, make(name)])) as Record<KernelName, T>;
}
