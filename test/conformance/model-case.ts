// Runs a golden tiny model on a backend: the shared ground of the model conformance suites.

import { type Parameter, Tape } from "../../src/autograd/tape.ts";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import { assemble } from "../../src/data/assemble.ts";
import type { Sample } from "../../src/data/render.ts";
import type { Decoder, TokenBatch } from "../../src/models/decoder.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { type LoadedDecoder, loadDecoder, type WeightSource } from "../../src/models/load-model.ts";
import { attachAdapters } from "../../src/nn/lora.ts";
import type { FlatParameters } from "../../src/nn/parameters.ts";
import { Session } from "../../src/session/session.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount, viewOf } from "../../src/tensor/tensor.ts";
import {
  type GoldenSequence,
  goldenAdapter,
  goldenWeights,
  type ModelGolden,
} from "../golden/load-golden.ts";

const context = { training: false, seed: 0, pass: 0 };

export function goldenSource(golden: Pick<ModelGolden, "name" | "seed" | "tensors">): WeightSource {
  const weights = goldenWeights(golden);
  return {
    path: golden.name,
    find(name) {
      const tensor = golden.tensors.find((t) => t.name === name);
      return tensor && { dtype: "f32", shape: tensor.shape };
    },
    async read(name, offset, length) {
      const values = weights.get(name)!;
      return new Uint8Array(values.buffer, values.byteOffset + offset, length);
    },
  };
}

export async function openGolden(
  backend: Backend,
  golden: Pick<ModelGolden, "name" | "seed" | "config" | "tensors">,
  train = false,
): Promise<LoadedDecoder> {
  return loadDecoder(backend, readModelConfig(golden.config), goldenSource(golden), { train });
}

export function uploadInts(backend: Backend, values: ArrayLike<number>, shape = [values.length]): Tensor {
  const buffer = backend.allocate(Math.max(4, values.length * 4), "workspace");
  if (values.length > 0) backend.write(buffer, encodeFrom(values, "i32"));
  return viewOf(buffer, shape, "i32");
}

export async function readFloats(backend: Backend, tensor: Tensor): Promise<Float32Array> {
  const bytes = await backend.read(
    tensor.buffer,
    tensor.byteOffset,
    elementCount(tensor.shape) * dtypeBytes[tensor.dtype],
  );
  return decodeToF32(bytes, tensor.dtype);
}

/** A batch of whole sequences laid end to end, with its targets. */
export function makeBatch(decoder: Decoder, sequences: readonly GoldenSequence[]) {
  const { backend } = decoder;
  const ids: number[] = [];
  const table: number[] = [];
  const rows: number[] = [];
  const targets: number[] = [];
  for (const { ids: tokens, mask } of sequences) {
    table.push(ids.length, tokens.length, ids.length, tokens.length);
    for (const [i, id] of tokens.entries()) {
      if (i > 0 && mask[i]) {
        rows.push(ids.length - 1);
        targets.push(id);
      }
      ids.push(id);
    }
  }
  const longest = Math.max(...sequences.map((s) => s.ids.length));
  const placed = decoder.ropeCache.place(
    sequences.map(({ ids: { length } }) => ({ start: 0, count: length, length })),
  );
  const tensors = [ids, placed.rows, table, rows, targets].map((values) => uploadInts(backend, values));
  const perLayer = decoder.perLayer?.rows(ids);
  if (perLayer) tensors.push(perLayer);
  const batch: TokenBatch = {
    ids: tensors[0]!,
    rows: tensors[1]!,
    tables: placed.tables,
    perLayer,
    segments: {
      table: { ...tensors[2]!, shape: [sequences.length, 4] },
      count: sequences.length,
      maxQueries: longest,
      maxKeys: longest,
    },
  };
  return {
    batch,
    rows: tensors[3]!,
    targets: tensors[4]!,
    count: rows.length,
    free() {
      for (const tensor of tensors) backend.free(tensor.buffer);
    },
  };
}

