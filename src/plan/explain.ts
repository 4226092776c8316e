// The derivation behind the plan, line by line: what is multiplied by what, our figure, and the published one beside
// it where the shape is LLaMA-2 7B's. Claims of the article that arithmetic cannot give (the $26, the quality kept) are
// named as claims, beside what this project measured. The article's figures come from data/gpus.yaml.

import { predictMemory } from "../memory/predict-memory.ts";
import { adaptableLayers, allLinear } from "../models/adaptable-layers.ts";
import { nestedBlockSize } from "../quant/double-quant.ts";
import { type Article, findGpu, type GpuTable } from "./gpus.ts";
import type { Measured } from "./measured.ts";
import { adapterParameters, type ModelShape } from "./shape.ts";
import { estimateOnGpu, flopsPerToken } from "./time-cost.ts";

export interface ExplainedLine {
  readonly section: string;
  readonly what: string;
  readonly derivation: string;
  readonly value: number | null;
  /** The value as people read it. */
  readonly ours: string;
  /** As published; absent where nothing was published for this shape. */
  readonly published?: string;
}

/** LLaMA-2 7B has this many parameters; published figures are about it alone. */
const llama2Parameters = 6_738_415_616;
/** The batch and length that the 9 GB of QLoRA were reported for (rank 8, every linear layer). */
const reported = { batchSize: 4, sequenceLength: 1024, rank: 8, targets: "all-linear" } as const;
const whole = (value: number) => value.toLocaleString("en-US");
const gb = (bytes: number) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
const dollars = (value: number) => `$${value.toFixed(value < 100 ? 2 : 0)}`;

export interface ExplainOptions {
  readonly rank: number;
  readonly utilization?: number;
}

export async function explain(
  shape: ModelShape,
  gpus: GpuTable,
  measured: Measured | undefined,
  options: ExplainOptions,
): Promise<ExplainedLine[]> {
  const article = shape.parameters === llama2Parameters ? gpus.article : undefined;
  return [
    ...fullLines(shape, article),
    ...adapterLines(shape, options.rank, article !== undefined),
    ...quantizationLines(article !== undefined),
    ...(await memoryLines(shape, article)),
    ...costLines(shape, gpus, options),
    ...claimLines(gpus.article, measured),
  ];
}

function fullLines({ parameters }: ModelShape, article: Article | undefined): ExplainedLine[] {
  const section = "Full fine-tuning in fp32 with AdamW";
  const billions = Math.round(parameters / 1e9) || parameters / 1e9;
  const line = (what: string, derivation: string, value: number, published?: string) => ({
    section,
    what,
    derivation,
    value,
    ours: gb(value),
    published,
  });
  return [
    {
      section,
      what: "bytes a parameter",
      derivation: "weight 4 + gradient 4 + first moment 4 + second moment 4",
      value: 16,
      ours: "16",
      published: article && "16",
    },
    line(
      "round figure",
      `${billions}e9 x 16 bytes, activations not counted`,
      billions * 16e9,
      article && `${article.fullMemoryGB} GB`,
    ),
    line("exact", `${whole(parameters)} x 16 bytes`, parameters * 16),
  ];
}

function adapterLines(shape: ModelShape, rank: number, published: boolean): ExplainedLine[] {
  const section = "LoRA: what trains";
  const { config } = shape;
  const { outputs, inputs } = adaptableLayers(config)[0]!;
  const matrix = outputs * inputs;
  const eight = (outputs + inputs) * 8;
  const line = (what: string, derivation: string, value: number, figure?: string) => ({
    section,
    what,
    derivation,
    value,
    ours: whole(value),
    published: published ? figure : undefined,
  });
  const sum = (targets: string) => adapterParameters(config, rank, targets);
  const standard = rank === 8;
  return [
    line("one q_proj matrix", `${outputs} x ${inputs}`, matrix, "16,777,216"),
    line(
      "the same at rank 8",
      `A [8, ${inputs}] + B [${outputs}, 8]: ${(matrix / eight).toFixed(0)} times fewer`,
      eight,
      "65,536",
    ),
    line(
      `q and v, rank ${rank}`,
      `${rank} x (in + out), over ${config.layers.length} layers x 2 matrices`,
      sum("q,v"),
      standard ? "4,194,304" : undefined,
    ),
    line(
      `all linear layers, rank ${rank}`,
      `${rank} x (in + out), over ${allLinear(config).length} matrices`,
      sum("all-linear"),
      standard ? "19,988,480" : undefined,
    ),
  ];
}

function quantizationLines(published: boolean): ExplainedLine[] {
  const section = "NF4: bits a parameter";
  const single = 4 + 32 / 64;
  const double = 4 + 8 / 64 + 32 / (64 * nestedBlockSize);
  const line = (what: string, derivation: string, value: number, figure: string) => ({
    section,
    what,
    derivation,
    value,
    ours: value.toFixed(3).replace(/0+$/, ""),
    published: published ? figure : undefined,
  });
  return [
    line("scales in fp32", "4 + 32/64 (one scale for 64 weights)", single, "4.5"),
    line(
      "scales quantised again",
      `4 + 8/64 + 32/(64 x ${nestedBlockSize}) (8-bit scales, one fp32 for ${nestedBlockSize} of them)`,
      double,
      "4.127",
    ),
  ];
}

