// Holds the operands of a kernel call against the contract: types, sizes that must agree across operands, bounds of the
// buffers, and outputs that share memory with what they may not. What a call's operands come to is left in `slots`, a
// number each, from which the CPU writes its arguments. Each kernel has one of these, compiled once from the contract's
// text, because a call has to cost a fraction of a microsecond. Not here: what operands there are (contract/).

import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";
import {
  type ContractKernels,
  contract,
  forEachKernel,
  type KernelName,
  type Operand,
  type Segments,
} from "./contract.ts";

/** As enum DType in native/kernels.def. */
export const dtypeCodes: Record<DType, number> = { f32: 0, bf16: 1, f16: 2, f64: 3, i32: 4, u8: 5 };

/** How a size of a tensor is found or checked. */
const bind = 0; // the slot takes the size
const same = 1; // size * by = the slot
const fixed = 2; // size = by
const roundedUp = 3; // size = ceil(slot / by), or by the slot bySlot where there is one
const bindAtMost = 4; // the slot takes the size; size * by is at most the slot bySlot

/** Numbers of one size in Step.sizes. */
const sizeLength = 5;

const [tensorKind, numberKind, flagKind, choiceKind, segmentsKind, numbersKind] = [0, 1, 2, 3, 4, 5];
const kindCodes = {
  tensor: tensorKind!,
  number: numberKind!,
  flag: flagKind!,
  choice: choiceKind!,
  segments: segmentsKind!,
  numbers: numbersKind!,
};

/** One operand, ready to be checked. A class, so that every step has one hidden class. */
class Step {
  typeSlot = -1;
  optional = false;
  /** What the operand may be; its first type with its bytes and code, for nearly every call has that one. */
  types: readonly DType[] = [];
  type: DType = "f32";
  typeBytes = 4;
  typeCode = 0;
  /** Five numbers a size: rule, whether it is all that are left, slot, by, bySlot. */
  sizes = new Int32Array(0);
  rank = 0;
  endsInRest = false;
  choices: readonly string[] = [];
  count = 0;
  bounded = false;
  least = Number.NEGATIVE_INFINITY;
  most = Number.POSITIVE_INFINITY;
  multipleOf = 0;
  constructor(
    readonly name: string,
    readonly kind: number,
    readonly slot: number,
  ) {}
}

/** An output and another tensor: positions among the steps, and whether they may be the same memory. */
interface Pair {
  readonly output: number;
  readonly other: number;
  readonly allowed: boolean;
}

export class OperandCheck {
  /** What the last call's operands came to, by slotOf(). */
  readonly slots: Float64Array;
  /** Sizes that the kernel's shapes name, in the order of their first mention. */
  readonly sizeNames: readonly string[];
  private readonly steps: readonly Step[];
  private readonly pairs: readonly Pair[];
  private readonly labels = new Map<string, number>();
  /** Of each step's tensor: its buffer, and where it begins and ends in it. */
  private readonly buffers: Float64Array;
  private readonly begins: Float64Array;
  private readonly ends: Float64Array;

  constructor(
    readonly kernel: KernelName,
    floatType: "f32" | "f64",
    private readonly isLive: (bufferId: number) => boolean = () => true,
    /** Slots more than the call needs, for whoever reads them. */
    spareSlots = 0,
  ) {
    const operands: Record<string, Operand> = contract[kernel];
    const sizeNames: string[] = [];
    this.steps = Object.entries(operands).map(([name, operand]) =>
      this.compile(name, operand, floatType, sizeNames),
    );
    this.sizeNames = sizeNames;
    this.pairs = pairsOf(operands);
    this.slots = new Float64Array(this.labels.size + spareSlots);
    [this.buffers, this.begins, this.ends] = [0, 1, 2].map(() => new Float64Array(this.steps.length)) as [
      Float64Array,
      Float64Array,
      Float64Array,
    ];
  }

  /** Where a call leaves a number: an operand (an address for a tensor), "<operand>Type", "<operand>Count", a size. */
  slotOf(label: string): number | undefined {
    return this.labels.get(label);
  }

  private slot(label: string): number {
    const known = this.labels.get(label);
    if (known !== undefined) return known;
    this.labels.set(label, this.labels.size);
    return this.labels.size - 1;
  }

  private compile(name: string, operand: Operand, floatType: "f32" | "f64", sizeNames: string[]): Step {
    const step = new Step(name, kindCodes[operand.kind], this.slot(name));
    switch (operand.kind) {
      case "tensor": {
        step.types = [...new Set(operand.types.map((type) => (type === "float" ? floatType : type)))];
        step.type = step.types[0]!;
        [step.typeBytes, step.typeCode] = [dtypeBytes[step.type], dtypeCodes[step.type]];
        const sizes = operand.shape.split(" ").map((text) => this.size(text, sizeNames));
        step.sizes = Int32Array.from(sizes.flat());
        step.rank = sizes.length;
        step.endsInRest = sizes.at(-1)![1] === 1;
        step.typeSlot = this.slot(`${name}Type`);
        step.optional = operand.optional;
        break;
      }
      case "number":
        step.least = operand.least ?? step.least;
        step.most = operand.most ?? step.most;
        step.multipleOf = operand.multipleOf ?? 0;
        step.bounded = operand.least !== undefined || operand.most !== undefined || step.multipleOf > 0;
        break;
      case "choice":
        step.choices = operand.choices;
        break;
      case "segments":
        step.count = this.slot(`${name.replace(/s$/, "")}Count`);
        break;
      case "numbers":
        for (let i = 1; i < operand.count; i++) this.slot(`${name} ${i}`);
        step.count = operand.count;
        break;
    }
    return step;
  }

