// The best run, not the last: which weights a run leaves, what its checkpoints keep, and that a run that was stopped and
// went on makes the same of it. Whole runs of train/run.ts in this process.

import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import type { EvalEvent, ForgetEvent, TrainEvent } from "../../src/train/events.ts";
import { runTraining } from "../../src/train/run.ts";
import {
  backendName,
  filesOf,
  makeRows,
  resultOf,
  scratchFolder,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(24));
const evalData = writeRows(join(folder, "eval.jsonl"), makeRows(32).slice(24));
let runs = 0;

interface Given extends Readonly<Record<string, unknown>> {
  readonly out?: string;
  /** Ask the run to stop once it has told of this step. */
  readonly stopAfter?: number;
}

async function train({ stopAfter, out = join(folder, `run-${++runs}`), ...flags }: Given) {
  const options = resolveOptions(trainDefinition, {
    ...{ model, data, out, backend: backendName, precision: "fp32", rank: 4, batchSize: 4 },
    ...{ learningRate: 3e-2, timing: false, saveMinutes: 0, ...flags },
  });
  const events: TrainEvent[] = [];
  const signal = { interrupted: false };
  const summary = await runTraining(
    options,
    (event) => {
      events.push(event);
      if (event.type === "train" && event.step === stopAfter) signal.interrupted = true;
    },
    signal,
  );
  const evaluations = events.filter((event): event is EvalEvent => event.type === "eval");
  return { out, summary, events, evaluations };
}

const stepsIn = (out: string) =>
  readdirSync(join(out, "checkpoints"))
    .map((name) => Number(name.slice("step-".length)))
    .sort((a, b) => a - b);

async function weightsOf(path: string): Promise<number[]> {
  const { modules } = await readAdapter(path);
  return [...modules.values()].flatMap(({ a, b }) => [...a.values, ...b.values]);
}

const recordOf = (out: string) => JSON.parse(readFileSync(join(out, "run.json"), "utf8"));

/** Falls, and rises again long before the end: the rate is high and the rows are few. */
const watching = {
  evalData,
  evalEvery: 3,
  keepBest: "loss",
  keep: 1,
  saveEvery: 4,
  maxSteps: 36,
  schedule: "constant",
};

