// When a run saves, and what a failing disk means for it: checkpoints that were asked for, those by the clock, and the
// one at the end. Rank 0 alone writes, and all ranks decide alike. Not here: what a checkpoint is (checkpoint.ts).

import { gatherNumbers } from "../distributed/collective.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { RewardError } from "../rollouts/rewards.node.ts";
import { UserError } from "../util/errors.ts";
import { type RunState, SaveProblem, saveCheckpoint } from "./checkpoint.ts";
import type { StopSignal } from "./engine.ts";
import type { Metrics } from "./metrics-log.ts";
import { requireSameParameters, saveOnRanks } from "./ranks.ts";
import type { RunParts } from "./run-parts.ts";
import { neededSteps } from "./run-result.ts";
import { saveResult } from "./save-result.ts";

export class RunSaves {
  /** The newest checkpoint, where there is one. */
  newest: string | undefined;
  private savedAt = performance.now();

  constructor(private readonly parts: RunParts) {}

  /** The run's steps begin, on from a checkpoint or not. */
  begin(checkpoint: string | undefined): void {
    this.newest = checkpoint;
    this.savedAt = performance.now();
  }

  /** What any rank's wish to stop or to end and rank 0's clock come to, the same on all ranks. */
  async agree(wish: StopSignal): Promise<{ interrupted: boolean; ended: boolean; clockIsDue: boolean }> {
    const mine = [wish.interrupted ? 1 : 0, this.clockIsDue() ? 1 : 0, wish.ended ? 1 : 0];
    const everyone = await gatherNumbers(this.parts.collective, mine);
    return {
      interrupted: everyone.some(([interrupted]) => interrupted === 1),
      ended: everyone.some(([, , ended]) => ended === 1),
      clockIsDue: everyone[0]![1] === 1,
    };
  }

  private clockIsDue(): boolean {
    const { saveMinutes } = this.parts.options;
    return saveMinutes > 0 && performance.now() - this.savedAt >= 60_000 * saveMinutes;
  }

  /** By the clock, or at the end for a longer run to go on from. That the disk has no room for it ends no run. */
  async saveUnasked(log: Metrics, state: RunState, byClock: boolean): Promise<void> {
    const marked = byClock ? { ...state, byClock } : state;
    const { error } = await this.trySave(log, marked, (problem) => problem instanceof SaveProblem);
    if (error instanceof SaveProblem)
      this.parts.warn(`no checkpoint of step ${state.step} (${error.reason}); the run goes on without it`);
  }

  /** Returns the checkpoint's path; throws what keeps it from being written. */
  async save(log: Metrics, state: RunState): Promise<string> {
    return (await this.trySave(log, state, () => false)).saved!;
  }

  /** A reward that fails may be a server that was away: what is there by then is saved, and the error says so. */
  async savedBefore(error: unknown, log: Metrics, state: RunState): Promise<unknown> {
    if (!(error instanceof RewardError) || state.step === 0) return error;
    const { saved } = await this.trySave(log, state, () => true);
    if (saved === undefined) return error;
    return new UserError(
      `${error.message}. The ${state.step} steps before are saved in ${saved}; the same command with --resume goes on from there`,
    );
  }

  private async trySave(
    log: Metrics,
    state: RunState,
    mayFail: (error: unknown) => boolean,
  ): Promise<{ readonly saved?: string; readonly error?: unknown }> {
    await log.sync();
    const { options, trainable, backend, collective, session, emit } = this.parts;
    const { parameters } = trainable;
    await requireSameParameters(collective, backend, parameters.data, state.step);
    const whole = { ...state, metricsBytes: log.sizeBytes };
    const kept = { keep: options.keep, needed: neededSteps(options, state) };
    const adapterToo = async (folder: string) => {
      if (trainable.adapter) await saveResult(trainable, folder);
    };
    const save = (optimizer: Pick<Optimizer, "state">) =>
      saveCheckpoint(options.out, backend, parameters, optimizer, whole, kept, adapterToo);
    const result = await saveOnRanks(collective, session.optimizer, save, mayFail);
    this.savedAt = performance.now();
    const path = result.saved;
    if (path !== undefined) {
      this.newest = path;
      emit({ type: "checkpoint", step: state.step, path });
    }
    return result;
  }
}
