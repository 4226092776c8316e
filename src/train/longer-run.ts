// A run that goes on beyond the steps it was started with: what that means for its learning rate. With a constant
// schedule the longer run is the one that was never stopped; a schedule that ends with the run now ends later, so its
// rate rises again, and the result is another than that of a long run from the start. Which steps may grow at all:
// run-identity.ts.

import type { TrainOptions } from "../config/train-options.ts";
import { scheduleFactor } from "../optim/schedule.ts";
import type { TrainEvent } from "./events.ts";

/** The event that tells of a run of `before` steps, `done` of them made, that now has `now`. */
export function longerRunEvent(
  options: Pick<TrainOptions, "schedule" | "warmupSteps" | "learningRate">,
  { done, before, now }: { readonly done: number; readonly before: number; readonly now: number },
): TrainEvent {
  const { schedule: name, warmupSteps } = options;
  if (name === "constant") {
    return {
      type: "info",
      message: `the run had ${before} steps and now has ${now}; the learning rate is constant, so this is the run that ${now} steps from the start would have been`,
    };
  }
  const rate = (totalSteps: number, step: number) =>
    (options.learningRate * scheduleFactor({ name, warmupSteps, totalSteps }, step)).toPrecision(3);
  return {
    type: "warning",
    message: `the run had ${before} steps and now has ${now}: its ${name} schedule now ends at step ${now}, so the learning rate goes on at ${rate(now, done + 1)} after ${rate(before, Math.max(1, done))}, and the result will differ from ${now} steps from the start. Runs with --schedule constant can be made longer without a difference`,
  };
}
