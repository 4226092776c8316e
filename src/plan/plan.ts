// The plan of a shape in one document: parameters, ledgers, what fits, operations, time and cost. Puts together what
// the other files of this room compute; printing is cli/plan.ts's.

import type { Method } from "../config/fields.ts";
import type { PlanOptions } from "../config/plan-options.ts";
import { loadDataset } from "../data/dataset.node.ts";
import { locateModel } from "../formats/locate-model.ts";
import { objectives } from "../objectives/index.ts";
import { openText } from "../text/open-text.ts";
import { UserError } from "../util/errors.ts";
import { findGpu, type Gpu, type GpuTable, readGpuTable } from "./gpus.ts";
import { type MethodPlan, planMethod, plannedMethods } from "./memory-plan.ts";
import { type ProbeResult, probe } from "./probe.ts";
import { messageSeconds, networkRate, networkShare, type RanksRow, ranksTable } from "./ranks.ts";
import { planServing, type ServingPlan } from "./serving-plan.ts";
import { type ModelShape, readShape, type TrainableRow, trainableTable } from "./shape.ts";
import { type Budget, type Estimate, estimateOnGpu, flopsPerToken, withBudget } from "./time-cost.ts";

export const plannedRanks = [4, 8, 16, 32, 64] as const;

export interface Plan {
  readonly model: {
    readonly name: string;
    readonly modelType: string;
    readonly parameters: number;
    readonly linearParameters: number;
    /** That one token meets: of a mixture, without the experts that it does not go to. */
    readonly activeParameters: number;
    readonly layers: number;
    readonly width: number;
    readonly maxPositions: number;
  };
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly rank: number;
  readonly targets: string;
  /** Trainable parameters by targets and rank. */
  readonly trainable: readonly TrainableRow[];
  readonly limit?: { readonly bytes: number; readonly source: string };
  readonly methods: readonly MethodPlan[];
  /** Of the same weights, without training. */
  readonly serving: ServingPlan;
  readonly work?: { readonly tokens: number; readonly source: string };
  readonly probe?: ProbeResult;
  /** By the names of `methods`. */
  readonly estimates: Readonly<Record<string, readonly Estimate[]>>;
  /** By the names of `methods`: several ranks over the network that was given. */
  readonly ranks?: {
    readonly asked: number;
    readonly network?: string;
    readonly microBatches: number;
    readonly assumptions: readonly string[];
    readonly methods: Readonly<Record<string, readonly RanksRow[]>>;
  };
}

/** The options with nothing left to default. */
export type ResolvedPlanOptions = PlanOptions & { readonly sequenceLength: number };

/** Tokens in a sequence unless the user or the model says otherwise; train's default. */
const usualLength = 1024;

export interface PlanInputs {
  readonly options: ResolvedPlanOptions;
  readonly shape: ModelShape;
  readonly gpus: GpuTable;
  readonly gpu?: Gpu;
}

export async function readInputs(options: PlanOptions): Promise<PlanInputs> {
  const shape = await readShape(options.model);
  const gpus = await readGpuTable(options.gpus);
  const gpu = options.gpu === undefined ? undefined : findGpu(gpus, options.gpu);
  const { maxPositions } = shape.config;
  const sequenceLength = options.sequenceLength ?? Math.min(usualLength, maxPositions);
  if (sequenceLength > maxPositions) {
    throw new UserError(
      `--sequence-length ${sequenceLength}: the model was trained for ${maxPositions} positions`,
    );
  }
  return { options: { ...options, sequenceLength }, shape, gpus, gpu };
}

/** Everything. `memoryBytes` is what a probe may take of this machine. */
export async function makePlan(
  { options, shape, gpus, gpu }: PlanInputs,
  memoryBytes: number,
  tell: (message: string) => void,
): Promise<Plan> {
  const { config } = shape;
  const limit = limitOf(options, gpu);
  const chosen = plannedMethods.filter(
    ({ method }) => options.method === undefined || method === options.method,
  );
  const methods: MethodPlan[] = [];
  for (const planned of chosen) {
    const onCard =
      options.backend === "cuda" || (options.backend === "auto" && gpu?.title.startsWith("NVIDIA"));
    methods.push(
      await planMethod(shape, planned, { ...options, recipe: options, limitBytes: limit?.bytes, onCard }),
    );
  }
  const work = await workOf(options);
  const measured = options.probe ? await runProbe(options, shape, methods, memoryBytes, tell) : undefined;
  const estimates: Record<string, Estimate[]> = {};
  for (const { name, method, precision } of methods) {
    const flops = flopsPerToken(shape, method, { ...options, checkpointing: true });
    const found: Estimate[] = [];
    if (measured && method === probedMethod(options)) {
      const estimate = {
        flopsPerToken: flopsPerToken(shape, method, { ...options, checkpointing: false }),
        tokensPerSecond: measured.tokensPerSecond,
        rate: `measured on ${measured.device}`,
        assumptions: probeAssumptions(measured, config.layers.length),
      };
      const price = options.price === undefined ? undefined : { perHour: options.price, source: "--price" };
      if (precision === "bf16") found.push(withBudget(estimate, { tokens: work?.tokens, price }));
    }
    // A GPU's fp32 peak is another figure, and nobody fine-tunes in it there.
    if (gpu && precision === "bf16") {
      const budget: Budget = { tokens: work?.tokens, price: priceOf(options, gpu) };
      found.push(estimateOnGpu(gpu, options.utilization ?? gpus.utilization, flops, method, budget));
    }
    estimates[name] = found;
  }
  return {
    model: {
      name: options.model,
      modelType: config.modelType,
      parameters: shape.parameters,
      linearParameters: shape.linearParameters,
      activeParameters: shape.activeParameters,
      layers: config.layers.length,
      width: config.width,
      maxPositions: config.maxPositions,
    },
    batchSize: options.batchSize,
    sequenceLength: options.sequenceLength,
    rank: options.rank,
    targets: options.targets,
    trainable: trainableTable(
      config,
      [...new Set([...plannedRanks, options.rank])].sort((a, b) => a - b),
    ),
    limit,
    methods,
    serving: planServing(config, methods, limit?.bytes),
    work,
    probe: measured,
    estimates,
    ranks: planRanks(options, methods, estimates, work),
  };
}

