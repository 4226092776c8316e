// A run's course of the learning rate: ratios as transformers rounds them, floors in either form, and what a longer run
// is told.

import { describe, expect, test } from "vitest";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { learningRateAt, scheduleOf } from "../../src/train/learning-rate.ts";
import { longerRunEvent } from "../../src/train/longer-run.ts";

const optionsOf = (given: object) =>
  resolveOptions(trainDefinition, { model: "m", data: "d", out: "o", learningRate: 1e-3, ...given });

describe("ratios become steps", () => {
  test("warm-up is rounded up, as TrainingArguments does", () => {
    expect(scheduleOf(optionsOf({ warmupRatio: 0.03 }), 101).warmupSteps).toBe(4);
    expect(scheduleOf(optionsOf({ warmupRatio: 0 }), 101).warmupSteps).toBe(0);
    expect(scheduleOf(optionsOf({ warmupSteps: 7 }), 101).warmupSteps).toBe(7);
  });

  test("an absolute floor is that learning rate", () => {
    const options = optionsOf({ schedule: "cosine", minLearningRate: 2e-4 });
    expect(learningRateAt(options, 10, 11)).toBeCloseTo(2e-4, 12);
    expect(scheduleOf(optionsOf({ schedule: "cosine", minLearningRateRatio: 0.2 }), 10).floor).toBe(0.2);
  });

  test("wsd decays in the last tenth unless told", () => {
    expect(scheduleOf(optionsOf({ schedule: "wsd" }), 95).decaySteps).toBe(10);
    expect(scheduleOf(optionsOf({ schedule: "wsd", decayRatio: 0.2 }), 95).decaySteps).toBe(19);
    expect(scheduleOf(optionsOf({ schedule: "wsd", decaySteps: 3 }), 95).decaySteps).toBe(3);
    const long = optionsOf({ schedule: "wsd", decaySteps: 30, warmupSteps: 3 });
    expect(() => scheduleOf(long, 32)).toThrow(
      /3 steps of warm-up and 30 of decay are more than the run's 32/,
    );
  });
});

test("courses refuse what they have no use for", () => {
  expect(() => optionsOf({ schedule: "cosine", decaySteps: 3 })).toThrow(
    /--decay-steps is of --schedule wsd/,
  );
  expect(() => optionsOf({ schedule: "constant", minLearningRate: 1e-5 })).toThrow(
    /needs a --schedule that falls/,
  );
  expect(() => optionsOf({ schedule: "cosine", minLearningRate: 1e-2 })).toThrow(
    /is above the learning rate, 0.001/,
  );
  expect(() => optionsOf({ warmupRatio: 0.1, warmupSteps: 3 })).toThrow(/exclude each other/);
  expect(() => optionsOf({ batchTokens: 100, gradientAccumulation: 3 })).toThrow(/exclude each other/);
});

describe("a longer run", () => {
  const told = (given: object, done: number) =>
    longerRunEvent(optionsOf(given), { done, before: 100, now: 200 });

  test("is the one never stopped where no rate so far differs", () => {
    expect(told({ schedule: "constant" }, 100).type).toBe("info");
    expect(told({ schedule: "wsd" }, 90).type).toBe("info");
  });

  test("is another where one does", () => {
    expect(told({ schedule: "wsd" }, 95).type).toBe("warning");
    expect(told({ schedule: "cosine" }, 50).type).toBe("warning");
    // The longer run would still be warming up.
    expect(told({ schedule: "constant", warmupRatio: 0.1 }, 15).type).toBe("warning");
  });
});
