// A micro-batch on the device: ids, positions and segments for the decoder, and which rows have which target. Made
// for one pass and freed after it. Not here: how batches are made (data/assemble.ts) or used (session.ts).

import type { Backend, Tensor } from "../backend/backend.ts";
import { type Batch, NO_TARGET } from "../data/assemble.ts";
import type { Decoder, TokenBatch } from "../models/decoder.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";
import { embeddingNoise, type NoiseOptions } from "./embedding-noise.ts";

/** Logits that exist at a time, in bytes, where memory is not short. */
export const defaultLogitsChunkBytes = 128 * 2 ** 20;

/** A batch on the device. */
export class DeviceBatch {
  readonly tokens: TokenBatch;
  readonly rows: Tensor;
  readonly targets: Tensor;
  readonly targetCount: number;
  private readonly uploads: Tensor[] = [];
  private readonly backend: Backend;

  /** `noise` is added to the embeddings, in training. */
  constructor(decoder: Decoder, batch: Batch, noise?: NoiseOptions) {
    this.backend = decoder.backend;
    const { rows, targets } = batch.scored ?? targetsOf(batch);
    const { sharing } = batch;
    const count = batch.segments.length / 4;
    const placed = decoder.ropeCache.place(sharing?.spans ?? spansOf(batch));
    this.tokens = {
      ids: this.upload(batch.ids),
      rows: this.upload(placed.rows),
      tables: placed.tables,
      perLayer: this.keep(decoder.perLayer?.rows(batch.ids)),
      noise: noise && this.noiseFor(batch, decoder.config.width, noise),
      segments: {
        table: this.upload(batch.segments, [count, 4]),
        count,
        maxQueries: batch.maxLength,
        maxKeys: batch.maxLength,
      },
      shared: sharing && {
        tokens: this.upload(sharing.tokens),
        firstRows: this.upload(sharing.firstRows),
        copies: sharing.copies,
      },
    };
    this.rows = this.upload(rows);
    this.targets = this.upload(targets);
    this.targetCount = rows.length;
  }

  private upload(values: ArrayLike<number>, shape = [values.length]): Tensor {
    const buffer = this.backend.allocate(Math.max(4, 4 * values.length), "workspace");
    if (values.length > 0) this.backend.write(buffer, encodeFrom(values, "i32"));
    const tensor = viewOf(buffer, shape, "i32");
    this.uploads.push(tensor);
    return tensor;
  }

  private noiseFor(batch: Batch, width: number, options: NoiseOptions): Tensor {
    const { backend } = this;
    const shape = [batch.ids.length, width];
    const buffer = backend.allocate(tensorBytes(shape, backend.floatType), "activations");
    if (!backend.holdsNothing)
      backend.write(buffer, encodeFrom(embeddingNoise(batch, width, options), backend.floatType));
    return this.keep(viewOf(buffer, shape, backend.floatType))!;
  }

  private keep(tensor: Tensor | undefined): Tensor | undefined {
    if (tensor) this.uploads.push(tensor);
    return tensor;
  }

  free(): void {
    for (const tensor of this.uploads) this.backend.free(tensor.buffer);
  }
}

/** Rows that have a target, and which. */
function targetsOf(batch: Batch): { readonly rows: number[]; readonly targets: number[] } {
  const rows: number[] = [];
  const targets: number[] = [];
  for (let i = 0; i < batch.targets.length; i++) {
    if (batch.targets[i] === NO_TARGET) continue;
    rows.push(i);
    targets.push(batch.targets[i]!);
  }
  return { rows, targets };
}

/** Sequences as they lie end to end. */
function spansOf({ segments }: Batch): { start: number; count: number; length: number }[] {
  return Array.from({ length: segments.length / 4 }, (_, s) => {
    const length = segments[4 * s + 1]!;
    return { start: 0, count: length, length };
  });
}
