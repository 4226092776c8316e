// The course of the learning rate: warm-up from 0, then constant, linear decay to 0, or half a cosine wave to 0. Values
// are those of transformers' get_*_schedule_with_warmup. A pure function of the step: nothing to checkpoint.
// Mind that with a warm-up the first update therefore has learning rate 0.

export const scheduleNames = ["constant", "linear", "cosine"] as const;

export type ScheduleName = (typeof scheduleNames)[number];

export interface Schedule {
  readonly name: ScheduleName;
  readonly warmupSteps: number;
  /** Optimizer steps of the whole run, warm-up included. */
  readonly totalSteps: number;
}

/** What the learning rate is multiplied by at optimizer step `step`, 1 for the first; between 0 and 1. */
export function scheduleFactor({ name, warmupSteps, totalSteps }: Schedule, step: number): number {
  const done = step - 1;
  if (done < warmupSteps) return done / warmupSteps;
  if (name === "constant") return 1;
  const progress = (done - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  if (progress >= 1) return 0;
  return name === "linear" ? 1 - progress : (1 + Math.cos(Math.PI * progress)) / 2;
}
