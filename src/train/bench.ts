// Times training steps: the same decoder, trainer and optimizer as a real run, on random tokens. `lowrank bench`
// prints it, plan's probe uses it, bench/against-peft compares it.

import { readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import type { Backend, LedgerReport } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import type { BenchOptions } from "../config/bench-options.ts";
import { assemble } from "../data/assemble.ts";
import { locateModel } from "../formats/locate-model.ts";
import { openModelFolder } from "../formats/model-folder.ts";
import { predictMemory } from "../memory/predict-memory.ts";
import { chooseCheckpointing, stateMemoryOf } from "../memory/state-memory.ts";
import { activationBytes } from "../models/activation-bytes.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { stepFlops } from "../models/flops.ts";
import { readFolderConfig } from "../models/folder-config.ts";
import { readModelConfig } from "../models/index.ts";
import { type LoadedDecoder, type LoadOptions, loadDecoder } from "../models/load-model.ts";
import { deviceSource } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { randomDecoder } from "../models/random-model.ts";
import { storedDType } from "../models/stored-dtype.ts";
import { Session } from "../session/session.ts";
import type { DType } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import { peakRssBytes } from "./run-record.ts";

export interface BenchResult {
  readonly method: string;
  readonly backend: string;
  readonly device: string;
  readonly precision: string;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly gradientCheckpointing: boolean;
  readonly tokensPerSecond: { readonly best: number; readonly median: number };
  /** Of the best step. */
  readonly stepMs: number;
  readonly stepsMs: readonly number[];
  /** Products of a step over its best time. */
  readonly gflops: number;
  /** What the device does at most in this precision, measured in this run; null where it cannot be measured. */
  readonly peakGflops: number | null;
  readonly peakFraction: number | null;
  readonly peakBytes: number;
  /** All that was taken of a card, and what that was predicted to be; absent where no card tells. */
  readonly deviceBytes?: number;
  readonly predictedDeviceBytes?: number;
  readonly peakRssBytes: number;
  readonly memory: LedgerReport;
  readonly trainableParameters: number;
  readonly totalParameters: number;
  readonly loss: number;
}

/** Runs the steps. `tell` hears what is going on. */
export async function runBench(options: BenchOptions, tell: (message: string) => void): Promise<BenchResult> {
  using backend = await openBackend(options.backend, {
    precision: options.precision,
    threads: options.threads,
  });
  tell(`device: ${backend.description}`);
  const { config, loaded, random } = await openSubject(backend, options);
  tell(
    `${random ? "random weights of" : "weights of"} ${config.modelType}, ${loaded.totalParameters} parameters`,
  );
  const result = await timeSteps(backend, config, loaded, options, tell);
  loaded.free();
  return result;
}

async function openSubject(
  backend: Backend,
  options: BenchOptions,
): Promise<{ config: DecoderConfig; loaded: LoadedDecoder; random: boolean }> {
  const path = locateModel(options.model);
  if (statSync(path).isFile()) {
    const json = readConfigFile(path);
    const config = readModelConfig(json);
    const loaded = await randomSubject(backend, config, options, storedDType(json));
    return { config, loaded, random: true };
  }
  const folder = await openModelFolder(path);
  const load = loadOptionsOf(backend, options);
  try {
    const config = await readFolderConfig(folder);
    return {
      config,
      loaded: await loadDecoder(backend, config, deviceSource(backend, folder, load), load),
      random: false,
    };
  } finally {
    await folder.close();
  }
}

function readConfigFile(path: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch (error) {
    throw new UserError(`${path}: expected a config.json: ${(error as Error).message}`);
  }
}

/** Random weights of a shape, as the options' method wants them, and their steps timed. For plan's probe. */
export async function benchShape(
  backend: Backend,
  { config, storedDType: stored }: { readonly config: DecoderConfig; readonly storedDType: DType },
  options: BenchOptions,
  tell: (message: string) => void,
): Promise<BenchResult> {
  const loaded = await randomSubject(backend, config, options, stored);
  try {
    return await timeSteps(backend, config, loaded, options, tell);
  } finally {
    loaded.free();
  }
}

function randomSubject(
  backend: Backend,
  config: DecoderConfig,
  options: BenchOptions,
  stored: DType,
): Promise<LoadedDecoder> {
  return randomDecoder(backend, config, options.seed, {
    ...loadOptionsOf(backend, options),
    storedDType: stored,
  });
}

function loadOptionsOf(backend: Backend, { method, quantType }: BenchOptions): LoadOptions {
  return {
    train: method === "full",
    quantize: method === "qlora" ? quantizeOnArrival(backend, quantType) : undefined,
  };
}

interface TimedStep {
  readonly step: number;
  readonly startedAt: number;
  readonly numbers: () => Promise<{ readonly loss: number }>;
}

async function timeSteps(
  backend: Backend,
  config: DecoderConfig,
  loaded: LoadedDecoder,
  options: BenchOptions,
  tell: (message: string) => void,
): Promise<BenchResult> {
  const { batchSize, sequenceLength, seed } = options;
  const tokens = batchSize * sequenceLength;
  const checkpointing = chooseCheckpointing(
    options.gradientCheckpointing,
    backend,
    activationBytes(config, tokens, false),
  );
  using session = new Session(loaded, options, {
    stateMemory: stateMemoryOf(backend, options, tmpdir()),
    checkpointing,
  });
  const { parameters, adapter } = session;
  const random = new Random(seed, 3);
  const times: number[] = [];
  let loss = 0;
  let settledAt = 0;
  const settle = async ({ step, startedAt, numbers }: TimedStep) => {
    ({ loss } = await numbers());
    const elapsed = performance.now() - Math.max(startedAt, settledAt);
    settledAt = performance.now();
    if (step > options.warmup) times.push(elapsed);
    tell(`step ${step}: ${elapsed.toFixed(0)} ms, ${((1000 * tokens) / elapsed).toFixed(1)} tokens/s`);
  };
  // As a run does it (run.ts): a device that works by itself has the next step before the last is heard of.
  let flight: TimedStep | undefined;
  for (let step = 1; step <= options.warmup + options.steps; step++) {
    const batch = randomBatch(config, batchSize, sequenceLength, random);
    const startedAt = performance.now();
    const { numbers } = await session.startStep([batch], { learningRate: 1e-4 });
    if (flight) await settle(flight);
    flight = { step, startedAt, numbers };
    if (backend.runsAhead) continue;
    await settle(flight);
    flight = undefined;
  }
  if (flight) await settle(flight);
  const { peakBytes } = backend;
  const memory = backend.ledger();
  const rss = peakRssBytes();
  const sorted = times.toSorted((a, b) => a - b);
  const best = sorted[0]!;
  const gflops =
    stepFlops(config, {
      sequences: batchSize,
      sequenceLength,
      targetTokens: batchSize * (sequenceLength - 1),
      adapterParameters: adapter ? parameters.count : 0,
      full: adapter === undefined,
      checkpointing,
    }) /
    best /
    1e6;
  const peakGflops = (await backend.peakGflops?.()) ?? null;
  return {
    method: options.method,
    backend: backend.name,
    device: backend.description,
    precision: backend.precision,
    batchSize,
    sequenceLength,
    gradientCheckpointing: checkpointing,
    tokensPerSecond: {
      best: (1000 * tokens) / best,
      median: (1000 * tokens) / sorted[Math.floor(sorted.length / 2)]!,
    },
    stepMs: best,
    stepsMs: times,
    gflops,
    peakGflops,
    peakFraction: peakGflops === null ? null : gflops / peakGflops,
    peakBytes,
    ...(await deviceFigures(backend, config, options, checkpointing)),
    peakRssBytes: rss,
    memory,
    trainableParameters: parameters.count,
    totalParameters: loaded.totalParameters + (adapter ? parameters.count : 0),
    loss,
  };
}

/** What the steps took of a card, gaps and scratch included, and what that was predicted to be. */
async function deviceFigures(
  backend: Backend,
  config: DecoderConfig,
  options: BenchOptions,
  checkpointing: boolean,
): Promise<Pick<BenchResult, "deviceBytes" | "predictedDeviceBytes">> {
  if (!backend.deviceMemory) return {};
  const { precision } = backend;
  const { batchSize, sequenceLength } = options;
  const predicted = await predictMemory(config, {
    ...{ recipe: options, precision, batchSize, sequenceLength, checkpointing, onCard: true },
  });
  return { deviceBytes: backend.deviceMemory().heldBytes, predictedDeviceBytes: predicted.deviceBytes };
}

function randomBatch(config: DecoderConfig, sequences: number, length: number, random: Random) {
  return assemble(
    Array.from({ length: sequences }, (_, i) => ({
      ids: Int32Array.from({ length }, () => random.nextInt(config.vocabularySize)),
      targetMask: Uint8Array.from({ length }, (_, t) => (t > 0 ? 1 : 0)),
      rowId: { file: "random", line: i + 1, unit: "row" as const },
    })),
  );
}
