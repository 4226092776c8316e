// The tape: records operations of a forward pass, runs them, and runs their backward passes in reverse.
//
// Recording computes nothing: an op only says which values it reads, which it makes and which it must keep for
// its backward pass. run() then executes in order, so every intermediate's last use is known and its memory is
// freed there and then. Nothing is kept or computed for values that need no gradient. The ops themselves are in
// ops/; checkpoint() trades the saved values of a whole block for running its forward pass twice.

import type { Backend, MemoryCategory, Tensor } from "../backend/backend.ts";
import type { DType } from "../tensor/dtype.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";

/** A parameter: memory owned elsewhere (nn/parameters.ts), with a gradient view when it trains. */
export interface Parameter {
  readonly name: string;
  readonly tensor: Tensor;
  /** Same shape, f32; backward passes add to it. Absent: frozen. */
  readonly grad?: Tensor;
}

/** A tensor of the computation, known by shape before it exists. */
export class Value {
  /** Set while the value's memory exists. */
  tensor: Tensor | undefined;
  grad: Tensor | undefined;
  /** Recorded ops that have yet to read it. */
  readers = 0;
  /** Backward passes that have yet to read it, plus one when run() was told to keep it. */
  holders = 0;
  constructor(
    readonly shape: readonly number[],
    readonly dtype: DType,
    readonly needsGrad: boolean,
    /** Whether the tape frees its memory; inputs from outside are not owned. */
    readonly owned: boolean,
  ) {}

  /** The memory; a BugError when it is not there (not yet run, or already freed). */
  get data(): Tensor {
    if (!this.tensor) throw new BugError(`value [${this.shape}] read outside its lifetime`);
    return this.tensor;
  }
}

/** What an op tells the tape. */
export interface Op {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Inputs and outputs the backward pass reads. */
  readonly saves?: readonly Value[];
  forward(): void;
  /** Reads outputs' grads, adds to inputs' and parameters' grads. Absent: nothing to do. */
  backward?(): void;
  /** Frees what forward() made outside the values when backward() never runs. */
  dispose?(): void;
}

export class Tape {
  private readonly ops: Op[] = [];
  private executed = 0;
  private readonly live = new Set<Value>();
  private readonly liveGrads = new Set<Value>();

  constructor(
    readonly backend: Backend,
    /** False: inference; nothing is saved. */
    readonly recording = true,
  ) {}

  /** A tensor from outside that the tape reads but never frees. */
  input(tensor: Tensor, needsGrad = false): Value {
    const value = new Value(tensor.shape, tensor.dtype, needsGrad && this.recording, false);
    value.tensor = tensor;
    return value;
  }

  /** A value that an op will make. */
  value(shape: readonly number[], needsGrad: boolean, dtype: DType = this.backend.floatType): Value {
    return new Value(shape, dtype, needsGrad && this.recording, true);
  }

  record(op: Op): void {
    for (const input of op.inputs) input.readers++;
    if (this.needsBackward(op)) for (const saved of op.saves ?? []) saved.holders++;
    this.ops.push(op);
  }

  private needsBackward(op: Op): boolean {
    return this.recording && op.backward !== undefined;
  }

  /** Executes what was recorded since the last run. Values in `keep` stay until release() or the end of the tape. */
  run(keep: readonly Value[] = []): void {
    for (const value of keep) value.holders++;
    for (; this.executed < this.ops.length; this.executed++) {
      const op = this.ops[this.executed]!;
      for (const output of op.outputs) this.allocateValue(output);
      op.forward();
      for (const input of op.inputs) {
        input.readers--;
        this.freeIfUnused(input);
      }
      for (const output of op.outputs) this.freeIfUnused(output);
    }
  }

  /** Ends the keeping of a value that run() kept. */
  release(value: Value): void {
    value.holders--;
    this.freeIfUnused(value);
  }

  /**
   * Runs the backward passes of everything executed, in reverse. Ops that end the graph (the loss) start it
   * themselves; `seeds` give further outputs a gradient, whose memory the tape takes over.
   */
  backward(...seeds: readonly { readonly value: Value; readonly grad: Tensor }[]): void {
    invariant(this.executed === this.ops.length, "backward before run");
    for (const { value, grad } of seeds) this.giveGrad(value, grad);
    while (this.ops.length > 0) {
      const op = this.ops.pop()!;
      this.executed--;
      if (!this.needsBackward(op)) continue;
      op.backward!();
      for (const output of op.outputs) this.dropGrad(output);
      for (const saved of op.saves ?? []) {
        saved.holders--;
        this.freeIfUnused(saved);
      }
    }
  }

