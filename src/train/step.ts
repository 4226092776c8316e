// One optimizer step: micro-batches forward and backward into the flat gradient, then clip and update. The loss is
// a sum over target tokens divided by all target tokens of the step, so 8 micro-batches of 1 equal 1 batch of 8.
// Losses and the gradient norm come back in one read, before the update: a step that went wrong changes nothing.

import { Tape } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import { type Batch, NO_TARGET } from "../data/assemble.ts";
import type { Decoder, TokenBatch } from "../models/decoder.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

/** Logits that exist at a time, in bytes, where memory is not short. */
export const defaultLogitsChunkBytes = 128 * 2 ** 20;

const slotBytes = 256;

export interface StepOptions {
  readonly learningRate: number;
  /** 1 for the first step. */
  readonly step: number;
  readonly maxGradNorm: number;
  readonly checkpointing: boolean;
  readonly seed: number;
  /** Micro-batches before this step, so that dropout masks never repeat. */
  readonly firstPass: number;
  /** Logits that exist at a time, in bytes. */
  readonly logitsChunkBytes?: number;
}

export interface StepResult {
  /** Mean over the step's target tokens. */
  readonly loss: number;
  readonly gradNorm: number;
  readonly targetTokens: number;
  readonly tokens: number;
  /** Mean loss of each micro-batch. */
  readonly losses: readonly number[];
  /** False: a loss or the norm was not finite, and nothing was updated. */
  readonly updated: boolean;
}

/** A batch on the device. */
export class DeviceBatch {
  readonly tokens: TokenBatch;
  readonly rows: Tensor;
  readonly targets: Tensor;
  readonly targetCount: number;
  private readonly uploads: Tensor[] = [];

  constructor(
    private readonly backend: Backend,
    batch: Batch,
  ) {
    const rows: number[] = [];
    const targets: number[] = [];
    for (let i = 0; i < batch.targets.length; i++) {
      if (batch.targets[i] === NO_TARGET) continue;
      rows.push(i);
      targets.push(batch.targets[i]!);
    }
    const count = batch.segments.length / 4;
    this.tokens = {
      ids: this.upload(batch.ids),
      positions: this.upload(batch.positions),
      segments: {
        table: this.upload(batch.segments, [count, 4]),
        count,
        maxQueries: batch.maxLength,
        maxKeys: batch.maxLength,
      },
      length: batch.maxLength,
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

  free(): void {
    for (const tensor of this.uploads) this.backend.free(tensor.buffer);
  }
}

/** Trains a decoder's flat parameters step by step. */
export class Trainer {
  private stats: Tensor | undefined;
  private slots = 0;

  constructor(
    private readonly decoder: Decoder,
    private readonly parameters: FlatParameters,
    private readonly optimizer: Optimizer,
  ) {}

  async step(batches: readonly Batch[], options: StepOptions): Promise<StepResult> {
    const { backend } = this.decoder;
    const targetTokens = batches.reduce((sum, batch) => sum + batch.targetTokens, 0);
    const stats = this.statsFor(batches.length + 1);
    backend.fill(stats, 0);
    this.parameters.zeroGrad();
    for (const [i, batch] of batches.entries()) {
      if (batch.targetTokens === 0) continue;
      this.accumulate(batch, targetTokens, options, options.firstPass + i, this.slot(i));
    }
    const norm = this.slot(batches.length);
    backend.sumSquares(this.parameters.grad, norm);
    const values = await this.readStats(batches.length + 1);
    const sums = values.slice(0, -1);
    const gradNorm = Math.sqrt(values.at(-1)!);
    const loss = targetTokens > 0 ? sums.reduce((a, b) => a + b, 0) / targetTokens : 0;
    const updated = Number.isFinite(loss) && Number.isFinite(gradNorm);
    if (updated) {
      const clip = options.maxGradNorm > 0 ? { sumSquares: norm, maxNorm: options.maxGradNorm } : undefined;
      await this.optimizer.update(options.step, options.learningRate, clip);
    }
    return {
      loss,
      gradNorm,
      targetTokens,
      tokens: batches.reduce((sum, batch) => sum + batch.ids.length, 0),
      losses: sums.map((sum, i) => (batches[i]!.targetTokens > 0 ? sum / batches[i]!.targetTokens : 0)),
      updated,
    };
  }

  /** Adds one micro-batch's gradient, and writes the sum of its losses to `out`. */
  private accumulate(
    batch: Batch,
    targetTokens: number,
    options: StepOptions,
    pass: number,
    out: Tensor,
  ): void {
    const { decoder } = this;
    const { backend } = decoder;
    const uploaded = new DeviceBatch(backend, batch);
    using tape = new Tape(backend);
    const context = { training: true, seed: options.seed, pass };
    const hidden = decoder.forward(tape, uploaded.tokens, { context, checkpointing: options.checkpointing });
    const losses = decoder.loss(tape, hidden, {
      rows: uploaded.rows,
      targets: uploaded.targets,
      gradScale: 1 / targetTokens,
      chunkBytes: options.logitsChunkBytes ?? defaultLogitsChunkBytes,
    });
    tape.run([losses]);
    backend.sum(losses.data, out);
    tape.backward();
    uploaded.free();
  }

  private statsFor(slots: number): Tensor {
    const { backend } = this.decoder;
    const elements = (slots * slotBytes) / dtypeBytes[backend.floatType];
    if (!this.stats || this.slots < slots) {
      if (this.stats) backend.free(this.stats.buffer);
      this.stats = viewOf(backend.allocate(slots * slotBytes, "workspace"), [elements], backend.floatType);
      this.slots = slots;
    }
    return this.stats;
  }

  private slot(index: number): Tensor {
    return { ...this.stats!, shape: [1], byteOffset: index * slotBytes };
  }

  private async readStats(count: number): Promise<number[]> {
    const { backend } = this.decoder;
    const bytes = await backend.read(this.stats!.buffer, 0, count * slotBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from({ length: count }, (_, i) =>
      backend.floatType === "f64"
        ? view.getFloat64(i * slotBytes, true)
        : view.getFloat32(i * slotBytes, true),
    );
  }

  free(): void {
    if (this.stats) this.decoder.backend.free(this.stats.buffer);
    this.stats = undefined;
  }
}
