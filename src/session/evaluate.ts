// Mean loss of a decoder over samples, without gradients: what "eval" events and perplexity come from.

import { Tape } from "../autograd/tape.ts";
import { assemble } from "../data/assemble.ts";
import { type Sample, targetTokensOf } from "../data/render.ts";
import { lengthsOf, type Samples } from "../data/samples.ts";
import { type Collective, gatherNumbers, single } from "../distributed/collective.ts";
import type { Decoder } from "../models/decoder.ts";
import { type RouterBalance, RouterCount } from "../models/router-balance.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { DeviceBatch, defaultLogitsChunkBytes } from "./device-batch.ts";

export interface EvaluationOptions {
  /** Tokens that go through the model at a time. */
  readonly tokensPerPass: number;
  /** Logits that exist at a time, in bytes. */
  readonly logitsChunkBytes?: number;
  /** Called after each pass with the samples done so far. */
  readonly onProgress?: (done: number) => void;
  /** The ranks that share the passes; this process alone when absent. */
  readonly collective?: Collective;
}

export interface Evaluation {
  /** Mean over all target tokens, in nats. */
  readonly loss: number;
  /** Of the loss, over samples; absent where fewer than two have targets. */
  readonly standardError?: number;
  readonly targetTokens: number;
  readonly tokens: number;
  /** Summed loss of each sample. */
  readonly sampleLosses: readonly number[];
  /** Of a mixture of experts. */
  readonly router?: RouterBalance;
}

/** Evaluates samples in their order, several at a time end to end. */
export async function evaluate(
  decoder: Decoder,
  samples: Samples,
  options: EvaluationOptions,
): Promise<Evaluation> {
  const { collective = single } = options;
  const groups = groupsOf(samples, options.tokensPerPass);
  const own: number[] = [];
  const counted = new RouterCount();
  for (const [index, { start, end }] of groups.entries()) {
    if (index % collective.size !== collective.rank) continue;
    own.push(...(await lossesOf(decoder, between(samples, start, end), options, counted)));
    options.onProgress?.(end);
  }
  const everyone = await gatherNumbers(collective, own);
  const sampleLosses = groups.flatMap(({ start, end }, index) =>
    everyone[index % collective.size]!.splice(0, end - start),
  );
  let [targetTokens, tokens] = [0, 0];
  const targets: number[] = [];
  for (const sample of samples) {
    targets.push(targetTokensOf(sample));
    targetTokens += targets.at(-1)!;
    tokens += sample.ids.length;
  }
  const total = sampleLosses.reduce((sum, loss) => sum + loss, 0);
  const router = decoder.config.mixture && (await balanceOf(collective, counted));
  const loss = targetTokens > 0 ? total / targetTokens : 0;
  const standardError = errorOfRatio(sampleLosses, targets);
  return {
    ...{ loss, targetTokens, tokens, sampleLosses },
    ...(standardError === undefined ? {} : { standardError }),
    ...(router ? { router } : {}),
  };
}

/**
 * Standard error of sum(losses) / sum(targets) over samples drawn as these were, to first order: that of a ratio of means.
 * Source: Cochran, Sampling Techniques, 3rd ed., section 2.11.
 */
function errorOfRatio(losses: readonly number[], targets: readonly number[]): number | undefined {
  let [count, lossSum, targetSum, squares] = [0, 0, 0, 0];
  for (const [i, tokens] of targets.entries()) {
    if (tokens === 0) continue;
    count++;
    lossSum += losses[i]!;
    targetSum += tokens;
  }
  if (count < 2) return undefined;
  for (const [i, tokens] of targets.entries()) squares += (losses[i]! - (lossSum / targetSum) * tokens) ** 2;
  return Math.sqrt((squares * count) / (count - 1)) / targetSum;
}

/** Of all ranks' tokens. */
async function balanceOf(collective: Collective, counted: RouterCount): Promise<RouterBalance | undefined> {
  const all = new RouterCount();
  for (const numbers of await gatherNumbers(collective, counted.numbers())) all.addNumbers(numbers);
  return all.balance();
}

/** Samples [start, end) that go through the model together. */
function groupsOf(samples: Samples, tokensPerPass: number): { start: number; end: number }[] {
  const lengths = lengthsOf(samples);
  const groups: { start: number; end: number }[] = [];
  for (let start = 0; start < samples.length; ) {
    let end = start;
    let size = 0;
    while (end < samples.length && (end === start || size + lengths[end]! <= tokensPerPass)) {
      size += lengths[end++]!;
    }
    groups.push({ start, end });
    start = end;
  }
  return groups;
}

function between(samples: Samples, start: number, end: number): Sample[] {
  return Array.from({ length: end - start }, (_, i) => samples.at(start + i)!);
}

async function lossesOf(
  decoder: Decoder,
  samples: readonly Sample[],
  options: EvaluationOptions,
  routers: RouterCount,
): Promise<number[]> {
  return (await targetLosses(decoder, samples, options, routers)).map((losses) => {
    let sum = 0;
    for (const loss of losses) sum += loss;
    return sum;
  });
}

/** Loss of each target of each sample, in nats, in one pass. */
export async function targetLosses(
  decoder: Decoder,
  samples: readonly Sample[],
  { logitsChunkBytes = defaultLogitsChunkBytes }: Pick<EvaluationOptions, "logitsChunkBytes"> = {},
  routers = new RouterCount(),
): Promise<Float32Array[]> {
  const { backend } = decoder;
  const batch = assemble(samples);
  if (batch.targetTokens === 0) return samples.map(() => new Float32Array(0));
  const uploaded = new DeviceBatch(decoder, batch);
  using tape = new Tape(backend, false);
  const counting = routers.pass(tape);
  const context = { training: false, seed: 0, pass: 0 };
  const hidden = decoder.forward(tape, uploaded.tokens, { context, routed: counting.routed });
  const losses = decoder.loss(tape, hidden, {
    rows: uploaded.rows,
    targets: uploaded.targets,
    gradScale: 0,
    chunkBytes: logitsChunkBytes,
  });
  tape.run([losses, ...counting.kept()]);
  await counting.read();
  const values = decodeToF32(await backend.read(losses.data.buffer), losses.dtype);
  uploaded.free();
  let at = 0;
  return samples.map((sample) => {
    const count = targetTokensOf(sample);
    at += count;
    return values.slice(at - count, at);
  });
}