const rankAssumptions = [
  `${100 * networkShare}% of the network's rate is reached, both ways at once, and a message takes ${1e6 * messageSeconds} us beside its bytes (assumed)`,
  "an exchange runs behind the next micro-batch of its step; the last, and the sharing of the sum, do not",
  "all ranks are as fast as the one whose rate was measured or stated",
];

function planRanks(
  options: ResolvedPlanOptions,
  methods: readonly MethodPlan[],
  estimates: Plan["estimates"],
  work: Plan["work"],
): Plan["ranks"] {
  const { ranks, network, microBatches } = options;
  if (ranks === undefined) return undefined;
  const given = {
    ...{ ranks, microBatches, tokens: work?.tokens },
    networkBytesPerSecond: network === undefined ? undefined : networkRate(network),
    tokensPerMicroBatch: options.batchSize * options.sequenceLength,
  };
  return {
    ...{ asked: ranks, network, microBatches },
    assumptions: network === undefined ? [] : rankAssumptions,
    methods: Object.fromEntries(
      methods.map((method) => [method.name, ranksTable(method, estimates[method.name]?.[0], given)]),
    ),
  };
}

function limitOf(options: ResolvedPlanOptions, gpu: Gpu | undefined): Plan["limit"] {
  if (options.vram !== undefined) return { bytes: options.vram, source: "--vram" };
  if (gpu) return { bytes: gpu.memoryGB * 1e9, source: gpu.title };
  return undefined;
}

function priceOf(options: ResolvedPlanOptions, gpu: Gpu): Budget["price"] {
  if (options.price !== undefined) return { perHour: options.price, source: "--price" };
  if (!gpu.price) return undefined;
  return { perHour: gpu.price.perHour, source: `${gpu.price.source}, ${gpu.price.asOf}` };
}

async function workOf(options: ResolvedPlanOptions): Promise<Plan["work"]> {
  if (options.tokens !== undefined) return { tokens: options.tokens, source: "--tokens" };
  if (options.data === undefined) return undefined;
  const path = locateModel(options.model);
  if (/\.json$/i.test(path)) {
    throw new UserError(
      `--data: counting tokens needs the model's tokenizer, and ${options.model} is a bare configuration; give a model folder, or --tokens N`,
    );
  }
  const { rows } = objectives[options.objective];
  if (rows === "prompts") {
    throw new UserError(
      `--data: --objective ${options.objective} learns from what the model writes, whose tokens no file tells; give --tokens N`,
    );
  }
  const { tokenizer, template } = await openText({ model: path, chatTemplate: options.chatTemplate });
  const { report } = await loadDataset(options.data, {
    tokenizer,
    template,
    trainOn: options.trainOn,
    rows,
    sequenceLength: options.sequenceLength,
    overLength: "truncate",
  });
  const passes = `${options.epochs} ${options.epochs === 1 ? "pass" : "passes"} over ${report.file}`;
  return {
    tokens: Math.round(report.tokens * options.epochs),
    source: `${passes}, ${report.samples} samples`,
  };
}

function probedMethod(options: ResolvedPlanOptions): Method {
  return options.method ?? "lora";
}

function runProbe(
  options: ResolvedPlanOptions,
  shape: ModelShape,
  methods: readonly MethodPlan[],
  memoryBytes: number,
  tell: (message: string) => void,
): Promise<ProbeResult> {
  const method = probedMethod(options);
  const plan = methods.find((candidate) => candidate.method === method && candidate.precision === "bf16")!;
  const kept = plan.variants.find(
    ({ checkpointing, optimizer }) => !checkpointing && optimizer === options.optimizer,
  )!;
  const predictedBytes = kept.peakBytes;
  return probe(shape, { ...options, method, checkpointing: false, memoryBytes, predictedBytes }, tell);
}

function probeAssumptions(result: ProbeResult, layers: number): string[] {
  if (result.whole) return ["whole steps of this shape, batch and length were timed"];
  const extrapolated =
    result.layers.length > 1
      ? [`timed with ${result.layers.join(" and ")} of ${layers} layers and extrapolated layer by layer`]
      : [];
  return [...extrapolated, `timed with ${result.sequences} sequences a micro-batch`];
}
