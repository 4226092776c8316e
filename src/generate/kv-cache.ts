// Keys and values of the tokens that a batch of growing sequences has seen, one slot of rows a sequence. The
// decoder hands new keys and values over; attention reads the cache's own memory through segments.

import type { Backend, Segments, Tensor } from "../backend/backend.ts";
import type { KeyValueStore } from "../models/decoder.ts";
import type { DecoderConfig, LayerConfig } from "../models/decoder-config.ts";
import { dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { rows, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";

/** New tokens of one slot in the coming pass: a segment. A slot's segments follow one another. */
export interface SlotTokens {
  readonly slot: number;
  readonly count: number;
}

/** Numbers that a layer keeps of a token as its keys, and as its values. */
function cachedWidth({ mixer, kvHeads, headWidth }: LayerConfig): number {
  return mixer === "attention" ? kvHeads * headWidth : 0;
}

export class KeyValueCache implements KeyValueStore {
  /** By layer; of layers that attend. */
  private readonly keys: readonly (Tensor | undefined)[];
  private readonly values: readonly (Tensor | undefined)[];
  /** Tokens that each slot holds. */
  readonly lengths: number[];
  private rowIndex: Tensor | undefined;
  private table: Tensor | undefined;

  constructor(
    private readonly backend: Backend,
    config: DecoderConfig,
    readonly slots: number,
    /** Most tokens of one sequence. */
    readonly capacity: number,
  ) {
    const make = (layer: LayerConfig) => {
      const width = cachedWidth(layer);
      if (width === 0) return undefined;
      const shape = [slots * capacity, width];
      const buffer = backend.allocate(tensorBytes(shape, backend.floatType), "activations");
      return viewOf(buffer, shape, backend.floatType);
    };
    this.keys = config.layers.map(make);
    this.values = config.layers.map(make);
    this.lengths = Array<number>(slots).fill(0);
  }

  /** Bytes a cache of this size takes. */
  static sizeBytes(backend: Backend, config: DecoderConfig, slots: number, capacity: number): number {
    const width = config.layers.reduce((sum, layer) => sum + cachedWidth(layer), 0);
    return 2 * slots * capacity * width * dtypeBytes[backend.floatType];
  }

  /** Prepares the next pass: where its tokens go, and what they may attend to. */
  begin(tokens: readonly SlotTokens[]): { segments: Segments; starts: readonly number[] } {
    const targets: number[] = [];
    const starts: number[] = [];
    const table: number[] = [];
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
      for (let i = 0; i < count; i++) targets.push(slot * this.capacity + start + i);
      starts.push(start);
      this.lengths[slot] = start + count;
      maxQueries = Math.max(maxQueries, count);
      maxKeys = Math.max(maxKeys, start + count);
    }
    this.end();
    this.rowIndex = this.upload(targets, [targets.length]);
    this.table = this.upload(table, [tokens.length, 4]);
    return {
      segments: { table: this.table, count: tokens.length, maxQueries, maxKeys },
      starts,
    };
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
    this.rowIndex = undefined;
    this.table = undefined;
  }

  free(): void {
    this.end();
    for (const tensor of [...this.keys, ...this.values]) if (tensor) this.backend.free(tensor.buffer);
  }
}
