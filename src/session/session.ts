// Training as a thing one holds: a decoder, what trains on it, and an optimizer over that. train, bench, the memory
// count, the conformance tests and users' own loops (library/) all step through it. One optimizer step is micro-batches
// forward and backward into the flat gradient, then clip and update. The loss is a sum over target tokens divided by
// all target tokens of the step, so 8 micro-batches of 1 equal 1 batch of 8. A step that went wrong changes nothing: the
// device looks at losses and norm before it updates (update-gate.ts). Not here: a run with its folder and data (run.ts).

import { Tape } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import { assemble, type Batch } from "../data/assemble.ts";
import type { Sample } from "../data/render.ts";
import type { Samples } from "../data/samples.ts";
import { type Collective, single } from "../distributed/collective.ts";
import { type OrderedSum, orderedSum } from "../distributed/ordered-sum.ts";
import type { DecoderAdapter } from "../models/adapter.ts";
import type { Decoder } from "../models/decoder.ts";
import type { LoadedDecoder } from "../models/load-model.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import { objectiveOf } from "../objectives/index.ts";
import type { Objective, Score } from "../objectives/objective.ts";
import { optimizerDefaults, optimizers } from "../optim/index.ts";
import { defaultOptimizerOptions, type Optimizer, type OptimizerOptions } from "../optim/optimizer.ts";
import type { StateMemory } from "../optim/paging.ts";
import { sharded } from "../optim/sharded.ts";
import { BugError, UserError } from "../util/errors.ts";
import { DeviceBatch, defaultLogitsChunkBytes } from "./device-batch.ts";
import type { NoiseOptions } from "./embedding-noise.ts";
import { type Evaluation, evaluate } from "./evaluate.ts";
import { LossSlots } from "./loss-slots.ts";
import { ScoredPasses } from "./scored-passes.ts";
import { makeTrainable, type SessionRecipe, type Trainable, type TrainableStart } from "./trainable.ts";
import { UpdateGate } from "./update-gate.ts";

export interface SessionOptions extends TrainableStart {
  /** Where the optimizer's state lives; in the device's memory when absent. */
  readonly stateMemory?: StateMemory;
  /** Recompute activations in the backward pass. */
  readonly checkpointing?: boolean;
  /** Logits that exist at a time, in bytes. */
  readonly logitsChunkBytes?: number;
  /** The ranks that train together, each on its share of a step's micro-batches; this process alone when absent. */
  readonly collective?: Collective;
  /** Each rank keeps the optimizer's state of its slice of the parameters only. */
  readonly shardOptimizer?: boolean;
}

export interface GradientResult {
  /** Mean over the target tokens, or what the objective makes of them. */
  readonly loss: number;
  readonly targetTokens: number;
  readonly tokens: number;
  /** Mean loss of each micro-batch, or its part of the objective's. */
  readonly losses: readonly number[];
  /** Of objectives that have some: rewardsChosen, rewardMargin, ... */
  readonly metrics?: Readonly<Record<string, number>>;
}

export interface UpdateOptions {
  readonly learningRate: number;
  /** Clip gradients to this norm; 0 clips nothing. */
  readonly maxGradNorm?: number;
}

export interface UpdateResult {
  /** Before clipping. */
  readonly gradNorm: number;
  /** False: a loss or the norm was not finite, and nothing was updated. */
  readonly updated: boolean;
}

/** What samples come to that are not trained on. */
export interface SessionEvaluation
  extends Pick<Evaluation, "loss" | "standardError" | "targetTokens" | "router"> {
  readonly metrics?: Readonly<Record<string, number>>;
}

export interface StepResult extends GradientResult, UpdateResult {}

/** A step that was handed to the device. */
export interface StartedStep {
  /** Waits for the step's numbers. Steps that are started before this is called are not made if this one went wrong. */
  numbers(): Promise<StepResult>;
}

/** Adds a micro-batch's gradient and writes its loss. */
type MicroBatchPass = (batch: Batch, pass: number, out: Tensor) => void | Promise<void>;

