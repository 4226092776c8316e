// Schedules against transformers (goldens: tools/golden/optim.py).

import { describe, expect, test } from "vitest";
import { type Schedule, scheduleFactor, scheduleNames } from "../../src/optim/schedule.ts";
import { readGolden } from "../golden/load-golden.ts";

type Row = Omit<Schedule, "name"> & { factors: number[] };

interface Golden {
  cases: Record<string, Row[]>;
  floors: (Row & Pick<Schedule, "name">)[];
}
const golden = readGolden<Golden>("optim/schedules.json");
const plain = scheduleNames.filter((name) => name !== "wsd");

describe.each(plain)("%s", (name) => {
  test.each(golden.cases[name]!)("$warmupSteps of $totalSteps steps warm up", (row) => {
    for (const [done, expected] of row.factors.entries()) {
      expect(scheduleFactor({ name, ...row }, done + 1)).toBeCloseTo(expected, 11);
    }
  });
});

test("courses with a floor and wsd are transformers'", () => {
  expect(golden.floors.length).toBeGreaterThan(40);
  for (const row of golden.floors) {
    for (const [done, expected] of row.factors.entries()) {
      expect(scheduleFactor(row, done + 1), `${JSON.stringify(row)}, update ${done}`).toBeCloseTo(
        expected,
        11,
      );
    }
  }
});

test.each(scheduleNames)("%s stays between its floor and 1 after warm-up, past the last step too", (name) => {
  for (const floor of [0, 0.3]) {
    for (let warmupSteps = 0; warmupSteps < 5; warmupSteps++) {
      for (let step = 1; step < 20; step++) {
        const schedule: Schedule = { name, warmupSteps, totalSteps: 9, floor, decaySteps: 3 };
        const factor = scheduleFactor(schedule, step);
        expect(factor).toBeGreaterThanOrEqual(step > warmupSteps ? floor : 0);
        expect(factor).toBeLessThanOrEqual(1);
      }
    }
  }
});
