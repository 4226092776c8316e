// THE MAIN PATH of training; read first. Opens the device, loads the model (setup.ts), attaches what trains, turns
// rows into samples and these into steps (run-steps.ts), then makes these (session/session.ts), evaluates
// (run-evaluation.ts), saves (run-saves.ts) and ends with a PEFT adapter or a model folder (save-result.ts). Runs on a
// worker thread (worker.ts); tells what happens through `emit`.

import { join } from "node:path";
import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { BatchCursor } from "../data/batches.ts";
import { refuseRun } from "../data/preflight.ts";
import { broadcastValue, type Collective } from "../distributed/collective.ts";
import { joinRanks } from "../distributed/join.node.ts";
import type { MemoryChoices } from "../memory/fit-memory.ts";
import { stateMemoryOf } from "../memory/state-memory.ts";
import { trainedParts } from "../models/mixture-parts.ts";
import { RewardError } from "../rollouts/rewards.node.ts";
import { defaultLogitsChunkBytes } from "../session/device-batch.ts";
import { Session } from "../session/session.ts";
import { isExhausted, watchRuleOf } from "./best-step.ts";
import { preflightRun } from "./check.ts";
import { type RunState, restoreCheckpoint } from "./checkpoint.ts";
import { divergence } from "./divergence.ts";
import type { RunTraining, StopSignal } from "./engine.ts";
import type { StepEvent, TrainEvent, TrainSummary } from "./events.ts";
import type { Flight } from "./flight.ts";
import { learningRateAt } from "./learning-rate.ts";
import { longerRunEvent } from "./longer-run.ts";
import { type Metrics, MetricsLog, noLog } from "./metrics-log.ts";
import {
  backendOfRank,
  broadcastTensor,
  requireSameOnRanks,
  requireSameParameters,
  restoreOnRanks,
} from "./ranks.ts";
import { chainOfRun, type NotedSources, noteSources } from "./run-chain.ts";
import { RunEvaluation } from "./run-evaluation.ts";
import { flopsPerToken } from "./run-flops.ts";
import { prepareRunFolder } from "./run-folder.ts";
import { identityOf, type RunIdentity, requireSameRun } from "./run-identity.ts";
import { prepareObjective } from "./run-objective.ts";
import type { RunParts } from "./run-parts.ts";
import { lowrankVersion, type RunStatus, writeRunRecord } from "./run-record.ts";
import { averagedSteps, averageSteps, restoreBest } from "./run-result.ts";
import { openRollouts, type RunRollouts } from "./run-rollouts.ts";
import { RunSaves } from "./run-saves.ts";
import { dataEvent, type RunSteps, stepsOf } from "./run-steps.ts";
import { summaryOf } from "./run-summary.ts";
import { saveResult } from "./save-result.ts";
import { openTrainable, type TrainableModel } from "./setup.ts";
import { loadTrainingData, type TrainingData } from "./training-data.ts";

export const runTraining: RunTraining = async (options, emitHere, signal, rewards) => {
  const collective = await joinRanks(options);
  // Rank 0 alone tells what happens.
  const emit = collective.rank === 0 ? emitHere : () => {};
  const warn = (message: string) => emit({ type: "warning", message });
  const tell = (message: string) => emit({ type: "info", message });
  if (collective.size > 1) tell(`one run on ${collective.description}`);
  const resumed = await broadcastValue(
    collective,
    collective.rank === 0 ? await prepareRunFolder(options.out, options.resume, warn) : undefined,
  );
  using backend = await openBackend(options.backend, {
    precision: options.precision,
    ...(await backendOfRank(collective, options, tell, warn)),
  });
  await using trainable = await openTrainable(backend, options, emit);
  emit({
    type: "model",
    architecture: trainable.model.config.modelType,
    device: backend.description,
    trainableParameters: trainable.parameters.count,
    totalParameters:
      trainable.model.loaded.totalParameters + (trainable.adapter ? trainable.parameters.count : 0),
    liveBytes: backend.liveBytes,
  });
  const parts = trainedParts(trainable.model.loaded.decoder, trainable.adapter === undefined);
  if (parts) emit({ type: "info", message: parts });
  const { config, folder, text } = trainable.model;
  for (const message of text.notes) emit({ type: "info", message });
  const noted = collective.rank === 0 ? await noteSources(options, trainable) : undefined;
  const data = await loadTrainingData(text, options, emit);
  const sharedBy = collective.local.size;
  const checked = await preflightRun({ backend, config, folder, text, sharedBy }, options, data, emit);
  refuseRun(checked.findings, options.allow ?? []);
  const run = new Run(collective, backend, options, checked.memory, trainable, data, noted, emit, warn);
  return await run.execute(resumed, signal, rewards);
};

