// Types of the emulated WGSL and how their values lie in memory.

export type Scalar = "f32" | "f16" | "u32" | "i32" | "bool" | "int" | "float";
export type Type =
  | { readonly is: Scalar }
  | { readonly is: "vec"; readonly of: Type; readonly count: number }
  | { readonly is: "array"; readonly of: Type; readonly count?: number }
  | {
      readonly is: "struct";
      readonly name: string;
      readonly members: readonly { readonly name: string; readonly type: Type }[];
    }
  | { readonly is: "atomic"; readonly of: Type }
  | { readonly is: "matrix"; readonly of: Type; readonly columns: number; readonly rows: number }
  | { readonly is: "nothing" };

export const scalar = (is: Scalar): Type => ({ is });

export function isScalar(type: Type): type is { readonly is: Scalar } {
  return ["f32", "f16", "u32", "i32", "bool", "int", "float"].includes(type.is);
}

export function alignOf(type: Type): number {
  if (type.is === "vec") return (type.count === 3 ? 4 : type.count) * sizeOf(type.of);
  if (type.is === "array") return alignOf(type.of);
  if (type.is === "struct") return Math.max(...type.members.map((member) => alignOf(member.type)));
  return sizeOf(type);
}

/** Bytes of a value; of one element of an array that ends nowhere. */
export function sizeOf(type: Type): number {
  switch (type.is) {
    case "f16":
      return 2;
    case "vec":
      return type.count * sizeOf(type.of);
    case "atomic":
      return 4;
    case "array":
      return strideOf(type) * (type.count ?? 1);
    case "struct":
      return offsetOf(type, undefined);
    case "matrix":
    case "nothing":
      throw new Error(`a ${type.is} in memory`);
    default:
      return 4;
  }
}

export function strideOf(type: Type & { readonly is: "array" }): number {
  const align = alignOf(type.of);
  return Math.ceil(sizeOf(type.of) / align) * align;
}

/** Where a member starts; without a name, the struct's own size. */
export function offsetOf(type: Type & { readonly is: "struct" }, name: string | undefined): number {
  let at = 0;
  for (const member of type.members) {
    const align = alignOf(member.type);
    at = Math.ceil(at / align) * align;
    if (member.name === name) return at;
    at += sizeOf(member.type);
  }
  if (name !== undefined) throw new Error(`${type.name} has no ${name}`);
  return at;
}

/** JavaScript for a value of zeros. */
export function zeroOf(type: Type): string {
  switch (type.is) {
    case "bool":
      return "false";
    case "vec":
      return `[${Array(type.count).fill("0").join()}]`;
    case "array":
      return `Array.from({ length: ${type.count} }, () => (${zeroOf(type.of)}))`;
    case "struct":
      return `{ ${type.members.map((member) => `${member.name}: ${zeroOf(member.type)}`).join(", ")} }`;
    case "matrix":
      return "null";
    default:
      return "0";
  }
}

export function same(a: Type, b: Type): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