  /** Rule, rest, slot, by and bySlot of a size as the contract writes it. */
  private size(text: string, sizeNames: string[]): number[] {
    const rest = text.startsWith("*") ? 1 : 0;
    const body = text.slice(rest);
    if (/^\d+$/.test(body)) return [fixed, rest, -1, Number(body), -1];
    const match = /^(?:ceil\((\w+)\/(\w+)\)|([a-zA-Z]\w*)(?:<=(\w+))?(?:\/(\d+))?)$/.exec(body);
    invariant(match, `contract: ${this.kernel}: the size "${text}" cannot be read`);
    const [, dividend, divisor, name, limit, exact] = match;
    if (dividend !== undefined) {
      const slot = this.labels.get(dividend);
      invariant(slot !== undefined, `contract: ${this.kernel}: "${text}" comes before ${dividend}`);
      if (/^\d+$/.test(divisor!)) return [roundedUp, rest, slot, Number(divisor), -1];
      const bySlot = this.labels.get(divisor!);
      invariant(bySlot !== undefined, `contract: ${this.kernel}: "${text}" comes before ${divisor}`);
      return [roundedUp, rest, slot, 1, bySlot];
    }
    const by = Number(exact ?? 1);
    if (limit !== undefined) {
      const bySlot = this.labels.get(limit);
      invariant(bySlot !== undefined, `contract: ${this.kernel}: "${text}" comes before ${limit}`);
      sizeNames.push(name!);
      return [bindAtMost, rest, this.slot(name!), by, bySlot];
    }
    if (sizeNames.includes(name!)) return [same, rest, this.slot(name!), by, -1];
    invariant(!this.labels.has(name!), `contract: ${this.kernel}: ${name} is an operand and a size`);
    sizeNames.push(name!);
    return [bind, rest, this.slot(name!), by, -1];
  }

  /** BugError names kernel and operand when the call is not as the contract has it. */
  run(operands: object): void {
    const { steps, slots } = this;
    for (let i = 0; i < steps.length; i++) {
      const step = steps[i]!;
      const value = (operands as Record<string, unknown>)[step.name];
      if (step.kind === tensorKind) this.tensor(i, step, value as Tensor | undefined);
      else if (step.kind === numberKind) {
        slots[step.slot] = typeof value === "number" && !step.bounded ? value : this.number(step, value);
      } else if (step.kind === flagKind) slots[step.slot] = value ? 1 : 0;
      else this.other(i, step, value);
    }
    for (let i = 0; i < this.pairs.length; i++) this.apart(this.pairs[i]!);
  }

  private tensor(i: number, step: Step, tensor: Tensor | undefined): void {
    const { slots } = this;
    if (tensor === undefined) {
      if (!step.optional) this.fail(step, "is missing");
      slots[step.slot] = 0;
      this.buffers[i] = -1;
      // What it alone would tell is 0.
      for (let at = 0; at < step.sizes.length; at += sizeLength)
        if (step.sizes[at] === bind) slots[step.sizes[at + 2]!] = 0;
      return;
    }
    const { dtype, shape, buffer, byteOffset } = tensor;
    let [bytes, code] = [step.typeBytes, step.typeCode];
    if (dtype !== step.type) {
      if (!step.types.includes(dtype)) this.fail(step, `is ${dtype}, not ${step.types.join(" or ")}`);
      [bytes, code] = [dtypeBytes[dtype], dtypeCodes[dtype]];
    }
    const { sizes, rank } = step;
    if (shape.length !== rank && (!step.endsInRest || shape.length < rank - 1)) this.wrongShape(step, shape);
    let count = 1;
    for (let d = 0, at = 0; d < rank; d++, at += sizeLength) {
      let found = 1;
      if (sizes[at + 1] === 0) found = shape[d]!;
      else for (let j = d; j < shape.length; j++) found *= shape[j]!;
      count *= found;
      const rule = sizes[at]!;
      const slot = sizes[at + 2]!;
      const by = sizes[at + 3]!;
      if (rule === bind) slots[slot] = found * by;
      else if (rule === bindAtMost) {
        slots[slot] = found;
        if (found * by > slots[sizes[at + 4]!]!) this.wrongShape(step, shape);
      } else if (
        rule === same ? found * by !== slots[slot] : found !== this.wanted(rule, slot, by, sizes[at + 4]!)
      )
        this.wrongShape(step, shape);
    }
    const id = buffer.id;
    const end = byteOffset + count * bytes;
    if (!this.isLive(id)) this.fail(step, "lies in a buffer that was freed");
    if (byteOffset < 0 || end > buffer.sizeBytes) this.fail(step, `, [${shape}], reaches beyond its buffer`);
    this.buffers[i] = id;
    this.begins[i] = byteOffset;
    this.ends[i] = end;
    slots[step.slot] = id + byteOffset;
    slots[step.typeSlot] = code;
  }

