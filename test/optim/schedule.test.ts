// Schedules against transformers (goldens: tools/golden/optim.py).

import { describe, expect, test } from "vitest";
import { scheduleFactor, scheduleNames } from "../../src/optim/schedule.ts";
import { readGolden } from "../golden/load-golden.ts";

interface Golden {
  cases: Record<string, { warmupSteps: number; totalSteps: number; factors: number[] }[]>;
}
const golden = readGolden<Golden>("optim/schedules.json");

describe.each(scheduleNames)("%s", (name) => {
  test.each(golden.cases[name]!)("$warmupSteps of $totalSteps steps warm up", (row) => {
    for (const [done, expected] of row.factors.entries()) {
      expect(scheduleFactor({ name, ...row }, done + 1)).toBeCloseTo(expected, 11);
    }
  });

  test("stays in [0, 1], past the last step too", () => {
    for (let warmupSteps = 0; warmupSteps < 5; warmupSteps++) {
      for (let step = 1; step < 20; step++) {
        const factor = scheduleFactor({ name, warmupSteps, totalSteps: 9 }, step);
        expect(factor).toBeGreaterThanOrEqual(0);
        expect(factor).toBeLessThanOrEqual(1);
      }
    }
  });
});
