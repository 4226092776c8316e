// WGSL's operators and conversions as JavaScript, by the types of their operands.

import { type Scalar, scalar, type Type } from "./wgsl-types.ts";

/** JavaScript for a value; for one in memory (workgroup, storage, uniform) `bytes` and `at` say where. */
export interface Coded {
  readonly code: string;
  readonly type: Type;
  readonly bytes?: string;
  readonly at?: string;
  /** Nobody else holds it, so that it need not be copied. */
  readonly fresh?: boolean;
}

/** The type of both; literals take the other side's. */
export function joined(a: Type, b: Type): Type {
  if (a.is === b.is) return a;
  if (a.is === "int" || (a.is === "float" && b.is !== "int")) return b;
  if (b.is === "int" || b.is === "float") return a;
  throw new Error(`${a.is} with ${b.is}`);
}

export function concrete(type: Type): Type {
  return type.is === "int" ? scalar("i32") : type.is === "float" ? scalar("f32") : type;
}

export function convert(code: string, from: Type, to: Type): string {
  if (from.is === to.is) return code;
  return converted({ code, type: from }, to.is as Scalar);
}

export function converted({ code, type }: Coded, to: Scalar): string {
  if (type.is === "bool") return to === "bool" ? code : `(${code} ? 1 : 0)`;
  const whole = type.is === "int" || type.is === "u32" || type.is === "i32";
  switch (to) {
    case "f32":
    case "float":
      return `H.fr(${code})`;
    case "f16":
      return `H.h16(${code})`;
    case "u32":
      return whole ? `((${code}) >>> 0)` : `H.toU(${code})`;
    case "i32":
      return whole ? `((${code}) | 0)` : `H.toI(${code})`;
    case "bool":
      return `((${code}) !== 0)`;
    default:
      return code;
  }
}

export function arithmetic(op: string, type: Scalar): string {
  if (["<", ">", "<=", ">="].includes(op)) return `($x ${op} $y)`;
  if (op === "==" || op === "!=") return `($x ${op}= $y)`;
  if (type === "bool") return `($x ${op === "&" ? "&&" : op === "|" ? "||" : op} $y)`;
  if (type === "f32") return `H.fr($x ${op} $y)`;
  if (type === "f16") return `H.h16($x ${op} $y)`;
  if (type === "float") return `($x ${op} $y)`;
  const wrap = type === "u32" ? ">>> 0" : "| 0";
  if (op === "*") return `(Math.imul($x, $y) ${wrap})`;
  if (op === "/") return `(H.div($x, $y) ${wrap})`;
  if (op === "%") return `(H.rem($x, $y) ${wrap})`;
  if (op === ">>") return type === "u32" ? "($x >>> $y)" : "($x >> $y)";
  return `(($x ${op} $y) ${wrap})`;
}
