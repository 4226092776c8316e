// Keys and values of the tokens that a batch of growing sequences has seen, one slot of rows a sequence, and the states of
// layers that keep the same of a sequence however long it is. The decoder hands new keys and values over; attention reads
// the cache's own memory through segments, and recurrent kernels read and leave states through segments of their own.

import type { Backend, Segments, Tensor } from "../backend/backend.ts";
import type { DecoderConfig, LayerConfig } from "../models/decoder-config.ts";
import type { KeyValueStore, LayerState } from "../models/pass.ts";
import { dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, rows, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";

/** New tokens of one slot in the coming pass: a segment. A slot's segments follow one another. */
export interface SlotTokens {
  readonly slot: number;
  readonly count: number;
}

/** Numbers that a layer keeps of a token as its keys, and as its values. */
function cachedWidth({ mixer, kvHeads, headWidth, keysFrom }: LayerConfig): number {
  return mixer === "attention" && keysFrom === undefined ? kvHeads * headWidth : 0;
}

/** Shapes of a slot's states in a layer. */
function stateShapes({ convolution, delta }: LayerConfig) {
  return {
    inputs: convolution && [convolution.taps, convolution.channels],
    matrices: delta && [delta.valueHeads, delta.keyWidth, delta.valueWidth],
  };
}

export class KeyValueCache implements KeyValueStore {
  /** By layer; of layers that attend. */
  private readonly keys: readonly (Tensor | undefined)[];
  private readonly values: readonly (Tensor | undefined)[];
  /** By layer; of layers that walk along sequences. A slot's state is read only by a segment that is not its first. */
  private readonly states: readonly Omit<LayerState, "segments">[];
  /** Tokens that each slot holds. */
  readonly lengths: number[];
  private rowIndex: Tensor | undefined;
  private table: Tensor | undefined;
  private stateSegments: Segments | undefined;

  constructor(
    private readonly backend: Backend,
    config: DecoderConfig,
    readonly slots: number,
    /** Most tokens of one sequence. */
    readonly capacity: number,
  ) {
    const make = (shape: readonly number[]) => {
      const buffer = backend.allocate(tensorBytes(shape, backend.floatType), "activations");
      return viewOf(buffer, shape, backend.floatType);
    };
    const rowsOf = (layer: LayerConfig) => {
      const width = cachedWidth(layer);
      return width === 0 ? undefined : make([slots * capacity, width]);
    };
    this.keys = config.layers.map(rowsOf);
    this.values = config.layers.map(rowsOf);
    this.states = config.layers.map((layer) => {
      const { inputs, matrices } = stateShapes(layer);
      return { inputs: inputs && make([slots, ...inputs]), matrices: matrices && make([slots, ...matrices]) };
    });
    this.lengths = Array<number>(slots).fill(0);
  }

  /** Bytes a cache of this size takes. */
  static sizeBytes(backend: Backend, config: DecoderConfig, slots: number, capacity: number): number {
    const width = config.layers.reduce((sum, layer) => sum + cachedWidth(layer), 0);
    const states = config.layers
      .flatMap((layer) => Object.values(stateShapes(layer)))
      .reduce((sum, shape) => sum + (shape ? elementCount(shape) : 0), 0);
    return slots * (2 * capacity * width + states) * dtypeBytes[backend.floatType];
  }

  /** Prepares the next pass: where its tokens go, and what they may attend to. */
  begin(tokens: readonly SlotTokens[]): { segments: Segments; starts: readonly number[] } {
    const targets: number[] = [];
    const starts: number[] = [];
    const table: number[] = [];
    const stateTable: number[] = [];
    let maxQueries = 0;
    let maxKeys = 0;
    for (const { slot, count } of tokens) {
      const start = this.lengths[slot]!;
      if (start + count > this.capacity) {
        throw new UserError(
          `a sequence of ${start + count} tokens does not fit a key/value cache of ${this.capacity}`,
        );
      }
      table.push(targets.length, count, slot * this.capacity, start + count);
      stateTable.push(targets.length, count, slot, start + count);
      for (let i = 0; i < count; i++) targets.push(slot * this.capacity + start + i);
      starts.push(start);
      this.lengths[slot] = start + count;
      maxQueries = Math.max(maxQueries, count);
      maxKeys = Math.max(maxKeys, start + count);
    }
    this.end();
    this.rowIndex = this.upload(targets, [targets.length]);
    this.table = this.upload(table, [tokens.length, 4]);
    const counts = { count: tokens.length, maxQueries, maxKeys };
    if (this.states.some(({ inputs }) => inputs))
      this.stateSegments = { table: this.upload(stateTable, [tokens.length, 4]), ...counts };
    return { segments: { table: this.table, ...counts }, starts };
  }

  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const [keys, values] = [this.keys[layer], this.values[layer]];
    invariant(keys && values && this.rowIndex, "key/value cache used before begin()");
    // A pass may have rows of no sequence behind those of its slots.
    const own = this.rowIndex.shape[0]!;
    this.backend.scatterRows({ x: rows(k, 0, own), index: this.rowIndex, y: keys });
    this.backend.scatterRows({ x: rows(v, 0, own), index: this.rowIndex, y: values });
    return { k: keys, v: values };
  }

  state(layer: number): LayerState {
    const [state, segments] = [this.states[layer], this.stateSegments];
    invariant(state && segments, "a layer's state used before begin()");
    return { ...state, segments };
  }

  /** Forgets a slot's sequence. */
  clear(slot: number): void {
    this.lengths[slot] = 0;
  }

  private upload(values: readonly number[], shape: readonly number[]): Tensor {
    const buffer = this.backend.allocate(4 * values.length, "workspace");
    this.backend.write(buffer, encodeFrom(values, "i32"));
    return viewOf(buffer, shape, "i32");
  }

  private end(): void {
    if (this.rowIndex) this.backend.free(this.rowIndex.buffer);
    if (this.table) this.backend.free(this.table.buffer);
    if (this.stateSegments) this.backend.free(this.stateSegments.table.buffer);
    this.rowIndex = undefined;
    this.table = undefined;
    this.stateSegments = undefined;
  }

  free(): void {
    this.end();
    const states = this.states.flatMap(({ inputs, matrices }) => [inputs, matrices]);
    for (const tensor of [...this.keys, ...this.values, ...states])
      if (tensor) this.backend.free(tensor.buffer);
  }
}
