// Kernel calls as the native engine reads them, one behind the other: a call is its kernel's id, the count of its
// arguments and these. Not here: which arguments (write-call.ts, linear-call.ts), when the calls run (queue.ts).

import { BugError } from "../../util/errors.ts";

/** Numbers before a call's arguments: the kernel's id and the count. */
const headLength = 2;

/** Devices of one thread write into one memory, the addon's: the last of them that began a call. */
const lastWriters = new WeakMap<Float64Array, CallBuffer>();

export class CallBuffer {
  /** Where the call being written begins, and where its next argument goes. */
  private first = 0;
  private count = 0;
  constructor(
    readonly values: Float64Array,
    private readonly mostPerCall: number,
    /** Runs this device's finished calls, because another device is about to write over them. */
    private readonly runNow: () => void = () => {},
  ) {}

  /** Begins a call; one that was begun and not finished is forgotten. */
  start(): this {
    if (this.first === 0) this.claim();
    this.count = this.first + headLength;
    return this;
  }

  private claim(): void {
    const other = lastWriters.get(this.values);
    if (other === this) return;
    if (other && other.first > 0) other.runNow();
    lastWriters.set(this.values, this);
  }

  finish(kernel: number): void {
    this.values[this.first] = kernel;
    this.values[this.first + 1] = this.count - this.first - headLength;
    this.first = this.count;
  }

  /** Whether any call fits behind those that are finished. */
  get hasRoom(): boolean {
    return this.first + headLength + this.mostPerCall <= this.values.length;
  }

  /** The length of all finished calls, which make room for others. */
  take(): number {
    const length = this.first;
    this.first = 0;
    return length;
  }

  /** Puts calls that were finished before in the place of those that wait, of which there are none; their length. */
  repeat(calls: Float64Array): number {
    if (this.first !== 0) throw new BugError("native call: repeated over calls that wait");
    this.claim();
    this.values.set(calls);
    return calls.length;
  }

  number(value: number): this {
    if (this.count === this.values.length) throw new BugError("native call: too many arguments");
    this.values[this.count++] = value;
    return this;
  }

  zeros(n: number): this {
    for (let i = 0; i < n; i++) this.number(0);
    return this;
  }

  /** Appends slots[plan[0]], slots[plan[1]], ... */
  gather(slots: Float64Array, plan: Int32Array): void {
    const { values } = this;
    let { count } = this;
    if (count + plan.length > values.length) throw new BugError("native call: too many arguments");
    for (let i = 0; i < plan.length; i++) values[count++] = slots[plan[i]!]!;
    this.count = count;
  }

  /** What the call being written holds from its argument `from` on. */
  written(from: number): Float64Array {
    return this.values.slice(from, this.count);
  }

  /** The place of the next argument, for written(). */
  get position(): number {
    return this.count;
  }

  /** Appends arguments that were written before. */
  copy(known: Float64Array): void {
    if (this.count + known.length > this.values.length) throw new BugError("native call: too many arguments");
    this.values.set(known, this.count);
    this.count += known.length;
  }
}