  private wanted(rule: number, slot: number, by: number, bySlot: number): number {
    if (rule === fixed) return by;
    return Math.ceil(this.slots[slot]! / (bySlot < 0 ? by : this.slots[bySlot]!));
  }

  /** Notes where a tensor lies, once it lies within a buffer that lives. */
  private place(i: number, step: Step, { buffer, byteOffset, shape }: Tensor, end: number): void {
    if (!this.isLive(buffer.id)) this.fail(step, "lies in a buffer that was freed");
    if (byteOffset < 0 || end > buffer.sizeBytes) this.fail(step, `, [${shape}], reaches beyond its buffer`);
    this.buffers[i] = buffer.id;
    this.begins[i] = byteOffset;
    this.ends[i] = end;
  }

  private number(step: Step, value: unknown): number {
    if (typeof value !== "number") this.fail(step, `is ${value}, not a number`);
    const n = value as number;
    if (
      step.bounded &&
      (n < step.least || n > step.most || (step.multipleOf > 0 && n % step.multipleOf !== 0))
    ) {
      const rule = step.multipleOf > 0 ? ` and a multiple of ${step.multipleOf}` : "";
      this.fail(step, `is ${n}, where ${step.least} to ${step.most}${rule} is asked for`);
    }
    return n;
  }

  private other(i: number, step: Step, value: unknown): void {
    const { slots } = this;
    if (step.kind === choiceKind) {
      const code = step.choices.indexOf(value as string);
      if (code < 0) this.fail(step, `is ${value}, not ${step.choices.join(" or ")}`);
      slots[step.slot] = code;
      return;
    }
    if (step.kind === numbersKind) {
      const list = value as ArrayLike<number> | undefined;
      if (!list || list.length < step.count) this.fail(step, `holds fewer than ${step.count} numbers`);
      for (let j = 0; j < step.count; j++) slots[step.slot + j] = list![j]!;
      return;
    }
    const { table, count } = value as Segments;
    const [held, width] = table.shape;
    if (table.dtype !== "i32" || width !== 4 || held! < count || table.shape.length !== 2)
      this.fail(step, `has a table of [${table.shape}] ${table.dtype} for ${count} segments`);
    this.place(i, step, table, table.byteOffset + 16 * count);
    slots[step.slot] = table.buffer.id + table.byteOffset;
    slots[step.count] = count;
  }

  private apart({ output, other, allowed }: Pair): void {
    const { buffers, begins, ends } = this;
    if (buffers[output] !== buffers[other] || buffers[output]! < 0) return;
    if (begins[output]! >= ends[other]! || begins[other]! >= ends[output]!) return;
    if (begins[output] === ends[output] || begins[other] === ends[other]) return;
    if (allowed && begins[output] === begins[other] && ends[output] === ends[other]) return;
    this.fail(this.steps[output]!, `may not share memory with ${this.steps[other]!.name}`);
  }

  private wrongShape(step: Step, shape: readonly number[]): never {
    const operand: Operand = (contract[this.kernel] as Record<string, Operand>)[step.name]!;
    const wanted = operand.kind === "tensor" ? operand.shape : "";
    const known = this.sizeNames.map((name) => `${name} = ${this.slots[this.labels.get(name)!]}`);
    return this.fail(step, `has shape [${shape}], not [${wanted}] with ${known.join(", ")}`);
  }

  private fail(step: Step, problem: string): never {
    throw new BugError(`${this.kernel}: ${step.name} ${problem}`);
  }
}

/** The kernels, each of whose calls is held against the contract first. */
export function checkedKernels(kernels: ContractKernels, floatType: "f32" | "f64"): ContractKernels {
  return forEachKernel((name) => {
    const check = new OperandCheck(name, floatType);
    const kernel = kernels[name] as (operands: object) => void;
    return (operands: object) => {
      check.run(operands);
      kernel(operands);
    };
  });
}

/** Every output with every other tensor of the call. */
function pairsOf(operands: Record<string, Operand>): Pair[] {
  const list = Object.entries(operands);
  const isTensor = ([, operand]: [string, Operand]) =>
    operand.kind === "tensor" || operand.kind === "segments";
  const isOutput = (i: number) => {
    const operand = list[i]![1];
    return operand.kind === "tensor" && operand.access !== "in";
  };
  const pairs: Pair[] = [];
  for (const [output, [, operand]] of list.entries()) {
    if (operand.kind !== "tensor" || operand.access === "in") continue;
    for (const [other, entry] of list.entries()) {
      if (other === output || !isTensor(entry) || (isOutput(other) && other < output)) continue;
      pairs.push({ output, other, allowed: operand.mayBe.includes(entry[0]) });
    }
  }
  return pairs;
}
