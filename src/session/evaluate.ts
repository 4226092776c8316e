// Mean loss of a decoder over samples, without gradients: what "eval" events and perplexity come from.

import { Tape } from "../autograd/tape.ts";
import { assemble } from "../data/assemble.ts";
import type { Sample } from "../data/render.ts";
import type { Decoder } from "../models/decoder.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { DeviceBatch, defaultLogitsChunkBytes } from "./device-batch.ts";

export interface EvaluationOptions {
  /** Tokens that go through the model at a time. */
  readonly tokensPerPass: number;
  /** Logits that exist at a time, in bytes. */
  readonly logitsChunkBytes?: number;
  /** Called after each pass with the samples done so far. */
  readonly onProgress?: (done: number) => void;
}

export interface Evaluation {
  /** Mean over all target tokens, in nats. */
  readonly loss: number;
  readonly targetTokens: number;
  readonly tokens: number;
  /** Summed loss of each sample. */
  readonly sampleLosses: readonly number[];
}

/** Evaluates samples in their order, several at a time end to end. */
export async function evaluate(
  decoder: Decoder,
  samples: readonly Sample[],
  options: EvaluationOptions,
): Promise<Evaluation> {
  const sampleLosses: number[] = [];
  let targetTokens = 0;
  let tokens = 0;
  for (let start = 0; start < samples.length; ) {
    let end = start;
    let size = 0;
    while (
      end < samples.length &&
      (end === start || size + samples[end]!.ids.length <= options.tokensPerPass)
    ) {
      size += samples[end++]!.ids.length;
    }
    const group = samples.slice(start, end);
    sampleLosses.push(...(await lossesOf(decoder, group, options)));
    targetTokens += group.reduce((sum, sample) => sum + countTargets(sample), 0);
    tokens += size;
    start = end;
    options.onProgress?.(end);
  }
  const total = sampleLosses.reduce((sum, loss) => sum + loss, 0);
  return { loss: targetTokens > 0 ? total / targetTokens : 0, targetTokens, tokens, sampleLosses };
}

function countTargets(sample: Sample): number {
  return sample.targetMask.reduce((sum, bit) => sum + bit, 0);
}

async function lossesOf(
  decoder: Decoder,
  samples: readonly Sample[],
  { logitsChunkBytes = defaultLogitsChunkBytes }: EvaluationOptions,
): Promise<number[]> {
  const { backend } = decoder;
  const batch = assemble(samples);
  if (batch.targetTokens === 0) return samples.map(() => 0);
  const uploaded = new DeviceBatch(decoder, batch);
  using tape = new Tape(backend, false);
  const hidden = decoder.forward(tape, uploaded.tokens, { context: { training: false, seed: 0, pass: 0 } });
  const losses = decoder.loss(tape, hidden, {
    rows: uploaded.rows,
    targets: uploaded.targets,
    gradScale: 0,
    chunkBytes: logitsChunkBytes,
  });
  tape.run([losses]);
  const values = decodeToF32(await backend.read(losses.data.buffer), losses.dtype);
  uploaded.free();
  let at = 0;
  return samples.map((sample) => {
    let sum = 0;
    for (const bit of sample.targetMask) if (bit) sum += values[at++]!;
    return sum;
  });
}