class Run {
  private readonly steps: RunSteps;
  private readonly session: Session;
  private readonly parts: RunParts;
  private readonly saves: RunSaves;
  private rollouts: RunRollouts | undefined;
  /** Known once execute() has looked at the files that the recipe names. */
  private identity: RunIdentity = {};
  private cursor: BatchCursor;
  private state: RunState;
  private startedAt = performance.now();
  private settledAt = this.startedAt;
  private tokensThisTime = 0;
  private averagedSteps: readonly number[] = [];
  /** Whether the run was told to end with the step it was at. */
  private ended = false;

  constructor(
    private readonly collective: Collective,
    private readonly backend: Backend,
    private readonly options: TrainOptions,
    private readonly memory: MemoryChoices,
    private readonly trainable: TrainableModel,
    private readonly data: TrainingData,
    private readonly noted: NotedSources | undefined,
    private readonly emit: (event: TrainEvent) => void,
    private readonly warn: (message: string) => void,
  ) {
    // A schedule that does not fit the run is refused before anything is allocated for it.
    this.steps = stepsOf(options, trainable, data);
    this.cursor = new BatchCursor(this.steps.plan);
    const stateMemory = stateMemoryOf(backend, memory, options.out);
    const { gradientCheckpointing: checkpointing, logitsChunkBytes } = memory;
    const { loaded } = trainable.model;
    const { shardOptimizer } = options;
    this.session = new Session(
      loaded,
      options,
      { stateMemory, checkpointing, logitsChunkBytes, collective, shardOptimizer },
      trainable,
    );
    if (stateMemory.pagedBytes > 0) {
      const [paged, kept] = [stateMemory.pagedBytes, backend.ledger().live.optimizer];
      const message = `paging ${inMegabytes(paged)} of optimizer state to ${stateMemory.place}; ${inMegabytes(kept)} stay in ${backend.paging ? "memory" : "the device's memory"}`;
      emit({ type: "info", message });
    }
    const { session } = this;
    this.parts = { collective, backend, options, trainable, data, session, logitsChunkBytes, emit, warn };
    this.saves = new RunSaves(this.parts);
    this.state = {
      version: 2,
      step: 0,
      passes: 0,
      cursor: this.cursor.state(),
      tokens: 0,
      elapsedMs: 0,
      metricsBytes: 0,
      identity: this.identity,
    };
  }

