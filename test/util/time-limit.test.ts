// A computation that does not come to its end is ended; any other is as if nothing stood around it.

import { describe, expect, it } from "vitest";
import { TimeLimitError, withinTime } from "../../src/util/time-limit.ts";

/** Stands for what loops without end in other people's code. */
function endless(): never {
  for (;;);
}

describe("withinTime", () => {
  it("ends what does not end, wherever it is caught", () => {
    expect(() => withinTime(50, endless)).toThrow(TimeLimitError);
    const swallowing = () => {
      try {
        endless();
      } catch {
        return "caught";
      }
    };
    expect(() => withinTime(50, swallowing)).toThrow("took longer than 0.05 s");
  });

  it("gives back results and errors", () => {
    expect(withinTime(10_000, () => ({ a: [1] }))).toEqual({ a: [1] });
    const mine = new RangeError("mine");
    expect(() =>
      withinTime(10_000, () => {
        throw mine;
      }),
    ).toThrow(mine);
  });

  it("stands within itself", () => {
    const inner = () => {
      expect(withinTime(10_000, () => 1)).toBe(1);
      expect(() => withinTime(50, endless)).toThrow(TimeLimitError);
      return withinTime(10_000, () => 2);
    };
    expect(withinTime(60_000, inner)).toBe(2);
  });
});