export class Session implements Disposable {
  readonly parameters: FlatParameters;
  readonly adapter: DecoderAdapter | undefined;
  readonly optimizer: Optimizer;
  /** Optimizer steps done; the next is one more. A resumed run sets it. */
  get steps(): number {
    return this.gate.steps;
  }
  set steps(steps: number) {
    this.gate.steps = steps;
  }
  /** Recompute activations in the backward pass; may change from step to step. */
  checkpointing: boolean;
  /** Micro-batches done, so that dropout masks never repeat. A resumed run sets it. */
  passes = 0;
  readonly objective: Objective;
  private readonly decoder: Decoder;
  private readonly scored: ScoredPasses | undefined;
  private metrics: GradientResult["metrics"];
  private readonly ownsTrainable: boolean;
  private readonly gate: UpdateGate;
  private readonly collective: Collective;
  private readonly sum: OrderedSum;
  private readonly slots: LossSlots;
  /** Gradients of forwardBackward() that no step() has used yet. */
  private pending = false;
  private finite = true;

  /** `trainable` is what makeTrainable made; without it the session makes, and frees, its own. */
  constructor(
    readonly loaded: LoadedDecoder,
    private readonly recipe: SessionRecipe,
    private readonly options: SessionOptions = {},
    trainable?: Trainable,
  ) {
    this.decoder = loaded.decoder;
    this.gate = new UpdateGate(this.decoder.backend);
    this.slots = new LossSlots(this.decoder.backend);
    this.checkpointing = options.checkpointing ?? false;
    this.ownsTrainable = trainable === undefined;
    const { parameters, adapter } = trainable ?? makeTrainable(loaded, recipe, options);
    this.parameters = parameters;
    this.adapter = adapter;
    this.collective = options.collective ?? single;
    this.objective = objectiveOf(recipe.objective ?? "sft", recipe);
    const { scoring } = this.objective;
    if (scoring && recipe.neftuneAlpha !== undefined) {
      throw new UserError(
        `--neftune-alpha does not go with --objective ${recipe.objective}, whose texts share their prompt; leave it out`,
      );
    }
    const { collective, logitsChunkBytes } = this;
    this.scored = scoring && new ScoredPasses(this.decoder, scoring, { collective, logitsChunkBytes });
    try {
      this.sum = orderedSum(this.backend, parameters.grad, this.collective);
      this.optimizer = this.makeOptimizer();
    } catch (error) {
      if (this.ownsTrainable) adapter?.free();
      throw error;
    }
  }

  get backend(): Backend {
    return this.decoder.backend;
  }

  private get logitsChunkBytes(): number {
    return this.options.logitsChunkBytes ?? defaultLogitsChunkBytes;
  }

  /** Samples as a micro-batch of this session's objective. */
  assemble(samples: readonly Sample[]): Batch {
    return this.scored ? this.scored.assemble(samples) : assemble(samples);
  }

  /** Tokens that a sample takes in a micro-batch. */
  lengthOf(sample: Sample): number {
    return this.scored ? this.scored.lengthOf(sample) : sample.ids.length;
  }

  /**
   * Takes the log-probabilities of the reference for these samples, which an objective that has one wants ahead of their
   * first pass: the model as it is now, or (`withoutAdapter`) its base.
   */
  async refer(samples: readonly Sample[], tokensPerPass: number, withoutAdapter: boolean): Promise<void> {
    await this.adapter?.initialize();
    const run = async () => this.scored?.refer(samples, tokensPerPass);
    await (withoutAdapter && this.adapter ? this.adapter.without(run) : run());
  }

  /**
   * Adds the gradient of the mean loss over all target tokens of these micro-batches (or of the objective's loss) to what
   * earlier calls left since the last step().
   */
  async forwardBackward(batches: Batch | readonly Batch[]): Promise<GradientResult> {
    await this.adapter?.initialize();
    const list = [batches].flat() as Batch[];
    this.slots.reserve(list.length);
    await this.accumulateAll(list);
    const result = this.resultOf(list, await this.slots.read(list.length), this.metrics);
    this.finite &&= Number.isFinite(result.loss);
    return result;
  }

