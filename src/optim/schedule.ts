// The course of the learning rate: warm-up, then constant, a decay (linear, or half a cosine wave) to a floor, or long
// stable and then a decay (WSD: Hu et al. 2024, "MiniCPM"). Values are those of transformers' get_scheduler: constant_with_warmup,
// linear and polynomial of power 1, cosine and cosine_with_min_lr, warmup_stable_decay. A pure function of the step:
// nothing to checkpoint. Mind that with a warm-up the first update has learning rate 0, but for WSD's, which begins at the floor.

export const scheduleNames = ["constant", "linear", "cosine", "wsd"] as const;

export type ScheduleName = (typeof scheduleNames)[number];

export const decayShapes = ["cosine", "linear", "1-sqrt"] as const;

export type DecayShape = (typeof decayShapes)[number];

export interface Schedule {
  readonly name: ScheduleName;
  readonly warmupSteps: number;
  /** Optimizer steps of the whole run, warm-up included. */
  readonly totalSteps: number;
  /** What the decay ends at, as a part of the highest rate, 0 to 1; 0 when absent. */
  readonly floor?: number;
  /** Of wsd: the last steps, in which the rate falls. */
  readonly decaySteps?: number;
  /** Of wsd; cosine when absent. */
  readonly decayShape?: DecayShape;
}

/** What the learning rate is multiplied by at optimizer step `step`, 1 for the first; between 0 and 1. */
export function scheduleFactor(schedule: Schedule, step: number): number {
  const { name, warmupSteps, totalSteps, floor = 0 } = schedule;
  const done = step - 1;
  if (name === "wsd") return stableDecayFactor(schedule, done);
  if (done < warmupSteps) return done / warmupSteps;
  if (name === "constant") return 1;
  const progress = (done - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  if (progress >= 1) return floor;
  return above(floor, name === "linear" ? 1 - progress : (1 + Math.cos(Math.PI * progress)) / 2);
}

function stableDecayFactor(
  { warmupSteps, totalSteps, floor = 0, decaySteps = 0, decayShape = "cosine" }: Schedule,
  done: number,
): number {
  if (done < warmupSteps) return above(floor, done / warmupSteps);
  const progress = (done - (totalSteps - decaySteps)) / Math.max(1, decaySteps);
  if (progress < 0) return 1;
  if (progress >= 1) return floor;
  if (decayShape === "linear") return above(floor, 1 - progress);
  if (decayShape === "1-sqrt") return above(floor, 1 - Math.sqrt(progress));
  return above(floor, (1 + Math.cos(Math.PI * progress)) / 2);
}

function above(floor: number, factor: number): number {
  return factor * (1 - floor) + floor;
}