async function memoryLines(shape: ModelShape, article: Article | undefined): Promise<ExplainedLine[]> {
  const section = "Memory, counted by running the real step on a backend that only counts";
  const { config, storedDType, storedForm } = shape;
  const sequenceLength = Math.min(reported.sequenceLength, config.maxPositions);
  const { batchSize, rank, targets } = reported;
  const run = {
    batchSize,
    sequenceLength,
    precision: "bf16",
    storedDType,
    storedForm,
    checkpointing: true,
  } as const;
  const recipe = { rank, alpha: 2 * rank, targets, optimizer: "adamw", seed: 0 } as const;
  const predict = (method: "lora" | "qlora") =>
    predictMemory(config, { ...run, recipe: { ...recipe, method } }).then(({ ledger }) => ledger);
  const [lora, qlora] = [await predict("lora"), await predict("qlora")];
  const setting = `rank 8 on every linear layer, ${reported.batchSize} x ${sequenceLength} tokens, activations recomputed, fp32 AdamW on the adapters`;
  const parts = ({ atPeak }: typeof qlora) =>
    Object.entries(atPeak)
      .filter(([, bytes]) => bytes > 0)
      .map(([category, bytes]) => `${category} ${gb(bytes)}`)
      .join(" + ");
  return [
    {
      section,
      what: "LoRA over bf16",
      derivation: `${parts(lora)}; ${setting}`,
      value: lora.peakBytes,
      ours: gb(lora.peakBytes),
    },
    {
      section,
      what: "QLoRA over NF4",
      derivation: `${parts(qlora)}; ${setting}; embedding and head stay in bf16; nothing for a driver or allocator`,
      value: qlora.peakBytes,
      ours: gb(qlora.peakBytes),
      published: article && `${article.qloraMemoryGB} GB`,
    },
  ];
}

function costLines(shape: ModelShape, gpus: GpuTable, options: ExplainOptions): ExplainedLine[] {
  const { article } = gpus;
  if (!article) return [];
  const section = "Cost";
  const gpu = findGpu(gpus, article.gpu);
  const utilization = options.utilization ?? gpus.utilization;
  const work = {
    batchSize: 4,
    sequenceLength: Math.min(reported.sequenceLength, shape.config.maxPositions),
    checkpointing: true,
  };
  const adapter = { rank: 8, targets: "all-linear" };
  const fullFlops = flopsPerToken(shape, "full", { ...work, ...adapter });
  const loraFlops = flopsPerToken(shape, "lora", { ...work, ...adapter });
  const full = estimateOnGpu(gpu, utilization, fullFlops, "full", {});
  const tokens = full.tokensPerSecond * article.gpus * article.hours * 3600;
  const perHour = gpu.price?.perHour ?? article.perHour / article.gpus;
  const lora = estimateOnGpu(gpu, utilization, loraFlops, "lora", {
    tokens,
    price: { perHour, source: "" },
  });
  const money = article.perHour * article.hours;
  const millions = (tokens / 1e6).toFixed(0);
  return [
    {
      section,
      what: "full fine-tuning",
      derivation: `$${article.perHour} an hour x ${article.hours} hours on ${article.machine}`,
      value: money,
      ours: dollars(money),
      published: dollars(money),
    },
    {
      section,
      what: "operations a token",
      derivation: `full ${(fullFlops / 1e9).toFixed(1)} GFLOP, LoRA ${(loraFlops / 1e9).toFixed(1)} GFLOP (no gradients of frozen weights), activations recomputed in both`,
      value: loraFlops / fullFlops,
      ours: `${((100 * loraFlops) / fullFlops).toFixed(0)}%`,
    },
    {
      section,
      what: "tokens in that run",
      derivation: `${article.gpus} x ${gpu.tflops} TFLOP/s x ${(100 * utilization).toFixed(0)}% x ${article.hours} h over the full operations a token; assumes that share of the peak and no loss between GPUs`,
      value: tokens,
      ours: `${millions}M`,
    },
    {
      section,
      what: "LoRA on the same tokens",
      derivation: `${((lora.seconds ?? 0) / 3600).toFixed(1)} GPU hours x $${perHour} (${gpu.price?.source ?? "the article's machine"}); same share of the peak, batch and length; one GPU does, so nothing is lost between GPUs`,
      value: lora.cost ?? null,
      ours: dollars(lora.cost ?? 0),
    },
    {
      section,
      what: `tokens that $${article.loraRunCost} buy`,
      derivation: `$${article.loraRunCost} / $${perHour} an hour at that rate: ${((100 * article.loraRunCost) / (lora.cost ?? 1)).toFixed(0)}% of the tokens above`,
      value: (tokens * article.loraRunCost) / (lora.cost ?? 1),
      ours: `${((tokens * article.loraRunCost) / (lora.cost ?? 1) / 1e6).toFixed(0)}M`,
    },
  ];
}

function claimLines(article: Article | undefined, measured: Measured | undefined): ExplainedLine[] {
  if (!article) return [];
  const section = "Claims of the article, which arithmetic does not give";
  const ours = (method: string) => {
    const found = (measured?.comparisons ?? []).flatMap(({ what, asOf, qualityKept }) =>
      Object.entries(qualityKept ?? {})
        .filter(([name]) => name === method || name.startsWith(`${method}-`))
        .map(([name, kept]) => `${kept.toFixed(1)}% (${name}; ${what}, ${asOf})`),
    );
    return found.length > 0 ? found.join("; ") : "not measured in this installation; run `lowrank compare`";
  };
  return [
    {
      section,
      what: "a LoRA run",
      derivation: "the article's price; its tokens, hours and machine are not stated",
      value: null,
      ours: "see the line above",
      published: `$${article.loraRunCost}`,
    },
    {
      section,
      what: "quality kept, LoRA",
      derivation: "depends on model, data and rank: measure it on yours with `lowrank compare --keep`",
      value: null,
      ours: ours("lora"),
      published: `${article.qualityKept.lora}%`,
    },
    {
      section,
      what: "quality kept, QLoRA",
      derivation: "as above",
      value: null,
      ours: ours("qlora"),
      published: `${article.qualityKept.qlora}%`,
    },
  ];
}
