// metrics.jsonl as the page's server reads it: joined for a plot, followed as it grows, taken back when a resumed run
// does so, and held within bounds whoever wrote it.

import { appendFileSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { MetricColumns } from "../../src/ui/metric-columns.ts";
import { endsOf, readEnds } from "../../src/ui/metrics-ends.ts";
import { MetricsTail } from "../../src/ui/metrics-tail.ts";
import { stepLine, stepLines } from "./made-runs.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-ui-metrics-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("columns", () => {
  it("are joined to as many points as asked, extremes beside the mean", () => {
    const columns = new MetricColumns();
    for (let step = 1; step <= 1000; step++)
      columns.add(step, { loss: step === 500 ? 99 : 1, gradNorm: step });
    const { steps, stepsPerPoint, table } = columns.between(1, 1000, 100);
    expect([steps, stepsPerPoint, table.step.length]).toEqual([1000, 10, 100]);
    expect(table.step.slice(0, 3)).toEqual([10, 20, 30]);
    const { loss, gradNorm } = table.series;
    expect(loss?.max?.[49]).toBe(99);
    expect(loss?.mean[49]).toBeCloseTo(10.8, 6);
    expect(loss?.max?.filter((value) => value === 99)).toHaveLength(1);
    expect([gradNorm?.min?.[0], gradNorm?.mean[0], gradNorm?.max?.[0]]).toEqual([1, 5.5, 10]);
  });

  it("stand as they are where there is room for all, and only of the steps asked for", () => {
    const columns = new MetricColumns();
    for (let step = 1; step <= 50; step++) columns.add(step, { loss: step / 10 });
    const { stepsPerPoint, table } = columns.between(11, 20, 100);
    expect(stepsPerPoint).toBe(1);
    expect(table.step).toEqual([11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
    expect(table.series.loss).toEqual({ mean: [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2] });
    expect(columns.between(60, 70, 10).table).toEqual({ step: [], series: {} });
  });

  it("have gaps where lines lack a number, and no more names than a line can have", () => {
    const columns = new MetricColumns();
    columns.add(1, { loss: 1 });
    columns.add(2, { loss: null, reward: 3, note: "text", nested: { loss: 7 } });
    for (let i = 0; i < 500; i++) columns.add(3 + i, { [`name${i}`]: i });
    const { series } = columns.rows(0);
    expect(series.loss?.mean.slice(0, 3)).toEqual([1, null, null]);
    expect(series.reward?.mean.slice(0, 3)).toEqual([null, 3, null]);
    expect(Object.keys(series)).toHaveLength(64);
    expect(series).not.toHaveProperty("note");
    expect(series).not.toHaveProperty("nested");
  });
});

describe("the file", () => {
  it("is read on line by line as it grows, a part of a line when the rest has come", async () => {
    const path = join(folder, "grows.jsonl");
    const tail = new MetricsTail(path);
    expect(await tail.read()).toBeUndefined();
    writeFileSync(path, stepLines(1, 3));
    expect(await tail.read()).toMatchObject({ known: { train: 0 } });
    const next = stepLine(4);
    appendFileSync(path, next.slice(0, 20));
    expect(await tail.read()).toBeUndefined();
    appendFileSync(
      path,
      `${next.slice(20)}${JSON.stringify({ type: "eval", step: 4, loss: 2, best: true })}\n`,
    );
    expect(await tail.read()).toEqual({ known: { train: 3, eval: 0, forget: 0 } });
    expect(tail.rows.train.length).toBe(4);
    expect(tail.rows.best).toEqual([4]);
    expect(tail.rows.badLines).toBe(0);
  });

  it("taken back to an earlier step tells to where, and what is new after it", async () => {
    const path = join(folder, "rewound.jsonl");
    const head = stepLines(1, 10);
    writeFileSync(path, head + stepLines(11, 20));
    const tail = new MetricsTail(path);
    await tail.read();
    // A resumed run cuts the file, and writes on with other times: longer than before when it is looked at again.
    truncateSync(path, head.length);
    appendFileSync(path, stepLines(11, 30, 0.5));
    const news = await tail.read();
    expect(news).toEqual({ known: { train: 10, eval: 0, forget: 0 }, rewoundTo: 10 });
    expect(tail.rows.train.length).toBe(30);
    expect(tail.rows.train.valueAt("loss", 10)).toBeCloseTo(1 / 11 + 0.5, 12);

    truncateSync(path, head.length);
    expect(await tail.read()).toMatchObject({ rewoundTo: 10 });
    expect(tail.rows.train.lastStep()).toBe(10);
  });

  it("cut back to the same lines takes nothing back that is still true", async () => {
    const path = join(folder, "same.jsonl");
    writeFileSync(path, stepLines(1, 20));
    const tail = new MetricsTail(path);
    await tail.read();
    truncateSync(path, stepLines(1, 10).length);
    appendFileSync(path, stepLines(11, 25));
    expect(await tail.read()).toMatchObject({ known: { train: 20 } });
    expect(tail.rows.train.length).toBe(25);
  });

  it("of a stranger: what is no line of ours is counted and left out, and a line without end is not held", async () => {
    const path = join(folder, "strange.jsonl");
    const long = JSON.stringify({ type: "train", step: 3, note: "x".repeat(2 ** 21) });
    const strange = [
      "nonsense",
      '{"type":"train","step":-1e999}',
      '{"type":"other","step":2}',
      "[1]",
      "null",
      long,
    ];
    writeFileSync(path, `${stepLine(1)}${strange.join("\n")}\n${stepLine(2)}${stepLine(1)}`);
    const tail = new MetricsTail(path);
    await tail.read();
    // The step that goes back is none of this file's order.
    expect(tail.rows.train.length).toBe(2);
    expect(tail.rows.badLines).toBe(strange.length + 1);
    appendFileSync(path, "y".repeat(2 ** 21));
    await tail.read();
    appendFileSync(path, `y\n${stepLine(5)}`);
    await tail.read();
    expect(tail.rows.train.lastStep()).toBe(5);
  });

  it("is not followed by a link", async () => {
    writeFileSync(join(folder, "elsewhere"), stepLines(1, 5));
    symlinkSync(join(folder, "elsewhere"), join(folder, "link.jsonl"));
    const tail = new MetricsTail(join(folder, "link.jsonl"));
    expect(await tail.read()).toBeUndefined();
    expect(tail.rows.train.length).toBe(0);
    expect(await readEnds(join(folder, "link.jsonl"))).toBeUndefined();
  });

  it("has its first and last numbers told without being read", async () => {
    const path = join(folder, "ends.jsonl");
    writeFileSync(
      path,
      `${stepLines(1, 3000) + JSON.stringify({ type: "eval", step: 3000, loss: 0.25 })}\n{`,
    );
    expect(await readEnds(path)).toMatchObject({ step: 3000, firstLoss: 1, loss: 1 / 3000, evalLoss: 0.25 });
  });

  it("that is held has the same ends as one that is not", async () => {
    const path = join(folder, "held.jsonl");
    writeFileSync(path, `${stepLines(1, 40)}${JSON.stringify({ type: "eval", step: 40, loss: 0.5 })}\n`);
    const tail = new MetricsTail(path);
    await tail.read();
    expect(endsOf(tail.rows)).toEqual(await readEnds(path));
    expect(endsOf(new MetricsTail(path).rows)).toMatchObject({ step: 0, loss: undefined });
  });

  it("of twenty runs of 5,000 steps takes few bytes, held and told", async () => {
    let held = 0;
    let told = 0;
    for (let run = 0; run < 20; run++) {
      const path = join(folder, `run-${run}.jsonl`);
      writeFileSync(path, stepLines(1, 5000, run));
      const tail = new MetricsTail(path);
      await tail.read();
      expect(tail.rows.train.length).toBe(5000);
      held += tail.sizeBytes;
      told += JSON.stringify(tail.rows.train.between(1, 5000, 500).table).length;
    }
    expect(held).toBeLessThan(12e6);
    expect(told).toBeLessThan(3e6);
  });
});