describe("--keep-best", () => {
  it("leaves the best step's weights, keeps its checkpoint and the last state", async () => {
    const { out, summary, evaluations } = await train(watching);
    const best = evaluations.reduce((one, other) => (other.loss < one.loss ? other : one));
    expect(best.step).toBeLessThan(36);
    expect(evaluations.findLast((event) => event.best)!.step).toBe(best.step);
    expect(summary.best).toMatchObject({ metric: "loss", step: best.step, value: best.loss });
    expect(summary.evalLoss).toBe(best.loss);
    expect(recordOf(out).best).toEqual(summary.best);
    expect(stepsIn(out)).toEqual([best.step, 36]);
    const kept = join(out, "checkpoints", `step-${best.step}`);
    expect(readFileSync(join(out, "adapter_model.safetensors"))).toEqual(
      readFileSync(join(kept, "adapter_model.safetensors")),
    );
    expect(await weightsOf(out)).not.toEqual(await weightsOf(join(out, "checkpoints", "step-36")));
  });

  it("goes by scores of answers, which are the evaluation's own lines", async () => {
    const { out, evaluations } = await train({
      ...{ ...watching, keepBest: "chrf", evalMetrics: "exact-match", maxNewTokens: 8, maxSteps: 9 },
    });
    const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    const written = lines.map((line) => JSON.parse(line)).filter(({ type }) => type === "eval");
    expect(written).toEqual(evaluations);
    for (const line of written) {
      expect(line).toHaveProperty("chrf");
      expect(line).toHaveProperty("exactMatch");
    }
    const most = Math.max(...written.map(({ chrf }) => chrf));
    expect(recordOf(out).best).toMatchObject({ metric: "chrf", value: most });
  });

  it("stops when patience is at its end, as a whole run that ended there", async () => {
    const { out, summary, evaluations } = await train({ ...watching, patience: 2, maxSteps: 300 });
    expect(summary).toMatchObject({ status: "done", stoppedEarly: true });
    const [beforeLast, last] = evaluations.slice(-2);
    expect(Math.min(beforeLast!.loss, last!.loss)).toBeGreaterThanOrEqual(summary.best!.value);
    expect(summary.steps).toBe(last!.step);
    expect(summary.best!.step).toBe(last!.step - 6);
    expect(stepsIn(out)).toEqual([summary.best!.step, last!.step]);
    // There is nothing to go on with.
    const before = resultOf(out);
    const again = await train({ ...watching, patience: 2, maxSteps: 300, out, resume: true });
    expect(again.summary.steps).toBe(last!.step);
    expect(resultOf(out)).toEqual(before);
  });

  it("is the same after any stop", async () => {
    const flags = {
      ...{ ...watching, patience: 4, neftuneAlpha: 5, schedule: "wsd", warmupRatio: 0.1, batchTokens: 60 },
      ...{ evalMetrics: "chrf", maxNewTokens: 4, batchSize: 2, forget: data, minLearningRateRatio: 0.1 },
    };
    const whole = await train(flags);
    const out = join(folder, "stopped");
    for (const stopAfter of [1, 7, 12, 20])
      await train({ ...flags, out, resume: existsSync(out), stopAfter });
    const { summary } = await train({ ...flags, out, resume: true });
    expect(resultOf(out)).toEqual(resultOf(whole.out));
    expect(summary.best).toEqual(whole.summary.best);
    expect(summary.forgetting).toEqual(whole.summary.forgetting);
  });

  it("goes on from before the best step where its checkpoint is gone", async () => {
    const whole = await train({ ...watching, keep: 20 });
    const best = whole.summary.best!.step;
    const out = join(folder, "without-best");
    await train({ ...watching, keep: 20, out, stopAfter: best + 1 });
    rmSync(join(out, "checkpoints", `step-${best}`), { recursive: true });
    const { events } = await train({ ...watching, keep: 20, out, resume: true });
    const warning = events.find((event) => event.type === "warning")!;
    expect(warning).toMatchObject({ message: expect.stringContaining(`has step ${best} for its best one`) });
    expect(resultOf(out)).toEqual(resultOf(whole.out));
  });

  it("forgets, in a longer run, what only the shorter one's end evaluated", async () => {
    const flags = { ...watching, evalEvery: 5, maxSteps: 12 };
    const { out } = await train(flags);
    await train({ ...flags, out, resume: true, maxSteps: 20 });
    const whole = await train({ ...flags, maxSteps: 20 });
    expect(resultOf(out)).toEqual(resultOf(whole.out));
    expect(recordOf(out).best).toEqual(recordOf(whole.out).best);
  });

  it("makes when it evaluates a part of what the run is", async () => {
    const { out } = await train({ ...watching, maxSteps: 4 });
    await expect(train({ ...watching, maxSteps: 8, evalEvery: 2, out, resume: true })).rejects.toThrow(
      /evalEvery was 3 and is now 2/,
    );
  });
});

describe("of preferences", () => {
  const pairs = makeRows(24).map(({ prompt, completion }, i) => ({
    ...{ prompt, chosen: completion, rejected: ` not ${makeRows(24)[(i + 5) % 24]!.completion.trim()}` },
  }));
  const data = writeRows(join(folder, "pairs.jsonl"), pairs);
  const flags = {
    ...{ data, objective: "orpo", evalFraction: 0.25, evalEvery: 2, maxSteps: 10, learningRate: 3e-3 },
    ...{ keepBest: "reward-margin", evalMetrics: "chrf", maxNewTokens: 6, forget: evalData },
  };

  it("goes by rewards, and scores answers against the chosen ones", async () => {
    const { summary, evaluations, out } = await train(flags);
    const most = Math.max(...evaluations.map((event) => event.rewardMargin!));
    expect(summary.best).toMatchObject({ metric: "rewardMargin", value: most });
    for (const event of evaluations) expect(event.chrf).toBeGreaterThanOrEqual(0);
    const stopped = join(folder, "stopped-pairs");
    for (const stopAfter of [3, 6])
      await train({ ...flags, out: stopped, resume: existsSync(stopped), stopAfter });
    await train({ ...flags, out: stopped, resume: true });
    expect(resultOf(stopped)).toEqual(resultOf(out));
  });

  it("has no rewards without them, and no perplexity with them", async () => {
    await expect(train({ ...flags, objective: "sft" })).rejects.toThrow(/rewardMargin is of preferences/);
    await expect(train({ ...flags, keepBest: "perplexity" })).rejects.toThrow(
      /perplexity is of --objective sft/,
    );
  });
});