  /** Where to put an input's gradient: fresh memory ("="), or what is there already ("+="). */
  gradOf(value: Value): { tensor: Tensor; accumulate: boolean } {
    invariant(value.needsGrad, "gradient of a value that needs none");
    if (value.grad) return { tensor: value.grad, accumulate: true };
    const tensor = this.allocateTensor(value.shape, "activations");
    this.giveGrad(value, tensor);
    return { tensor, accumulate: false };
  }

  /** Passes `from`'s gradient on as (part of) `to`'s: the identity's backward. Moves the memory when it can. */
  passGrad(from: Value, to: Value): void {
    if (!to.needsGrad || !from.grad) return;
    if (to.grad) {
      this.backend.addInPlace({ x: from.grad, y: to.grad });
      return;
    }
    this.giveGrad(to, from.grad);
    from.grad = undefined;
    this.liveGrads.delete(from);
  }

  /** Hands a tensor's memory to the tape as a value's gradient. */
  giveGrad(value: Value, grad: Tensor): void {
    value.grad = grad;
    this.liveGrads.add(value);
  }

  /** Takes a gradient out of the tape; the caller owns its memory from here. */
  takeGrad(value: Value): Tensor | undefined {
    const grad = value.grad;
    value.grad = undefined;
    this.liveGrads.delete(value);
    return grad;
  }

  /** Takes a value's memory out of the tape; the caller owns it from here. */
  takeData(value: Value): Tensor {
    const tensor = value.data;
    value.tensor = undefined;
    this.live.delete(value);
    return tensor;
  }

  /** Gives a value memory made elsewhere; the tape frees it from here. */
  giveData(value: Value, tensor: Tensor): void {
    value.tensor = tensor;
    this.live.add(value);
  }

  /** Memory for one op's own use; the op frees it. */
  allocateTensor(
    shape: readonly number[],
    category: MemoryCategory,
    dtype: DType = this.backend.floatType,
  ): Tensor {
    return viewOf(this.backend.allocate(Math.max(4, tensorBytes(shape, dtype)), category), shape, dtype);
  }

  /** Frees everything the tape still owns. */
  [Symbol.dispose](): void {
    for (const op of this.ops.slice(0, this.executed)) op.dispose?.();
    for (const value of this.live) if (value.tensor) this.backend.free(value.tensor.buffer);
    for (const value of this.liveGrads) if (value.grad) this.backend.free(value.grad.buffer);
    this.ops.length = 0;
    this.executed = 0;
    this.live.clear();
    this.liveGrads.clear();
  }

  private allocateValue(value: Value): void {
    if (value.tensor || !value.owned) return;
    this.giveData(value, this.allocateTensor(value.shape, "activations", value.dtype));
  }

  private freeIfUnused(value: Value): void {
    if (!value.owned || !value.tensor || value.readers > 0 || value.holders > 0) return;
    this.backend.free(value.tensor.buffer);
    value.tensor = undefined;
    this.live.delete(value);
  }

  private dropGrad(value: Value): void {
    if (!value.grad || !value.owned) return;
    this.backend.free(value.grad.buffer);
    value.grad = undefined;
    this.liveGrads.delete(value);
  }
}

/**
 * Runs `block` without keeping its intermediates, and runs it again in the backward pass to have them (Chen et al.
 * 2016). `block` must record the same ops on whatever tape it is given, and return values of these shapes that are its
 * own.
 */
export function checkpoint(
  tape: Tape,
  inputs: readonly Value[],
  shapes: readonly (readonly number[])[],
  block: (tape: Tape, inputs: readonly Value[]) => readonly Value[],
): readonly Value[] {
  if (!tape.recording) return block(tape, inputs);
  const { backend } = tape;
  const outputs = shapes.map((shape) => tape.value(shape, true));
  tape.record({
    name: "checkpoint",
    inputs,
    outputs: [],
    saves: inputs,
    forward() {
      using inner = new Tape(backend, false);
      const results = block(
        inner,
        inputs.map((input) => inner.input(input.data)),
      );
      inner.run(results);
      for (const [i, result] of results.entries()) tape.giveData(outputs[i]!, inner.takeData(result));
    },
    backward() {
      const upstream = outputs.map((output) => tape.takeGrad(output));
      if (upstream.every((grad) => !grad)) return;
      using inner = new Tape(backend, true);
      const copies = inputs.map((input) => inner.input(input.data, input.needsGrad));
      const results = block(inner, copies);
      inner.run(results);
      const seeds = results.flatMap((value, i) => {
        const grad = upstream[i];
        return grad ? [{ value, grad }] : [];
      });
      inner.backward(...seeds);
      for (const [i, input] of inputs.entries()) {
        const grad = inner.takeGrad(copies[i]!);
        if (!grad || !input.needsGrad) continue;
        if (input.grad) {
          backend.addInPlace({ x: grad, y: input.grad });
          backend.free(grad.buffer);
        } else tape.giveGrad(input, grad);
      }
    },
  });
  return outputs;
}
