// The arithmetic of several ranks: bytes, what hides behind computing, and rates as users write them.

import { expect, it } from "vitest";
import type { MethodPlan } from "../../src/plan/memory-plan.ts";
import { networkRate, networkShare, ranksTable } from "../../src/plan/ranks.ts";

const method = {
  trainableParameters: 20_000_000,
  variants: [{ checkpointing: true, peakBytes: 1e9, ledger: { atPeak: { optimizer: 160e6 } } }],
} as unknown as MethodPlan;
const estimate = { flopsPerToken: 1, tokensPerSecond: 1000, rate: "stated", assumptions: [] };
const work = { ranks: 8, networkBytesPerSecond: 1.25e9, microBatches: 8, tokensPerMicroBatch: 2048 };

it("counts a gradient for each micro-batch and one for the sum, less the own slice", () => {
  const row = ranksTable(method, estimate, work).find(({ ranks }) => ranks === 8)!;
  expect(row.bytesPerStep).toBe(9 * 80e6 * (7 / 8));
  const exchange = (80e6 * 7) / 8 / (networkShare * 1.25e9) + 7 * 30e-6;
  expect(row.exchangeSeconds).toBeCloseTo(exchange, 12);
  // 2.048 s of computing hide every exchange but the last and the sharing.
  expect(row.stepSeconds).toBeCloseTo(8 * 2.048 + 2 * exchange, 12);
  expect(row.efficiency).toBeGreaterThan(0.99);
  expect(row.memoryBytes - row.shardedMemoryBytes).toBeCloseTo(140e6);
});

it("names what gives way first", () => {
  const slow = ranksTable(method, estimate, { ...work, networkBytesPerSecond: 1e6, microBatches: 1 });
  expect(slow.find(({ ranks }) => ranks === 2)!.breaksFirst).toBe("network");
  const many = ranksTable(method, estimate, work).find(({ ranks }) => ranks === 1024)!;
  expect(many.breaksFirst).toBe("slices");
  const little = ranksTable(method, estimate, { ...work, tokens: 1e6 });
  expect(little.find(({ ranks }) => ranks === 8)!.breaksFirst).toBe("data");
});

it("says of memory and bytes without a network", () => {
  const row = ranksTable(method, estimate, { ...work, networkBytesPerSecond: undefined }).at(-1)!;
  expect(row).toMatchObject({ ranks: 1024, exchangeSeconds: undefined, efficiency: undefined });
  expect(row.bytesPerStep).toBeGreaterThan(0);
});

it("reads rates", () => {
  expect(networkRate("10Gbit")).toBe(1.25e9);
  expect(networkRate("100 Mbit/s")).toBe(12.5e6);
  expect(networkRate("1.5GB/s")).toBe(1.5e9);
  for (const text of ["fast", "10", "-1Gbit", "0Gbit", "10 GiB"])
    expect(() => networkRate(text)).toThrow(/--network: expected a rate/);
});
