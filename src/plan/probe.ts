// The machine's own rate for a shape: a few real training steps on random weights of it. A shape too large for this
// machine's memory or patience is run with fewer layers, twice, and extrapolated layer by layer: every block costs the
// same, and what two runs have in common is embedding, head and the step's fixed part. What was run is in the result.

import { openBackend } from "../backend/index.ts";
import type { BenchOptions } from "../config/bench-options.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { type BenchResult, benchShape } from "../train/bench.ts";
import type { ModelShape } from "./shape.ts";
import { flopsPerToken, type WorkShape } from "./time-cost.ts";

export interface ProbeOptions
  extends WorkShape,
    Omit<BenchOptions, "model" | "steps" | "warmup" | "gradientCheckpointing" | "pagedBudget" | "json"> {
  /** Bytes that a probe may take. */
  readonly memoryBytes: number;
  /** Of the whole shape, as predicted. */
  readonly predictedBytes: number;
}

export interface ProbeResult {
  readonly device: string;
  readonly tokensPerSecond: number;
  readonly stepMs: number;
  /** True: the whole shape was run as asked. */
  readonly whole: boolean;
  /** Layers of each run, and sequences a micro-batch. */
  readonly layers: readonly number[];
  readonly sequences: number;
  readonly stepsMs: readonly (readonly number[])[];
  readonly peakGflops: number | null;
  /** Counted and resident bytes of the last run. */
  readonly peakBytes: number;
  readonly peakRssBytes: number;
}

/** A step of the probe should not take longer; above it, layers and then sequences are left out. */
const patienceMs = 10_000;
const timedSteps = 5;
/** Part of a device's peak that first guesses take as reached. */
const guessedFraction = 0.5;

/** Runs the steps. `tell` hears what is going on. */
export async function probe(
  shape: ModelShape,
  options: ProbeOptions,
  tell: (message: string) => void,
): Promise<ProbeResult> {
  const layers = shape.config.layers.length;
  using backend = await openBackend(options.backend, options);
  const peak = (await backend.peakGflops?.()) ?? 1;
  const msOfWhole = stepMsAt(shape, options, options.batchSize, peak * guessedFraction);
  const whole = options.predictedBytes <= options.memoryBytes && msOfWhole <= patienceMs;
  // One layer and three: far enough apart that noise in their difference is small against it.
  const runs = whole || layers <= 3 ? [layers] : [1, 3];
  const share = Math.max(...runs) / layers;
  const sequences =
    whole || msOfWhole * share <= patienceMs
      ? options.batchSize
      : Math.max(1, Math.floor((options.batchSize * patienceMs) / (msOfWhole * share)));
  const results: BenchResult[] = [];
  for (const count of runs) {
    tell(
      `probe: ${count} of ${layers} layers, ${sequences} x ${options.sequenceLength} tokens, ${timedSteps} steps`,
    );
    results.push(
      await benchShape(
        backend,
        { ...shape, config: withLayers(shape.config, count) },
        benchOptions(options, sequences),
        tell,
      ),
    );
  }
  const times = results.map(({ stepsMs }) => median(stepsMs));
  const stepMs =
    runs.length === 1
      ? times[0]!
      : times[0]! + ((times[1]! - times[0]!) / (runs[1]! - runs[0]!)) * (layers - runs[0]!);
  const last = results[results.length - 1]!;
  return {
    device: last.device,
    tokensPerSecond: (1000 * sequences * options.sequenceLength) / stepMs,
    stepMs,
    whole: runs[0] === layers && sequences === options.batchSize,
    layers: runs,
    sequences,
    stepsMs: results.map(({ stepsMs }) => stepsMs),
    peakGflops: last.peakGflops,
    peakBytes: last.peakBytes,
    peakRssBytes: last.peakRssBytes,
  };
}

function stepMsAt(shape: ModelShape, options: ProbeOptions, sequences: number, gflops: number): number {
  const flops = flopsPerToken(shape, options.method, options) * sequences * options.sequenceLength;
  return flops / gflops / 1e6;
}

function withLayers(config: DecoderConfig, layers: number): DecoderConfig {
  return { ...config, layers: config.layers.slice(0, layers) };
}

function benchOptions(options: ProbeOptions, sequences: number): BenchOptions {
  return {
    ...options,
    pagedBudget: undefined,
    model: "random weights",
    batchSize: sequences,
    steps: timedSteps,
    warmup: 2,
    gradientCheckpointing: options.checkpointing ? "on" : "off",
    json: true,
  };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}
