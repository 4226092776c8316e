// The agreement between the contract and the native engine: kernels.def's text, which the addon carries, is read and every
// kernel's arguments are found among its operands by name and type. Whatever differs, on either side, is told by name when
// the addon is first used. The order of arguments is the engine's own; nothing here depends on it. Not here: writing a
// call (write-call.ts).

import { BugError } from "../../util/errors.ts";
import { contract, type KernelName, kernelNames, type Operand, type TensorOperand } from "../contract.ts";
import { dtypeCodes } from "../operand-check.ts";
import type { NativeAddon } from "./addon.node.ts";

/** Kernels that both sides write by hand. */
const handWritten = ["linear", "linearBackward", "groupedLinear", "groupedLinearBackward"];

/** An argument of a native kernel. */
export interface NativeArgument {
  readonly type: string;
  readonly name: string;
}

type Lists = Pick<NativeAddon, "kernels" | "types">;

/** The arguments of every kernel in the engine's order, and its id. BugError names the first drift. */
export function nativeSignatures(
  addon: Lists,
): ReadonlyMap<string, { readonly id: number; readonly list: readonly NativeArgument[] }> {
  checkEnumeration(addon, "DType", Object.keys(dtypeCodes));
  const found = new Map<string, { id: number; list: readonly NativeArgument[] }>();
  for (const [id, [name, text]] of addon.kernels.entries()) {
    if (handWritten.includes(name)) found.set(name, { id, list: [] });
    else if (Object.hasOwn(contract, name)) found.set(name, { id, list: argumentsOf(addon, text ?? "") });
    else throw drift(name, "is in native/kernels.def and not in the contract");
  }
  for (const name of [...handWritten, ...kernelNames])
    if (!found.has(name)) throw drift(name, "is in the contract and not in native/kernels.def");
  for (const name of kernelNames) checkKernel(addon, name, found.get(name)!.list);
  return found;
}

function argumentsOf(addon: Lists, text: string): NativeArgument[] {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .flatMap((part) => {
      const match = /^(.*[\s*&])(\w+)$/.exec(part);
      if (!match) throw new BugError(`native/kernels.def: the argument "${part}" cannot be read`);
      const type = match[1]!.trim().replace(/\s+\*/g, "*");
      const struct = addon.types.find(([name]) => name === type.replace(/^const |&$| &$/g, "").trim());
      if (struct && !struct[1].startsWith("enum ")) return argumentsOf(addon, struct[1]);
      return [{ type, name: match[2]! }];
    });
}

/** C++ types that an operand of each kind may arrive as. */
function typesOf(operand: Operand): readonly string[] {
  switch (operand.kind) {
    case "tensor": {
      const stored = isTyped(operand) ? "void" : elements[operand.types[0]!]!;
      return operand.access === "in" ? [`const ${stored}*`, `${stored}*`] : [`${stored}*`];
    }
    case "number":
      return ["float", "double", "int64_t", "uint64_t", "uint32_t"];
    case "choice":
      return ["Activation"];
    case "flag":
      return ["bool"];
    case "segments":
      return ["const Segment*"];
    case "numbers":
      return ["Thresholds", "CodeByRank"];
  }
}

/** Whether a tensor comes with its dtype; the native engine knows no "float" but f32. */
function isTyped(operand: TensorOperand): boolean {
  return new Set(operand.types.map((type) => (type === "float" ? "f32" : type))).size > 1;
}

const elements: Partial<Record<string, string>> = {
  float: "float",
  f32: "float",
  i32: "int32_t",
  u8: "uint8_t",
};

function checkKernel(addon: Lists, kernel: KernelName, list: readonly NativeArgument[]): void {
  const operands: Record<string, Operand> = contract[kernel];
  const names = new Set(list.map(({ name }) => name));
  if (names.size !== list.length) throw drift(kernel, "names an argument twice");
  for (const [name, operand] of Object.entries(operands)) {
    const argument = list.find((found) => found.name === name);
    if (!argument) throw drift(kernel, `has the operand ${name}, which native/kernels.def lacks`);
    const wanted = typesOf(operand);
    if (!wanted.includes(argument.type))
      throw drift(
        kernel,
        `takes ${name} as ${argument.type} in native/kernels.def, not ${wanted.join(" or ")}`,
      );
    if (operand.kind === "choice") checkEnumeration(addon, argument.type, operand.choices);
    if (operand.kind === "tensor" && isTyped(operand) && !names.has(`${name}Type`))
      throw drift(kernel, `has no ${name}Type beside ${name} in native/kernels.def`);
  }
  const sizes = new Set(
    Object.values(operands).flatMap((operand) =>
      operand.kind === "tensor" ? (operand.shape.match(/[a-zA-Z]\w*/g) ?? []) : [],
    ),
  );
  for (const { name, type } of list) {
    const typed = name.endsWith("Type") && operands[name.slice(0, -4)]?.kind === "tensor";
    const counted = name.endsWith("Count") && operands[`${name.slice(0, -5)}s`]?.kind === "segments";
    const wanted = typed ? "DType" : name === "precision" ? "Precision" : "int64_t";
    if (Object.hasOwn(operands, name)) continue;
    if (!typed && !counted && name !== "precision" && !(sizes.has(name) && name !== "ceil"))
      throw drift(kernel, `has the argument ${name} in native/kernels.def, which the contract lacks`);
    if (type !== wanted) throw drift(kernel, `takes ${name} as ${type} in native/kernels.def, not ${wanted}`);
  }
}

function checkEnumeration(addon: Lists, name: string, wanted: readonly string[]): void {
  const text = addon.types.find(([type]) => type === name)?.[1];
  const found = text?.replace(/^enum /, "").split(/,\s*/) ?? [];
  if (found.join().toLowerCase() !== wanted.join().toLowerCase())
    throw drift(name, `is ${found.join(", ")} in native/kernels.def and ${wanted.join(", ")} here`);
}

function drift(name: string, problem: string): BugError {
  return new BugError(
    `${name} ${problem}: the native engine and this code differ; run \`node native/build.mjs\` in the lowrank folder`,
  );
}