  async execute(
    resumed: { folder: string; state: RunState } | undefined,
    signal: StopSignal,
    rewards?: Parameters<RunTraining>[3],
  ): Promise<TrainSummary> {
    const { options, trainable, data, saves } = this;
    this.identity = await identityOf(options, trainable, data, this.steps.total);
    this.state = { ...this.state, identity: this.identity };
    await requireSameOnRanks(this.collective, this.backend, lowrankVersion(), this.identity);
    await prepareObjective(this.parts);
    this.rollouts = await openRollouts(this.parts, rewards);
    if (resumed) await this.resume(resumed);
    const log =
      this.collective.rank === 0
        ? await MetricsLog.open(
            join(options.out, "metrics.jsonl"),
            { bytes: this.state.metricsBytes, step: this.state.step },
            options.timing,
            this.warn,
          )
        : noLog;
    let written = false;
    try {
      await this.record("running");
      const evaluation = await RunEvaluation.prepare(this.parts);
      const rule = watchRuleOf(options);
      this.tellData();
      this.startedAt = performance.now();
      saves.begin(resumed?.folder);
      this.state = { ...this.state, ...(await evaluation.begin(this.state, log)) };
      let flight: Flight | undefined;
      while (this.state.step < this.steps.total && !this.ended && !isExhausted(rule, this.state.watched)) {
        // On a device that works by itself a step is on its way before the one before it is heard of.
        const next = await this.start((flight?.step ?? this.state.step) + 1).catch(async (error: unknown) => {
          if (error instanceof RewardError && flight) await this.settle(flight, log);
          throw await this.saves.savedBefore(error, log, this.savedState());
        });
        if (flight) await this.settle(flight, log);
        flight = next;
        const { step } = next;
        const evaluates = options.evalEvery !== undefined && step % options.evalEvery === 0;
        const due = options.saveEvery !== undefined && step % options.saveEvery === 0;
        const { interrupted, ended, clockIsDue } = await saves.agree(signal);
        this.ended = ended;
        const last = ended || step === this.steps.total;
        const stops = last || evaluates || due || interrupted || clockIsDue;
        if (this.backend.runsAhead && !stops) {
          await nextTurn();
          continue;
        }
        await this.settle(flight, log);
        flight = undefined;
        if (last && !evaluates) {
          const watchedBeforeEnd = this.state.watched;
          this.state = { ...this.state, metricsBytesBeforeEnd: log.sizeBytes, watchedBeforeEnd };
        }
        if (last || evaluates) this.state = { ...this.state, ...(await evaluation.after(this.state, log)) };
        const ends = last || isExhausted(rule, this.state.watched);
        const isBest = this.state.watched?.best?.step === step;
        if (due || (isBest && !ends) || (interrupted && !ends)) await saves.save(log, this.savedState());
        else if (ends ? options.saveEnd : clockIsDue) await saves.saveUnasked(log, this.savedState(), !ends);
        if (interrupted && !ends) {
          const summary = this.summary("interrupted");
          await this.record("interrupted", summary);
          return summary;
        }
        await nextTurn();
      }
      const { parameters } = this.trainable;
      const { step, watched } = this.state;
      await requireSameParameters(this.collective, this.backend, parameters.data, step);
      if (watched?.best) await restoreBest(this.parts, watched.best, step);
      await this.average(evaluation, log);
      await log.sync();
      if (this.collective.rank === 0) await saveResult(this.trainable, options.out);
      const summary = this.summary("done");
      await this.record("done", summary);
      written = true;
      this.emit({ type: "done", summary });
      return summary;
    } catch (error) {
      // What has failed may fail again here, and is told by the error itself.
      if (!written) await this.record("failed", undefined, error).catch(() => {});
      throw error;
    } finally {
      await log.close();
      await this.rollouts?.close();
      this.session[Symbol.dispose]();
    }
  }

  /** Makes the mean of the last checkpoints the result, and measures it, where that is asked for. */
  private async average(evaluation: RunEvaluation, log: Metrics): Promise<void> {
    const { parts, state } = this;
    this.averagedSteps = averagedSteps(parts.options, state.step);
    if (this.averagedSteps.length < 2) return;
    await averageSteps(parts, this.averagedSteps);
    await broadcastTensor(parts.collective, parts.trainable.parameters.data, parts.backend);
    this.emit({ type: "info", message: `the result is the mean of steps ${this.averagedSteps.join(", ")}` });
    const event = await evaluation.measure(state.step);
    if (!event) return;
    const own = { ...event, averagedCheckpoints: this.averagedSteps.length };
    this.emit(own);
    await log.append(own);
    this.state = { ...state, evalLoss: own.loss };
  }

  private async resume({ folder, state }: { folder: string; state: RunState }): Promise<void> {
    const before = requireSameRun(state, JSON.parse(JSON.stringify(this.identity)), folder);
    this.cursor = new BatchCursor(this.steps.plan, state.cursor);
    const { backend, collective, session } = this;
    const { parameters } = this.trainable;
    await restoreOnRanks(collective, backend, parameters.data, session.optimizer, () =>
      restoreCheckpoint(folder, backend, parameters, session.optimizer),
    );
    const { metricsBytesBeforeEnd, watchedBeforeEnd, byClock: _, ...rest } = state;
    // What only the end of the shorter run evaluated, or of one that was told to end, is no part of a longer one.
    const longer = state.step < this.steps.total && metricsBytesBeforeEnd !== undefined;
    const metricsBytes = longer ? metricsBytesBeforeEnd : state.metricsBytes;
    const watched = longer ? watchedBeforeEnd : state.watched;
    this.state = { ...rest, version: 2, metricsBytes, watched, identity: this.identity };
    this.session.steps = state.step;
    this.session.passes = state.passes;
    await this.rollouts?.resume(state.round);
    this.emit({ type: "info", message: `continuing from ${folder}` });
    if (before !== undefined)
      this.emit(longerRunEvent(this.options, { done: state.step, before, now: this.steps.total }));
  }

