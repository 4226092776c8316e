// Writes the calls of the contract's kernels: operands are checked (operand-check.ts) and laid down in the order of the
// native kernel's own arguments, which was worked out once. Not here: products, whose calls carry lists (linear-call.ts).

import { BugError } from "../../util/errors.ts";
import type { KernelName } from "../contract.ts";
import { OperandCheck } from "../operand-check.ts";
import type { CallBuffer } from "./call-buffer.ts";
import type { NativeArgument } from "./signature.ts";

export class CallWriter {
  private readonly check: OperandCheck;
  /** Of each argument the slot of `slots` that holds it; the last slot is the precision. */
  private readonly plan: Int32Array;
  private readonly slots: Float64Array;

  constructor(
    kernel: KernelName,
    private readonly id: number,
    list: readonly NativeArgument[],
    precision: number,
    isLive: (address: number) => boolean,
    private readonly calls: CallBuffer,
  ) {
    const check = new OperandCheck(kernel, "f32", isLive, 1);
    this.check = check;
    this.slots = check.slots;
    const last = this.slots.length - 1;
    this.slots[last] = precision;
    this.plan = Int32Array.from(
      list.flatMap(({ name, type }) => {
        if (name === "precision") return [last];
        const slot = check.slotOf(name);
        if (slot === undefined) throw new BugError(`${kernel}: nothing is known of the argument ${name}`);
        const count = type === "Thresholds" ? 15 : type === "CodeByRank" ? 16 : 1;
        return Array.from({ length: count }, (_, i) => slot + i);
      }),
    );
  }

  /** Appends the call to those that wait. BugError when its operands are not as the contract has them. */
  write(operands: object): void {
    this.check.run(operands);
    this.calls.start().gather(this.slots, this.plan);
    this.calls.finish(this.id);
  }
}
