// Training on the CUDA backend over its emulator: ten QLoRA steps of two architectures equal those of the double-precision
// reference, a step that comes again is replayed from its recording to the same bits, and memory is what was predicted.

import { describe, expect, it } from "vitest";
import type { Backend, Precision } from "../../../src/backend/backend.ts";
import { openCuda } from "../../../src/backend/cuda.ts";
import { openReference } from "../../../src/backend/reference.ts";
import { assemble } from "../../../src/data/assemble.ts";
import { predictMemory } from "../../../src/memory/predict-memory.ts";
import { readModelConfig } from "../../../src/models/index.ts";
import { loadDecoder } from "../../../src/models/load-model.ts";
import { quantizeOnArrival } from "../../../src/models/quantized-weights.ts";
import { randomDecoder } from "../../../src/models/random-model.ts";
import { hostState } from "../../../src/optim/host-paging.ts";
import { Session } from "../../../src/session/session.ts";
import type { SessionRecipe } from "../../../src/session/trainable.ts";
import "../../conformance/backends.ts";
import { goldenSource, relativeDifference } from "../../conformance/model-case.ts";
import { loadModelGolden } from "../../golden/load-golden.ts";
import { statusOf } from "./status.ts";

// f32 sums of a few hundred terms, over ten steps: as the goldens' own bounds.
const lossTolerance = 1e-4;

const recipe: SessionRecipe = {
  ...{ method: "qlora", rank: 4, alpha: 8, targets: "all-linear", optimizer: "adamw", seed: 3 },
};

/** Two sequences of 8 tokens, others at every step. */
const batchOf = (step: number, dropLast = 0) =>
  assemble(
    [0, 1].map((row) => {
      const ids = Int32Array.from({ length: 8 - dropLast }, (_, t) => (7 * step + 3 * t + 5 * row) % 128);
      return {
        ids,
        targetMask: new Uint8Array(ids.length).fill(1, 1),
        rowId: { file: "rows", line: row + 1, unit: "line" },
      };
    }),
  );

async function openSession(
  backend: Backend,
  name: string,
  more: Partial<SessionRecipe> = {},
): Promise<Session> {
  const golden = loadModelGolden(name);
  const loaded = await loadDecoder(backend, readModelConfig(golden.config), goldenSource(golden), {
    quantize: quantizeOnArrival(backend),
  });
  return new Session(loaded, { ...recipe, ...more });
}

const open = async (precision: Precision): Promise<Backend> => (await openCuda({ precision }))!;

describe("ten QLoRA steps", () => {
  it.each(["llama-gqa-tied-llama3", "qwen3"])("%s equals the reference", async (name) => {
    const [backend, reference] = [await open("fp32"), openReference("f64")];
    const [ours, theirs] = [await openSession(backend, name), await openSession(reference, name)];
    const losses: [number[], number[]] = [[], []];
    for (let step = 1; step <= 10; step++) {
      const options = { learningRate: 1e-2, maxGradNorm: 1 };
      losses[0].push((await ours.trainStep([batchOf(step % 2)], options)).loss);
      losses[1].push((await theirs.trainStep([batchOf(step % 2)], options)).loss);
    }
    expect(relativeDifference(...losses)).toBeLessThan(lossTolerance);
    expect(losses[1].at(-1)).toBeLessThan(losses[1][0]!);
    backend.close();
  });
});

it("a step that comes again is replayed, with the arguments that changed, to the bits of steps launched one by one", async () => {
  const run = async (steps: number, variable: boolean) => {
    const backend = await open("bf16");
    const session = await openSession(backend, "llama-mha", { dropout: 0.1, optimizer: "adamw8bit" });
    const losses: number[] = [];
    for (let step = 1; step <= steps; step++)
      losses.push(
        (await session.trainStep([batchOf(step, variable ? step % 2 : 0)], { learningRate: 1e-2 })).loss,
      );
    const { data } = session.parameters;
    const result = { losses, parameters: await backend.read(data.buffer), status: statusOf(backend) };
    session[Symbol.dispose]();
    backend.close();
    return result;
  };
  const first = await run(5, false);
  const { launched, replayed, changed, graphs } = first.status;
  expect(graphs).toBeGreaterThan(0);
  // Steps 3 to 5 at least are whole replays, of which few arguments are new: dropout's streams, rates, and the like.
  expect(replayed).toBeGreaterThan(launched / 3);
  expect(changed).toBeLessThan(replayed / 2);
  expect(await run(5, false)).toEqual(first);
  // Launched one by one: no run of launches is ever seen twice.
  const backend = await open("bf16");
  const alone = await openSession(backend, "llama-mha", { dropout: 0.1, optimizer: "adamw8bit" });
  const losses: number[] = [];
  for (let step = 1; step <= 5; step++) {
    losses.push((await alone.trainStep([batchOf(step)], { learningRate: 1e-2 })).loss);
    backend.settle!();
  }
  expect(losses).toEqual(first.losses);
  backend.close();
});

it("texts of other lengths in between change no bit", async () => {
  const losses = async (between: boolean) => {
    const backend = await open("bf16");
    const session = await openSession(backend, "qwen3");
    const found: number[] = [];
    for (let step = 1; step <= 3; step++) {
      if (between) await session.evaluate([], 64);
      found.push((await session.trainStep([batchOf(step, step % 2)], { learningRate: 1e-2 })).loss);
    }
    backend.close();
    return found;
  };
  expect(await losses(true)).toEqual(await losses(false));
});

describe("memory of a card", () => {
  const config = readModelConfig({ ...loadModelGolden("llama-mha").config, vocab_size: 512 });

  it.each(["lora", "qlora", "full"] as const)("%s takes what was predicted, within 3%%", async (method) => {
    for (const checkpointing of [false, true]) {
      const backend = await open("bf16");
      const loaded = await randomDecoder(backend, config, 0, {
        train: method === "full",
        quantize: method === "qlora" ? quantizeOnArrival(backend) : undefined,
      });
      const session = new Session(loaded, { ...recipe, method }, { checkpointing });
      for (let step = 1; step <= 2; step++) await session.trainStep([batchOf(step)], { learningRate: 1e-3 });
      const { heldBytes, availableBytes } = backend.deviceMemory!();
      // The driver's own figure: nothing else takes memory of the emulator.
      const { totalBytes, freeBytes } = statusOf(backend);
      expect(totalBytes - freeBytes).toBe(heldBytes);
      expect(availableBytes).toBe(totalBytes);
      const { deviceBytes } = await predictMemory(config, {
        ...{ recipe: { ...recipe, method }, precision: "bf16", batchSize: 2, sequenceLength: 8 },
        ...{ checkpointing, onCard: true },
      });
      expect(Math.abs(deviceBytes! / heldBytes - 1)).toBeLessThan(0.03);
      session[Symbol.dispose]();
      backend.close();
    }
  });

  it("optimizer state in the machine's memory changes no bit", async () => {
    const run = async (paged: boolean) => {
      const backend = await open("fp32");
      const loaded = await randomDecoder(backend, config, 0, { train: true });
      const stateMemory = paged
        ? hostState(backend, { budgetBytes: 0, availableBytes: 1e9, pieceElements: 16_384 })
        : undefined;
      const session = new Session(loaded, { ...recipe, method: "full" }, { stateMemory });
      for (let step = 1; step <= 2; step++) await session.trainStep([batchOf(step)], { learningRate: 1e-3 });
      const parameters = await backend.read(session.parameters.data.buffer);
      backend.close();
      return parameters;
    };
    expect(await run(true)).toEqual(await run(false));
  });
});
