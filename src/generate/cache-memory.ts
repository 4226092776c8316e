// The memory of a cache of keys and values: for each layer that attends a tensor of blocks for its keys and one for its values,
// which grow as blocks are needed. Not here: whose the blocks are (kv-cache.ts), which are free (block-pool.ts).

import type { Backend, Tensor } from "../backend/backend.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";
import { type CacheType, cachedTokenBytes, cachedWidth, rowElements, storedAs } from "./cache-type.ts";

/** Tokens of a block. Pieces of prompts are whole numbers of blocks (RowsAlike), and blocks of tiles of keys. */
export const blockTokens = 64;
/** Memory grows by this share of what there is, at least: each byte is then copied about four times in all. */
const growth = 1 / 4;

export class CacheMemory {
  /** By layer; of layers that attend. */
  private readonly keys: (Tensor | undefined)[];
  private readonly values: (Tensor | undefined)[];
  /** Blocks that there is memory for. */
  blocks = 0;
  readonly blockBytes: number;

  constructor(
    private readonly backend: Backend,
    private readonly config: DecoderConfig,
    private readonly type: CacheType,
  ) {
    this.keys = config.layers.map(() => undefined);
    this.values = config.layers.map(() => undefined);
    this.blockBytes = blockTokens * cachedTokenBytes(config, type, backend);
  }

  of(layer: number): { readonly keys: Tensor; readonly values: Tensor } | undefined {
    const [keys, values] = [this.keys[layer], this.values[layer]];
    return keys && values && { keys, values };
  }

  /** Makes room for `needed` blocks of at most `most`. UserError where the device has none; what there was stays. */
  grow(needed: number, most: number): void {
    if (needed <= this.blocks) return;
    const blocks = Math.min(most, Math.max(needed, this.blocks + Math.ceil(growth * this.blocks)));
    for (const [i, layer] of this.config.layers.entries()) {
      const elements = rowElements(this.type, cachedWidth(layer));
      if (elements === 0) continue;
      // A layer at a time: one tensor is there twice for a moment. Where memory ends halfway, some layers have more than others.
      for (const tensors of [this.keys, this.values])
        tensors[i] = this.grown(tensors[i], blocks * blockTokens, elements);
    }
    this.blocks = blocks;
  }

  private grown(before: Tensor | undefined, rows: number, elements: number): Tensor {
    if (before && before.shape[0]! >= rows) return before;
    const { backend } = this;
    const dtype = storedAs(this.type, backend);
    const shape = [rows, elements];
    const after = viewOf(backend.allocate(tensorBytes(shape, dtype), "activations"), shape, dtype);
    if (before) {
      // Whole blocks as words, whatever they hold.
      const words = (blockTokens * elements * dtypeBytes[dtype]) / dtypeBytes[backend.floatType];
      const asWords = (tensor: Tensor) =>
        viewOf(tensor.buffer, [tensor.shape[0]! / blockTokens, words], backend.floatType);
      const x = asWords(before);
      const index = Array.from({ length: x.shape[0]! }, (_, i) => i);
      const places = backend.allocate(4 * index.length, "workspace");
      backend.write(places, encodeFrom(index, "i32"));
      backend.scatterRows({ x, index: viewOf(places, [index.length], "i32"), y: asWords(after) });
      backend.free(places);
      backend.free(before.buffer);
    }
    return after;
  }

  free(): void {
    for (const tensor of [...this.keys, ...this.values]) if (tensor) this.backend.free(tensor.buffer);
    this.keys.fill(undefined);
    this.values.fill(undefined);
    this.blocks = 0;
  }
}