  /** One update from the gradients that forwardBackward() has left, which are spent then. */
  async step(options: UpdateOptions): Promise<UpdateResult> {
    if (!this.pending) throw new BugError("step() without a gradient: call forwardBackward() first");
    this.slots.reserve(1);
    const { gradNorm, updated } = await (await this.startUpdate([], options)).numbers();
    return { gradNorm, updated };
  }

  /** forwardBackward() and step() in one, with a single read of losses and norm. */
  async trainStep(batches: readonly Batch[], options: UpdateOptions): Promise<StepResult> {
    return (await this.startStep(batches, options)).numbers();
  }

  /**
   * trainStep() without waiting for its numbers: on a device that works by itself the next step can be started first. A
   * step that goes wrong updates nothing, and neither do those that are started before its numbers were asked for.
   */
  async startStep(batches: readonly Batch[], options: UpdateOptions): Promise<StartedStep> {
    await this.adapter?.initialize();
    this.slots.reserve(batches.length + 1);
    await this.accumulateAll(batches);
    return this.startUpdate(batches, options);
  }

  /** Mean loss over samples, or the objective's, without gradients or dropout. */
  async evaluate(samples: Samples, tokensPerPass: number): Promise<SessionEvaluation> {
    await this.adapter?.initialize();
    const { collective, logitsChunkBytes } = this;
    if (this.scored) return this.scored.evaluate([...samples], tokensPerPass);
    return evaluate(this.decoder, samples, { tokensPerPass, logitsChunkBytes, collective });
  }

  [Symbol.dispose](): void {
    this.slots.free();
    this.gate.free();
    this.optimizer.free();
    this.sum.free();
    if (this.ownsTrainable) this.adapter?.free();
  }

  /** Update and read of a step whose micro-batches' losses are in the first slots. */
  private async startUpdate(
    batches: readonly Batch[],
    { learningRate, maxGradNorm = 1 }: UpdateOptions,
  ): Promise<StartedStep> {
    const count = batches.length;
    const norm = this.slots.at(count);
    this.backend.sumSquares({ x: this.parameters.grad, out: norm });
    const reading = this.slots.read(count + 1);
    reading.catch(() => {}); // heard through numbers
    const update = this.gate.begin(this.finite);
    const { metrics } = this;
    this.pending = false;
    this.finite = true;
    const numbers = this.gate.settling(update, async () => {
      const values = await reading;
      const result = this.resultOf(batches, values.slice(0, -1), metrics);
      const gradNorm = Math.sqrt(values.at(-1)!);
      const finite = Number.isFinite(result.loss) && Number.isFinite(gradNorm);
      return { finite, numbers: { ...result, gradNorm } };
    });
    if (update.step !== undefined) {
      const losses = count === 0 ? norm : this.slots.first(count);
      const factor = this.gate.factorFor(norm, losses, maxGradNorm);
      await this.optimizer.update(update.step, learningRate, factor);
    }
    return { numbers };
  }

  /** Leaves the gradient of all of them, added in their order, on every rank. */
  private async accumulateAll(batches: readonly Batch[]): Promise<void> {
    this.slots.clear();
    const taught = withTargets(batches);
    const scores: Score[] = [];
    const run = this.scored
      ? this.scoredRun(this.scored, batches, scores)
      : this.meanRun(batches.reduce((sum, batch) => sum + batch.targetTokens, 0));
    await this.sum.run(taught.length, this.pending, (index) => {
      const i = taught[index]!;
      return run(batches[i]!, this.passes + i, this.slots.at(i));
    });
    await this.slots.share(this.collective, batches.length, taught);
    this.metrics = await this.scored?.means(scores);
    this.pending = true;
    this.passes += batches.length;
  }

