// A run on a device that works by itself hears of each step one step later, and shows nothing of it: its metrics, its
// checkpoints, its ends by a signal or a number that is not finite, and what it resumes to are those of a run that waits.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { backends } from "../../src/backend/index.ts";
import { openReference } from "../../src/backend/reference.ts";
import { resolveInput } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import type { TrainEvent, TrainSummary } from "../../src/train/events.ts";
import { runTraining } from "../../src/train/run.ts";
import { type LateBackend, lateBackend } from "../backend/late-backend.ts";
import { makeRows, resultOf, scratchFolder, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(24));

let late: LateBackend | undefined;
/** The reference, which waits, under its own name, and working by itself under that of the CPU. */
vi.spyOn(backends, "cpu").mockImplementation(async () => ({
  name: "cpu",
  open: async () => (late = lateBackend(openReference("f32"))),
}));

interface Ended {
  readonly out: string;
  readonly events: readonly TrainEvent[];
  readonly summary?: TrainSummary;
  readonly error?: Error;
}

async function run(
  backend: "cpu" | "reference",
  out: string,
  more: object,
  stopAfter = Number.POSITIVE_INFINITY,
): Promise<Ended> {
  const options = resolveInput(
    trainDefinition,
    {
      ...{ model, data, out: join(folder, out), rank: 2, batchSize: 2, timing: false },
      ...more,
      backend: "cpu",
    },
    "train()",
  );
  const events: TrainEvent[] = [];
  const signal = { interrupted: false };
  const emit = (event: TrainEvent) => {
    events.push(event);
    if (event.type === "train" && event.step === stopAfter) signal.interrupted = true;
  };
  try {
    const summary = await runTraining({ ...options, backend } as typeof options, emit, signal);
    return { out: options.out, events, summary };
  } catch (error) {
    return { out: options.out, events, error: error as Error };
  }
}

const shown = ({ events }: Ended) =>
  events.flatMap((event) => {
    if (event.type === "train")
      return [`${event.step} ${event.loss} ${event.gradNorm} ${event.learningRate}`];
    return event.type === "eval" || event.type === "sample" || event.type === "checkpoint"
      ? [`${event.type} ${event.step}`]
      : [];
  });

describe.each([
  ["plain", {}],
  ["evaluated, sampled, saved", { evalFraction: 0.2, evalEvery: 3, saveEvery: 4, sample: "red:" }],
  ["accumulated", { gradientAccumulation: 3, dropout: 0.1, epochs: 3, maxSteps: undefined }],
])("a run, %s", (name, more) => {
  it("ends as one that waits", async () => {
    const given = { maxSteps: 10, ...more };
    const waits = await run("reference", `${name} waits`, given);
    const ahead = await run("cpu", `${name} ahead`, given);
    expect(waits.error ?? ahead.error).toBeUndefined();
    expect(late!.mostWaiting).toBeGreaterThan(1);
    expect(shown(ahead)).toEqual(shown(waits));
    expect(resultOf(ahead.out)).toEqual(resultOf(waits.out));
    for (const key of ["steps", "firstLoss", "finalLoss", "evalLoss", "tokens"] as const)
      expect(ahead.summary![key], key).toBe(waits.summary![key]);
  });

  it("stopped by a signal, resumes to the same end", async () => {
    const given = { maxSteps: 10, ...more };
    const whole = await run("reference", `${name} whole`, given);
    const stopped = await run("cpu", `${name} stopped`, given, 2);
    expect(stopped.summary).toMatchObject({ status: "interrupted" });
    const { steps } = stopped.summary!;
    expect(shown(stopped)).toContain(`checkpoint ${steps}`);
    expect(shown(stopped).filter((line) => /^\d/.test(line))).toHaveLength(steps);
    const resumed = await run("cpu", `${name} stopped`, { ...given, resume: true });
    expect(resumed.error).toBeUndefined();
    expect(resultOf(resumed.out)).toEqual(resultOf(whole.out));
  });
});

it.each([
  ["the second step", 1e20, 0],
  ["a later one", 3, 0],
])(
  "a step that is not finite, %s: the same sentence and the same last good state",
  async (name, rate, norm) => {
    const given = { learningRate: rate, maxGradNorm: norm, maxSteps: 60, epochs: undefined, shuffle: false };
    const [waits, ahead] = [
      await run("reference", `diverged ${name} waits`, given),
      await run("cpu", `diverged ${name} ahead`, given),
    ];
    expect(waits.error?.name).toBe("DivergedError");
    expect(ahead.error?.message.replaceAll("ahead", "waits")).toBe(waits.error?.message);
    expect(shown(ahead)).toEqual(shown(waits));
    const step = /step (\d+):/.exec(waits.error!.message)![1]!;
    const files = [waits, ahead].map(({ out }) => {
      const checkpoint = join(out, "checkpoints", `step-${Number(step) - 1}`);
      expect(existsSync(checkpoint)).toBe(true);
      const { step: done, passes, cursor } = JSON.parse(readFileSync(join(checkpoint, "state.json"), "utf8"));
      const saved = readFileSync(join(checkpoint, "adapter_model.safetensors"));
      const state = createHash("sha256").update(saved).digest("hex");
      return { done, passes, cursor, state, metrics: readFileSync(join(out, "metrics.jsonl"), "utf8") };
    });
    expect(files[1]).toEqual(files[0]);
    for (const { out } of [waits, ahead]) rmSync(out, { recursive: true });
  },
);