  private tellData(): void {
    this.emit(dataEvent(this.data, this.steps, this.state.step + 1));
    const { gradientCheckpointing, logitsChunkBytes } = this.memory;
    if (gradientCheckpointing)
      this.emit({ type: "info", message: "gradient checkpointing is on: activations are recomputed" });
    if (logitsChunkBytes < defaultLogitsChunkBytes)
      this.emit({ type: "info", message: `logits exist ${inMegabytes(logitsChunkBytes)} at a time` });
  }

  private async start(step: number): Promise<Flight> {
    const { options } = this;
    const startedAt = performance.now();
    const take = () => this.cursor.nextStep(this.steps.accumulation);
    const rolled = await this.rollouts?.next(step, take);
    const samples =
      rolled?.samples ?? take().map((indices) => indices.map((index) => this.data.train.at(index)!));
    const batches = samples.map((micro) => this.session.assemble(micro));
    const learningRate = learningRateAt(options, this.steps.total, step);
    const { maxGradNorm } = options;
    const { numbers } = await this.session.startStep(batches, { learningRate, maxGradNorm });
    const { passes } = this.session;
    const after = { passes, cursor: this.cursor.state(), round: this.rollouts?.stateAfter(step) };
    return { step, batches, learningRate, startedAt, numbers, after, metrics: rolled?.metrics };
  }

  /** Waits for a step's numbers, and tells and notes them. */
  private async settle(flight: Flight, log: Metrics): Promise<void> {
    const { step, batches, learningRate, after } = flight;
    const result = await flight.numbers();
    if (!result.updated) {
      // The update was not applied, so what is saved is the last good state.
      const { step: good } = this.state;
      const folder = good > 0 ? await this.saves.save(log, this.savedState()) : undefined;
      throw divergence(step, result.losses, batches, folder ? { step: good, folder } : undefined);
    }
    const now = performance.now();
    const before = Math.max(flight.startedAt, this.settledAt);
    this.settledAt = now;
    const elapsedMs = this.elapsedMs();
    this.tokensThisTime += result.tokens;
    const event: StepEvent = {
      type: "train",
      step,
      loss: result.loss,
      learningRate,
      gradNorm: result.gradNorm,
      targetTokens: result.targetTokens,
      tokens: result.tokens,
      tokensPerSecond: Math.round((result.tokens / (now - before)) * 1e5) / 100,
      elapsedMs: Math.round(elapsedMs),
      ...flight.metrics,
      ...result.metrics,
    };
    this.emit(event);
    await log.append(event);
    this.state = {
      ...this.state,
      ...after,
      step,
      tokens: this.state.tokens + result.tokens,
      firstLoss: this.state.firstLoss ?? result.loss,
      lastLoss: result.loss,
    };
  }

  /** The state as a checkpoint holds it. */
  private savedState(): RunState {
    return { ...this.state, elapsedMs: this.options.timing ? this.elapsedMs() : 0 };
  }

  private elapsedMs(): number {
    return this.state.elapsedMs + (performance.now() - this.startedAt);
  }

  private async record(status: RunStatus, summary?: TrainSummary, error?: unknown): Promise<void> {
    if (this.collective.rank !== 0) return;
    const { options, identity, noted, warn } = this;
    const chain = status === "done" && noted ? await chainOfRun(options, identity, noted, warn) : undefined;
    await writeRunRecord(options, this.backend, {
      status,
      ...{ identity, chain },
      totalSteps: this.steps.total,
      memory: this.memory,
      data: this.data.report,
      evalData: this.data.evalReport,
      ...{ summary, error },
      flopsPerToken: flopsPerToken(this.parts, this.memory.gradientCheckpointing),
    });
  }

  private summary(status: TrainSummary["status"]): TrainSummary {
    return summaryOf(this.parts, status, this.state, {
      elapsedMs: this.elapsedMs(),
      tokensPerSecond: this.tokensThisTime / ((performance.now() - this.startedAt) / 1000),
      checkpoint: this.saves.newest,
      stoppedEarly: status === "done" && this.state.step < this.steps.total,
      toldToEnd: status === "done" && this.ended && this.state.step < this.steps.total,
      averagedSteps: this.averagedSteps,
    });
  }
}

/** A step's kernels hold this thread; messages get a turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function inMegabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