export async function logitsOf(
  backend: Backend,
  loaded: LoadedDecoder,
  ids: readonly number[],
): Promise<Float32Array> {
  const made = makeBatch(loaded.decoder, [{ ids, mask: ids.map(() => 0) }]);
  using tape = new Tape(backend, false);
  const hidden = loaded.decoder.forward(tape, made.batch, { context });
  const logits = loaded.decoder.logits(tape, hidden);
  tape.run([logits]);
  const values = await readFloats(backend, logits.data);
  made.free();
  return values;
}

/** Mean loss over the sequences' targets; gradients are added to the flat buffer when there is one to train. */
export async function lossAndGradients(
  backend: Backend,
  loaded: LoadedDecoder,
  sequences: readonly GoldenSequence[],
  checkpointing = false,
): Promise<number> {
  const made = makeBatch(loaded.decoder, sequences);
  using tape = new Tape(backend, true);
  const hidden = loaded.decoder.forward(tape, made.batch, { context, checkpointing });
  const losses = loaded.decoder.loss(tape, hidden, {
    rows: made.rows,
    targets: made.targets,
    gradScale: 1 / made.count,
    chunkBytes: 4 * 128 * 7,
  });
  tape.run([losses]);
  tape.backward();
  const values = await readFloats(backend, losses.data);
  made.free();
  return values.reduce((sum, value) => sum + value, 0) / made.count;
}

/** Attaches the golden's adapter (all linear layers) with its weights. */
export function attachGoldenAdapter(
  backend: Backend,
  loaded: LoadedDecoder,
  golden: { readonly seed: number; readonly lora: Pick<ModelGolden["lora"], "rank" | "alpha" | "adapter"> },
): FlatParameters {
  const { rank, alpha, adapter } = golden.lora;
  const layers = loaded.decoder.linears;
  const flat = attachAdapters(backend, layers, {
    choices: new Map(layers.map((layer) => [layer.name, { rank, scale: alpha / rank }])),
    dropout: 0,
    seed: 1,
  });
  for (const [name, values] of goldenAdapter(golden.seed, adapter))
    flat.set(parameterFor(flat, name), values);
  return flat;
}

/** The flat parameter that PEFT saves under `name`. */
export function parameterFor(flat: FlatParameters, name: string): Parameter {
  const ours = name
    .replace("base_model.model.", "")
    .replace(".lora_A.weight", ".lora_a")
    .replace(".lora_B.weight", ".lora_b");
  const parameter = flat.get(ours);
  if (!parameter) throw new Error(`no parameter ${ours}`);
  return parameter;
}

/** The golden's AdamW steps through a session: each step's loss and gradient norm. */
export async function trainGolden(
  loaded: LoadedDecoder,
  parameters: FlatParameters,
  golden: Pick<ModelGolden, "training">,
): Promise<{ losses: number[]; gradNorms: number[] }> {
  const { learningRate, maxGradNorm, batches, ...constants } = golden.training;
  const recipe = { method: "lora", rank: 1, alpha: 1, targets: "all-linear", optimizer: "adamw" } as const;
  using session = new Session(
    loaded,
    { ...recipe, ...constants, seed: 0 },
    { logitsChunkBytes: 4 * 128 * 7 },
    { parameters },
  );
  const losses: number[] = [];
  const gradNorms: number[] = [];
  for (const sequences of batches) {
    const { loss } = await session.forwardBackward(assemble(sequences.map(sampleOf)));
    const { gradNorm } = await session.step({ learningRate, maxGradNorm });
    losses.push(loss);
    gradNorms.push(gradNorm);
  }
  return { losses, gradNorms };
}

export function sampleOf({ ids, mask }: GoldenSequence, row: number): Sample {
  // The first token has nothing before it to be predicted from.
  const targetMask = Uint8Array.from(mask, (bit, i) => (i > 0 ? bit : 0));
  return { ids: Int32Array.from(ids), targetMask, rowId: { file: "golden", line: row + 1, unit: "row" } };
}

/** Largest absolute difference over the largest magnitude expected. */
export function relativeDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let worst = 0;
  let scale = 1e-30;
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(actual[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return actual.length === expected.length ? worst / scale : Number.POSITIVE_INFINITY;
}