  private makeOptimizer(): Optimizer {
    const { backend, parameters, recipe, options, collective } = this;
    const constants = { ...optimizerDefaults(recipe.optimizer), ...given(recipe) };
    const make = optimizers[recipe.optimizer];
    const exchange = options.shardOptimizer ? collective.flat?.(parameters.data.shape[0]!) : undefined;
    if (!exchange) return make(backend, parameters, constants, options.stateMemory);
    if (make.wholeParameters) {
      throw new UserError(
        `--shard-optimizer does not go with --optimizer ${recipe.optimizer}, whose state is laid out by whole parameters; use adamw, or leave out --shard-optimizer`,
      );
    }
    return sharded(backend, parameters, { collective, exchange }, (own) =>
      make(backend, own, constants, options.stateMemory),
    );
  }

  /** Adds one micro-batch's gradient of mean cross-entropy, and writes the sum of its losses to `out`. */
  private meanRun(targetTokens: number): MicroBatchPass {
    return (batch, pass, out) => {
      const { decoder, backend, checkpointing } = this;
      const uploaded = new DeviceBatch(decoder, batch, this.noiseOf(pass));
      using tape = new Tape(backend);
      const context = { training: true, seed: this.recipe.seed, pass };
      const hidden = decoder.forward(tape, uploaded.tokens, { context, checkpointing });
      const target = {
        rows: uploaded.rows,
        targets: uploaded.targets,
        gradScale: 1 / targetTokens,
        chunkBytes: this.logitsChunkBytes,
      };
      const losses = decoder.loss(tape, hidden, target, context);
      tape.run([losses]);
      backend.sum({ x: losses.data, out });
      tape.backward();
      uploaded.free();
    };
  }

  /** The same of an objective that scores completions; `scores` takes what it says of each. */
  private scoredRun(scored: ScoredPasses, batches: readonly Batch[], scores: Score[]): MicroBatchPass {
    const score = scored.scoring.begin(batches);
    return async (batch, pass, out) => {
      const context = { training: true, seed: this.recipe.seed, pass };
      const { checkpointing } = this;
      scores.push(await scored.train(batch, score, { context, checkpointing }, out));
    };
  }

  private resultOf(
    batches: readonly Batch[],
    sums: readonly number[],
    metrics: GradientResult["metrics"],
  ): GradientResult {
    const result = gradientResult(batches, sums);
    if (!this.scored) return result;
    return {
      ...result,
      loss: sums.reduce((a, b) => a + b, 0),
      losses: sums,
      ...(metrics ? { metrics } : {}),
    };
  }

  /** What NEFTune adds to a micro-batch's embeddings. */
  private noiseOf(pass: number): NoiseOptions | undefined {
    const { neftuneAlpha: alpha, seed } = this.recipe;
    return alpha === undefined ? undefined : { alpha, seed, pass };
  }
}

/** Indices of the micro-batches that have a target: only these have a gradient. */
function withTargets(batches: readonly Batch[]): number[] {
  return batches.flatMap((batch, i) => (batch.targetTokens > 0 ? [i] : []));
}

function gradientResult(batches: readonly Batch[], sums: readonly number[]): GradientResult {
  const targetTokens = batches.reduce((sum, batch) => sum + batch.targetTokens, 0);
  return {
    loss: targetTokens > 0 ? sums.reduce((a, b) => a + b, 0) / targetTokens : 0,
    targetTokens,
    tokens: batches.reduce((sum, batch) => sum + batch.ids.length, 0),
    losses: sums.map((sum, i) => (batches[i]!.targetTokens > 0 ? sum / batches[i]!.targetTokens : 0)),
  };
}

/** The optimizer's constants among a recipe's properties, those left out left out. */
function given(recipe: SessionRecipe): Partial<OptimizerOptions> {
  const names = Object.keys(defaultOptimizerOptions) as (keyof OptimizerOptions)[];
  return Object.fromEntries(
    names.filter((name) => recipe[name] !== undefined).map((name) => [name, recipe[name]]),
  );
}
