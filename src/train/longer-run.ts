// A run that goes on beyond the steps it was started with: what that means for its learning rate. Where every step made
// had the rate that the longer run has there too (a constant rate, or wsd's before its decay), the longer run is the one
// that was never stopped; a schedule that ends with the run now ends later, so its rate rises again, and the result is
// another than that of a long run from the start. Which steps may grow at all: run-identity.ts.

import type { TrainEvent } from "./events.ts";
import { learningRateAt, type ScheduleOptions } from "./learning-rate.ts";

/** The event that tells of a run of `before` steps, `done` of them made, that now has `now`. */
export function longerRunEvent(
  options: ScheduleOptions,
  { done, before, now }: { readonly done: number; readonly before: number; readonly now: number },
): TrainEvent {
  const { schedule: name } = options;
  const rate = (totalSteps: number, step: number) => learningRateAt(options, totalSteps, step);
  let same = true;
  for (let step = 1; step <= done && same; step++) same = rate(before, step) === rate(now, step);
  if (same) {
    const why =
      name === "constant"
        ? "the learning rate is constant"
        : `no step made so far has a learning rate that the ${name} schedule of ${now} steps has not`;
    return {
      type: "info",
      message: `the run had ${before} steps and now has ${now}; ${why}, so this is the run that ${now} steps from the start would have been`,
    };
  }
  const told = (totalSteps: number, step: number) => rate(totalSteps, step).toPrecision(3);
  return {
    type: "warning",
    message: `the run had ${before} steps and now has ${now}: its ${name} schedule now ends at step ${now}, so the learning rate goes on at ${told(now, done + 1)} after ${told(before, Math.max(1, done))}, and the result will differ from ${now} steps from the start. Runs with --schedule constant can be made longer without a difference, and those with wsd before their decay`,
  };
}
