// The process that looks at models for the page: one task at a time, ended when it takes too long, never more waiting than
// it should, and there again for the next. What it finds is looked at in steer-runs.test.ts.

import { existsSync } from "node:fs";
import { afterEach, expect, it } from "vitest";
import { requireRoom } from "../../src/ui/open-run.ts";

const built = new URL("../../dist/ui/analyst.js", import.meta.url);
if (!existsSync(built)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { Analyst, LateError } = (await import(built.href)) as typeof import("../../src/ui/analyst.ts");

const limits = { taskMs: 60_000, idleMs: 60_000, heapMB: 512, mostWaiting: 3 };
const opened: InstanceType<typeof Analyst>[] = [];
const open = (more: Partial<typeof limits> = {}) => {
  opened.push(new Analyst({ ...limits, ...more }));
  return opened.at(-1)!;
};
afterEach(() => {
  for (const one of opened.splice(0)) one.close();
});
const signal = new AbortController().signal;
const plan = (values: object = { model: "tiny", sequenceLength: 8, batchSize: 1 }) =>
  ({ values: values as Record<string, unknown> }) as const;

it("answers what is asked, errors as what they are, and refuses what it has no room for", async () => {
  const analyst = open();
  const gone = AbortSignal.abort();
  const asked = [
    analyst.ask("plan", plan(), signal),
    analyst.ask("plan", plan({ model: "tiny", rank: 0 }), signal),
    analyst.ask("plan", plan(), gone),
    analyst.ask("plan", plan(), signal),
  ] as const;
  const [first, second, third, fourth] = await Promise.allSettled(asked);
  expect(first).toMatchObject({ value: { model: { modelType: "llama" }, sequenceLength: 8 } });
  expect(second).toMatchObject({ reason: { name: "RequestError", status: 400, param: "rank" } });
  expect(third).toMatchObject({ reason: { message: expect.stringContaining("given up") } });
  expect(fourth).toMatchObject({ reason: { status: 429 } });
});

it("ends a task that takes too long, and goes on with the next", async () => {
  const analyst = open({ taskMs: 1 });
  await expect(analyst.ask("plan", plan(), signal)).rejects.toBeInstanceOf(LateError);
  await expect(analyst.ask("plan", plan(), signal)).rejects.toThrow(/longer than/);
  analyst.close();
  await expect(analyst.ask("plan", plan(), signal)).rejects.toMatchObject({ status: 503 });
});

it("takes no memory that others need", () => {
  requireRoom(7.9e9, 10e9);
  expect(() => requireRoom(8.1e9, 10e9)).toThrow(/memory is short: .*8\.1 GB.*10\.0 GB/);
});
