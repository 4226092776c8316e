// Micro-batches of objectives that score completions: a pass gives each target's log-probability, the objective says on the
// host what of the step's loss that comes to (objectives/), and the backward pass goes on from there. The reference's
// log-probabilities are taken ahead of a run and kept by sample. Not here: steps (session.ts), mean cross-entropy, which
// needs none of this.

import { Tape } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { Batch, ScoredTargets } from "../data/assemble.ts";
import { assembleForks, packedLength } from "../data/assemble-forks.ts";
import type { Sample } from "../data/render.ts";
import type { Collective } from "../distributed/collective.ts";
import type { Decoder } from "../models/decoder.ts";
import type { PassContext } from "../nn/module.ts";
import {
  type MetricSums,
  meansOf,
  type Score,
  type ScoredPass,
  type Scoring,
} from "../objectives/objective.ts";
import { type DType, decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";
import { DeviceBatch } from "./device-batch.ts";

export interface ScoredPassOptions {
  readonly logitsChunkBytes: number;
  readonly collective: Collective;
}

/** What an evaluation of completions comes to. */
export interface ScoredEvaluation {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly targetTokens: number;
}

const inference: PassContext = { training: false, seed: 0, pass: 0 };

export class ScoredPasses {
  /** Of each target of a sample, in the order of a batch's. */
  private readonly references = new WeakMap<Sample, Float64Array>();
  private readonly backend: Backend;

  constructor(
    private readonly decoder: Decoder,
    readonly scoring: Scoring,
    private readonly options: ScoredPassOptions,
  ) {
    this.backend = decoder.backend;
  }

  assemble(samples: readonly Sample[]): Batch {
    const { scoresPrompts } = this.scoring;
    return assembleForks(samples, { sharedUpTo: this.decoder.ropeCache.oneTable, scoresPrompts });
  }

  /** Tokens of a sample in a batch. */
  lengthOf(sample: Sample): number {
    return packedLength(sample, this.decoder.ropeCache.oneTable);
  }

  /** Keeps what the decoder as it is now gives these samples: the reference of later passes over them. */
  async refer(samples: readonly Sample[], tokensPerPass: number): Promise<void> {
    if (!this.scoring.reference) return;
    const all = [...samples, ...(this.scoring.ahead?.(samples) ?? [])];
    await this.overAll(all, tokensPerPass, ({ samples: held, runs }, logProbs) => {
      for (const [index, sample] of held.entries()) {
        const own = runs.filter((run) => run.sample === index);
        this.references.set(sample, logProbs.slice(own[0]!.start, own.at(-1)!.end));
      }
    });
  }

  /** Adds the gradient of a micro-batch's part of the step's loss, and writes that part to `out`. */
  async train(
    batch: Batch,
    score: (micro: ScoredPass) => Score,
    pass: { readonly context: PassContext; readonly checkpointing: boolean },
    out: Tensor,
  ): Promise<Score> {
    const { decoder, backend, options } = this;
    const ahead = await this.passAhead(batch);
    const uploaded = new DeviceBatch(decoder, batch);
    const count = batch.targetTokens;
    const factors = this.column(count, backend.floatType);
    const each = this.column(count, "i32");
    backend.write(
      each.buffer,
      encodeFrom(
        Int32Array.from({ length: count }, (_, i) => i),
        "i32",
      ),
    );
    using tape = new Tape(backend);
    const hidden = decoder.forward(tape, uploaded.tokens, pass);
    const { rows, targets } = uploaded;
    const spec = { rows, targets, gradScale: 0, chunkBytes: options.logitsChunkBytes };
    const losses = decoder.loss(tape, hidden, { ...spec, later: { factors, each } }, pass.context);
    tape.run([losses]);
    const logProbs = await this.readNegated(losses.data);
    const scored = score({ batch, logProbs, reference: this.referenceOf(batch), ahead });
    invariant(scored.gradients.length === count, "an objective's derivatives are one a target");
    // Losses are negated log-probabilities.
    const weights = scored.gradients.map((gradient) => -gradient);
    backend.write(factors.buffer, encodeFrom(weights, factors.dtype));
    backend.write(out.buffer, encodeFrom([scored.loss], out.dtype), out.byteOffset);
    tape.backward();
    uploaded.free();
    for (const { buffer } of [factors, each]) backend.free(buffer);
    return scored;
  }

  /** The objective on samples that are not trained on, of which those of a pass are a micro-batch. */
  async evaluate(samples: readonly Sample[], tokensPerPass: number): Promise<ScoredEvaluation> {
    const passes: ScoredPass[] = [];
    await this.overAll(samples, tokensPerPass, (_, logProbs, batch) => {
      passes.push({ batch, logProbs, reference: this.referenceOf(batch) });
    });
    const others = this.scoring.ahead?.(samples) ?? [];
    const ahead = new Map<Sample, Float64Array>();
    await this.overAll(others, tokensPerPass, ({ samples: held, runs }, logProbs) => {
      for (const { sample, start, end } of runs) ahead.set(held[sample]!, logProbs.slice(start, end));
    });
    const score = this.scoring.begin(passes.map(({ batch }) => batch));
    const scores = passes.map((pass) => score({ ...pass, ahead: this.knownAhead(pass.batch, ahead) }));
    return {
      loss: scores.reduce((sum, { loss }) => sum + loss, 0),
      metrics: this.meansOf(scores.map(({ metrics }) => metrics)),
      targetTokens: passes.reduce((sum, { batch }) => sum + batch.targetTokens, 0),
    };
  }

  /** The metrics of all ranks' micro-batches, added in their order. */
  async means(own: readonly Score[]): Promise<Record<string, number>> {
    const text = new TextEncoder().encode(JSON.stringify(own.map(({ metrics }) => metrics)));
    const everyone = await this.options.collective.gather(text);
    const lists = everyone.map((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as MetricSums[]);
    const rounds = Array.from({ length: Math.max(...lists.map((list) => list.length)) });
    const inOrder = rounds.flatMap((_, i) => lists.flatMap((list) => list.slice(i, i + 1)));
    return this.meansOf(inOrder);
  }

  private meansOf(all: readonly MetricSums[]): Record<string, number> {
    const means = meansOf(all);
    return { ...means, ...this.scoring.derived?.(means) };
  }

  private async passAhead(batch: Batch): Promise<ScoredPass | undefined> {
    const samples = this.scoring.ahead?.(scoredOf(batch).samples) ?? [];
    if (samples.length === 0) return undefined;
    const own = this.assemble(samples);
    return { batch: own, logProbs: await this.logProbs(own), reference: this.referenceOf(own) };
  }

  private knownAhead(batch: Batch, known: ReadonlyMap<Sample, Float64Array>): ScoredPass | undefined {
    const samples = this.scoring.ahead?.(scoredOf(batch).samples) ?? [];
    if (samples.length === 0) return undefined;
    const own = this.assemble(samples);
    const logProbs = Float64Array.from(samples.flatMap((sample) => [...known.get(sample)!]));
    return { batch: own, logProbs, reference: this.referenceOf(own) };
  }

  private referenceOf(batch: Batch): Float64Array | undefined {
    if (!this.scoring.reference) return undefined;
    const all = new Float64Array(batch.targetTokens);
    let at = 0;
    for (const sample of scoredOf(batch).samples) {
      const own = this.references.get(sample);
      if (!own) throw new BugError("a sample is scored whose reference was not taken ahead");
      all.set(own, at);
      at += own.length;
    }
    invariant(at === all.length, "a reference of other targets");
    return all;
  }

  /** A pass without gradients over each group of samples, made by one of the ranks and told to all, in their order. */
  private async overAll(
    samples: readonly Sample[],
    tokensPerPass: number,
    take: (scored: ScoredTargets, logProbs: Float64Array, batch: Batch) => void,
  ): Promise<void> {
    const { rank, size } = this.options.collective;
    const batches = this.groups(samples, tokensPerPass).map((group) => this.assemble(group));
    const own: Float64Array[] = [];
    for (const [index, batch] of batches.entries())
      if (index % size === rank) own.push(await this.logProbs(batch));
    const everyone = await this.gather(own);
    const read = everyone.map(() => 0);
    for (const [index, batch] of batches.entries()) {
      const from = index % size;
      const start = read[from]!;
      read[from] = start + batch.targetTokens;
      take(scoredOf(batch), everyone[from]!.subarray(start, read[from]), batch);
    }
  }

  private async gather(own: readonly Float64Array[]): Promise<Float64Array[]> {
    const flat = Float64Array.from(own.flatMap((values) => [...values]));
    const everyone = await this.options.collective.gather(new Uint8Array(flat.buffer));
    return everyone.map((bytes) => new Float64Array(bytes.slice().buffer));
  }

  private groups(samples: readonly Sample[], tokensPerPass: number): Sample[][] {
    const groups: Sample[][] = [];
    let room = 0;
    for (const sample of samples) {
      const length = this.lengthOf(sample);
      if (groups.length === 0 || length > room) {
        groups.push([]);
        room = tokensPerPass;
      }
      groups.at(-1)!.push(sample);
      room -= length;
    }
    return groups;
  }

  /** Of each target, without gradients or dropout. */
  private async logProbs(batch: Batch): Promise<Float64Array> {
    const { decoder, backend, options } = this;
    const uploaded = new DeviceBatch(decoder, batch);
    using tape = new Tape(backend, false);
    const hidden = decoder.forward(tape, uploaded.tokens, { context: inference });
    const { rows, targets } = uploaded;
    const losses = decoder.loss(tape, hidden, {
      ...{ rows, targets, gradScale: 0, chunkBytes: options.logitsChunkBytes },
    });
    tape.run([losses]);
    const values = await this.readNegated(losses.data);
    uploaded.free();
    return values;
  }

  private async readNegated(losses: Tensor): Promise<Float64Array> {
    const count = losses.shape[0]!;
    const bytes = await this.backend.read(losses.buffer, losses.byteOffset, count * dtypeBytes[losses.dtype]);
    const values =
      losses.dtype === "f64" ? new Float64Array(bytes.slice().buffer) : decodeToF32(bytes, losses.dtype);
    return Float64Array.from(values, (loss) => -loss);
  }

  private column(count: number, dtype: DType): Tensor {
    const buffer = this.backend.allocate(Math.max(4, count * dtypeBytes[dtype]), "workspace");
    return viewOf(buffer, [count, 1], dtype);
  }
}

function scoredOf({ scored }: Batch): ScoredTargets {
  if (!scored)
    throw new BugError("a batch of samples that do not fork, for an objective that scores completions");
  return scored;
}
