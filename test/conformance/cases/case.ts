// What a kernel's case file gives, and what the contract makes of it. A case names sizes; operands, outputs, what must
// stay as it was, calls without optional operands and calls in place are derived from the contract. Four readers use the
// lists: match (backend.test.ts), gradient (gradients.test.ts), threads (threads.test.ts), speed (bench/kernels.mjs).

import type { Parameter, Tape, Value } from "../../../src/autograd/tape.ts";
import type { Tensor } from "../../../src/backend/backend.ts";
import { contract, type KernelName, type Operand, type Operands } from "../../../src/backend/contract.ts";
import type { Stage } from "../stage.ts";

export type Outputs = Record<string, Float32Array>;

export interface KernelCase {
  readonly name: string;
  /** Matrix products: compared with the tolerance of the backend's precision. */
  readonly product?: boolean;
  /** Attention, whose products some devices make of f16 inputs. */
  readonly attention?: boolean;
  /** Bit for bit. */
  readonly exact?: boolean;
  run(stage: Stage): Promise<Outputs>;
}

/** A backward pass to hold against finite differences. */
export interface GradientCase {
  readonly name: string;
  /** Shapes of the values and of the parameters that are differentiated. */
  readonly inputs: readonly (readonly number[])[];
  readonly parameters?: readonly (readonly number[])[];
  /** The result starts its own backward pass, as losses do. */
  readonly isLoss?: boolean;
  build(stage: Stage, tape: Tape, inputs: Value[], parameters: Parameter[]): Value;
}

/** A call to time: at sizes of a real model's training step unless its name says otherwise. */
export interface SpeedCase extends Pick<KernelCase, "product" | "attention" | "exact"> {
  readonly name: string;
  /** Multiply-adds, times two. */
  readonly flops?: number;
  /** Makes the operands; the call may run any number of times. */
  prepare(stage: Stage): { call(): void; readonly outputs: Readonly<Record<string, Tensor>> };
}

export interface KernelSpec {
  /** As `npm run bench -- NAME` takes it. */
  readonly name: string;
  readonly cases: readonly KernelCase[];
  readonly gradients?: readonly GradientCase[];
  readonly speed: readonly SpeedCase[];
  /** Large enough for several threads to share, small enough to run under every instruction set. */
  readonly threads: readonly KernelCase[];
}

/** Counts with tails of every vector width, and none at all. */
export const elementCounts = [0, 1, 3, 17, 64, 1000, 4099] as const;

/** Rows and their widths. */
export const rowShapes = [
  [0, 8],
  [2, 3],
  [3, 17],
  [5, 64],
  [33, 96],
  [70, 576],
  [2, 2049],
] as const;

/** One call of kernel K: the sizes that its shapes name, and what random numbers will not do for. */
export interface Call<K extends KernelName> {
  readonly sizes: Readonly<Record<string, number>>;
  /** Operands that are no tensors. */
  readonly given?: {
    readonly [N in keyof Operands<K> as Operands<K>[N] extends Plain ? N : never]?: Operands<K>[N];
  };
  /** Tensors that must hold something particular, or be of another type. */
  make?(stage: Stage): { readonly [N in keyof Operands<K>]?: Operands<K>[N] };
  /** Random inputs lie within this; 1 when absent. */
  readonly bound?: number;
  readonly label?: string;
}

type Plain = number | boolean | string | ArrayLike<number> | undefined;

/** The shape that the contract writes as text, for sizes that have names. */
export function shapeOf(text: string, sizes: Readonly<Record<string, number>>): number[] {
  const known = (name: string) => {
    const value = /^\d+$/.test(name) ? Number(name) : sizes[name];
    if (value === undefined) throw new Error(`no size ${name} for [${text}]`);
    return value;
  };
  return text.split(" ").map((part) => {
    const body = part.replace(/^\*/, "").replace(/<=.*/, "");
    const rounded = /^ceil\((\w+)\/(\w+)\)$/.exec(body);
    if (rounded) return Math.ceil(known(rounded[1]!) / known(rounded[2]!));
    const [name, by] = body.split("/");
    return known(name!) / (by ? Number(by) : 1);
  });
}

/** Operands of a call: tensors from the contract's shapes, outputs full of noise that a kernel must overwrite. */
function operandsOf<K extends KernelName>(stage: Stage, kernel: K, call: Call<K>): Record<string, unknown> {
  const made: Record<string, unknown> = { ...call.given, ...call.make?.(stage) };
  const sizes = { ...call.sizes, ...(call.given as Record<string, number>) };
  const list = Object.entries<Operand>(contract[kernel]);
  for (const [i, [name, operand]] of list.entries()) {
    if (Object.hasOwn(made, name)) continue;
    if (operand.kind !== "tensor") throw new Error(`${kernel}: the case gives no ${name}`);
    const [type] = operand.types;
    const shape = shapeOf(operand.shape, sizes);
    if (type === "i32") throw new Error(`${kernel}: the case gives no ${name}`);
    if (type === "u8") made[name] = stage.zeros(shape, "u8");
    else made[name] = stage.random(shape, i + 1, call.bound ?? 1, type === "float" ? undefined : type);
  }
  return made;
}