describe("--average-checkpoints", () => {
  it("leaves the mean of the last checkpoints' parameters, measured", async () => {
    const flags = {
      evalData,
      averageCheckpoints: 3,
      saveEvery: 4,
      maxSteps: 14,
      keep: 1,
      schedule: "constant",
    };
    const { out, summary, evaluations } = await train(flags);
    expect(summary.averagedSteps).toEqual([8, 12, 14]);
    expect(recordOf(out).averagedSteps).toEqual([8, 12, 14]);
    expect(evaluations.at(-1)).toMatchObject({ averagedCheckpoints: 3, step: 14, loss: summary.evalLoss });
    const checkpoints = await Promise.all(
      [8, 12, 14].map((step) => weightsOf(join(out, "checkpoints", `step-${step}`))),
    );
    const result = await weightsOf(out);
    for (const [i, value] of result.entries()) {
      const mean = checkpoints.reduce((sum, weights) => sum + weights[i]!, 0) / 3;
      expect(Math.abs(value - mean)).toBeLessThanOrEqual(1e-7 * Math.max(1e-3, Math.abs(mean)));
    }
    const stopped = join(folder, "stopped-average");
    for (const stopAfter of [3, 9]) {
      await train({ ...flags, out: stopped, resume: existsSync(stopped), stopAfter });
    }
    await train({ ...flags, out: stopped, resume: true });
    expect(filesOf(stopped, ["adapter_model.safetensors"])).toEqual(
      filesOf(out, ["adapter_model.safetensors"]),
    );
  });
});

describe("--forget", () => {
  it("counts what was right before and is wrong now", async () => {
    const colors = ["red", "green", "blue", "black"];
    const rows = (answer: (i: number) => string) =>
      colors.map((color, i) => ({ prompt: `${color}:`, completion: ` ${answer(i)}` }));
    const first = writeRows(
      join(folder, "first.jsonl"),
      rows((i) => "abcd"[i]!),
    );
    const second = writeRows(
      join(folder, "second.jsonl"),
      rows((i) => "wxyz"[i]!),
    );
    const learn = { batchSize: 4, maxSteps: 60, learningRate: 2e-2, rank: 8, schedule: "constant" };
    const learnt = await train({ ...learn, data: first });
    const { rank: _, ...further } = learn;
    const { out, events, summary } = await train({
      ...{ ...further, data: second, initAdapter: learnt.out, forget: first, evalEvery: 30, maxNewTokens: 4 },
    });
    const told = events.filter((event): event is ForgetEvent => event.type === "forget");
    expect(told.map(({ step }) => step)).toEqual([0, 30, 60]);
    expect(told[0]).toMatchObject({ prompts: 4, right: 4 });
    expect(told[0]).not.toHaveProperty("lost");
    expect(told[2]).toMatchObject({ prompts: 4, right: 0, lost: 4, gained: 0 });
    expect(told[2]!.perplexity).toBeGreaterThan(10 * told[0]!.perplexity);
    const { type: _type, step, ...after } = told[2]!;
    expect(summary.forgetting).toMatchObject({ before: { right: 4 }, after: { step, ...after } });
    expect(recordOf(out).forgetting).toEqual(summary.forgetting);
    const lines = readFileSync(join(out, "metrics.jsonl"), "utf8");
    expect(lines.match(/"type":"forget"/g)).toHaveLength(3);
  });

  it("measures rows of text by their perplexity alone", async () => {
    const forget = writeRows(join(folder, "texts.jsonl"), [{ text: "some text" }, { text: "more of it" }]);
    const { events } = await train({ forget, maxSteps: 2 });
    const told = events.filter((event): event is ForgetEvent => event.type === "forget");
    expect(told.map(({ step }) => step)).toEqual([0, 2]);
    for (const event of told) expect(Object.keys(event)).toEqual(["type", "step", "loss", "perplexity"]);
  });
});
