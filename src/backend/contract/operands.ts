// What an operand of a kernel may be, and the words that the contract's families are written in. Not here: the kernels (the
// files beside this one), the types of their calls (../contract.ts), the checks (../operand-check.ts).
//
// Shapes name sizes, and equal names are equal sizes: "t heads headDim". "headDim/2" divides exactly,
// "half<=headDim/2" is at most that, "ceil(n/blockSize)" rounds up, "*n" is the product of all sizes that are left. T =
// tokens of a batch, all sequences laid end to end (padding never exists); c = model width, v = vocabulary, p = positions
// in a table.

import type { DType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/**
 * Which tokens attend to which: row s of `table` is (qStart, qLength, kStart, kLength), i32. Query i of a segment
 * stands at position kLength - qLength + i and sees keys 0..position of its own segment, and of these only the last
 * `window` when window > 0. Segments never see each other.
 */
export interface Segments {
  readonly table: Tensor; // [count, 4] i32
  readonly count: number;
  readonly maxQueries: number;
  readonly maxKeys: number;
}

export type ActivationKind = "silu" | "gelu" | "geluTanh" | "identity" | "sigmoid";

/** "float" is the backend's floatType: f32, and f64 on the f64 reference. */
export type OperandType = DType | "float";

export interface TensorOperand<Optional extends boolean = boolean> {
  readonly kind: "tensor";
  readonly types: readonly OperandType[];
  readonly shape: string;
  /** "out" is overwritten whole, "update" is read and written; rows of an update that nothing names stay as they are. */
  readonly access: "in" | "out" | "update";
  readonly optional: Optional;
  /** Operands whose memory this output may be; with no other may it share any. */
  readonly mayBe: readonly string[];
}

export interface NumberOperand<T extends number = number> {
  readonly kind: "number";
  /** The values there are, for the compiler alone. */
  readonly values?: T;
  readonly least?: number;
  readonly most?: number;
  readonly multipleOf?: number;
}

export interface ChoiceOperand<T extends string = string> {
  readonly kind: "choice";
  readonly choices: readonly T[];
}

export type Operand =
  | TensorOperand
  | NumberOperand
  | ChoiceOperand
  | { readonly kind: "flag" }
  | { readonly kind: "segments" }
  | { readonly kind: "numbers"; readonly count: number };

/** Kernels by name, each with its operands by name. */
export type Family = Record<string, Record<string, Operand>>;

export const tensor =
  (...types: OperandType[]) =>
  (shape: string): TensorOperand<false> => ({
    kind: "tensor",
    types,
    shape,
    access: "in",
    optional: false,
    mayBe: [],
  });
export const float = tensor("float");
export const f32 = tensor("f32");
export const i32 = tensor("i32");
export const u8 = tensor("u8");
/** Weights as files hold them. */
export const anyFloat = tensor("float", "f32", "f64", "bf16", "f16");
/** Keys and values as a cache may hold them. */
export const cachedType = tensor("float", "f32", "bf16", "f16", "u8");
export const stored = tensor("float", "f32", "bf16", "f16");
export const out = (operand: TensorOperand<false>, ...mayBe: string[]): TensorOperand<false> => ({
  ...operand,
  access: "out",
  mayBe,
});
export const update = (operand: TensorOperand<false>): TensorOperand<false> => ({
  ...operand,
  access: "update",
});
export const optional = (operand: TensorOperand<false>): TensorOperand<true> => ({
  ...operand,
  optional: true,
});
export const number: NumberOperand = { kind: "number" };
export const flag = { kind: "flag" } as const;
export const segments = { kind: "segments" } as const;
export const numbers = (count: number) => ({ kind: "numbers", count }) as const;
export const activation: ChoiceOperand<ActivationKind> = {
  kind: "choice",
  choices: ["silu", "gelu", "geluTanh", "identity", "sigmoid"],
};