/** Names of the tensors of a kernel that are written, or that are not. */
function tensorsOf(kernel: KernelName, written: boolean): string[] {
  return Object.entries<Operand>(contract[kernel])
    .filter(([, operand]) => operand.kind === "tensor" && (operand.access !== "in") === written)
    .map(([name]) => name);
}

function invoke(stage: Stage, kernel: KernelName, operands: Record<string, unknown>): void {
  (stage.backend[kernel] as (operands: Record<string, unknown>) => void)(operands);
}

/** Runs one call; everything that it writes, and an error where it changed what it only reads. */
async function runCall(
  stage: Stage,
  kernel: KernelName,
  operands: Record<string, unknown>,
  prefix: string,
): Promise<Outputs> {
  const written = tensorsOf(kernel, true)
    .map((name) => [name, operands[name] as Tensor | undefined] as const)
    .filter((entry): entry is readonly [string, Tensor] => entry[1] !== undefined);
  const isWritten = (tensor: Tensor) => written.some(([, other]) => other.buffer === tensor.buffer);
  const kept: [string, Tensor, Uint8Array][] = [];
  for (const name of tensorsOf(kernel, false)) {
    const tensor = operands[name] as Tensor | undefined;
    if (tensor && !isWritten(tensor)) kept.push([name, tensor, await stage.raw(tensor)]);
  }
  invoke(stage, kernel, operands);
  const outputs: Outputs = {};
  for (const [name, tensor] of written) outputs[prefix + name] = await stage.read(tensor);
  for (const [name, tensor, before] of kept) {
    const after = await stage.raw(tensor);
    if (stage.computes && after.some((byte, i) => byte !== before[i]))
      throw new Error(`${kernel} changed its input ${name}`);
  }
  return outputs;
}

/** "n=3 c=4, accumulate". */
function labelOf<K extends KernelName>({ sizes, given, label }: Call<K>): string {
  const flags = Object.entries(given ?? {}).flatMap(([name, value]) =>
    typeof value === "boolean"
      ? value
        ? [name]
        : []
      : typeof value === "object"
        ? []
        : [`${name} ${value}`],
  );
  const named = Object.entries(sizes).map(([name, size]) => `${name}=${size}`);
  return [named.join(" "), ...flags, ...(label ? [label] : [])].filter((text) => text !== "").join(", ");
}

/**
 * A case a call: the kernel with all its operands, without each of those that may be absent, and in place of each input
 * that an output may be.
 */
export function casesOf<K extends KernelName>(
  kernel: K,
  calls: readonly Call<K>[],
  kind: Pick<KernelCase, "product" | "attention" | "exact"> = {},
): KernelCase[] {
  const list = Object.entries<Operand>(contract[kernel]);
  return calls.map((call) => ({
    ...kind,
    name: `${kernel} ${labelOf(call)}`,
    async run(stage) {
      const outputs = await runCall(stage, kernel, operandsOf(stage, kernel, call), "");
      for (const [name, operand] of list) {
        if (operand.kind !== "tensor") continue;
        if (operand.optional) {
          const without = { ...operandsOf(stage, kernel, call), [name]: undefined };
          Object.assign(outputs, await runCall(stage, kernel, without, `without ${name}: `));
        }
        for (const other of operand.mayBe) {
          const operands = operandsOf(stage, kernel, call);
          const inPlace = { ...operands, [name]: operands[other] };
          Object.assign(outputs, await runCall(stage, kernel, inPlace, `${name} in ${other}: `));
        }
      }
      return outputs;
    },
  }));
}

/** The same calls for the stopwatch. */
export function speedOf<K extends KernelName>(
  kernel: K,
  calls: readonly (Call<K> & { readonly flops?: number })[],
  kind: Pick<KernelCase, "product" | "attention" | "exact"> = {},
): SpeedCase[] {
  return calls.map((call) => ({
    ...kind,
    name: `${kernel} ${labelOf(call)}`,
    flops: call.flops,
    prepare(stage) {
      const operands = operandsOf(stage, kernel, call);
      const outputs = Object.fromEntries(
        tensorsOf(kernel, true).flatMap((name) => (operands[name] ? [[name, operands[name] as Tensor]] : [])),
      );
      return { call: () => invoke(stage, kernel, operands), outputs };
    },
  }));
}
