// The planner: its figures for LLaMA-2 7B, what fits, and that a counted ledger is the ledger of the real steps.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import type { Backend, Precision } from "../../src/backend/backend.ts";
import { cpu } from "../../src/backend/cpu.ts";
import { openReference } from "../../src/backend/reference.ts";
import { benchDefinition } from "../../src/config/bench-options.ts";
import { planDefinition } from "../../src/config/plan-options.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { predictMemory } from "../../src/memory/predict-memory.ts";
import { readModelConfig } from "../../src/models/index.ts";
import type { OptimizerName } from "../../src/optim/index.ts";
import { explain } from "../../src/plan/explain.ts";
import { findGpu, readGpuTable } from "../../src/plan/gpus.ts";
import { makePlan, readInputs } from "../../src/plan/plan.ts";
import { adapterParameters, readShape } from "../../src/plan/shape.ts";
import { benchShape } from "../../src/train/bench.ts";

const path = (name: string) => fileURLToPath(new URL(`configs/${name}.json`, import.meta.url));
const configOf = (name: string) => readModelConfig(JSON.parse(readFileSync(path(name), "utf8")));
const options = (flags: Record<string, unknown>) =>
  resolveOptions(planDefinition, { model: path("small-llama"), sequenceLength: 64, ...flags });

/** The shape of LLaMA-2 7B, from its published description. */
const llama2 = {
  model_type: "llama",
  vocab_size: 32000,
  hidden_size: 4096,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  intermediate_size: 11008,
  max_position_embeddings: 4096,
};

const addon = existsSync(new URL("../../native/build/lowrank.node", import.meta.url));

interface Case {
  readonly shape: string;
  readonly method: "lora" | "qlora" | "full";
  readonly checkpointing: boolean;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly optimizer?: OptimizerName;
  readonly precision?: Precision;
}

const cases: Case[] = [
  { shape: "small-llama", method: "lora", checkpointing: false, batchSize: 2, sequenceLength: 48 },
  { shape: "small-llama", method: "lora", checkpointing: true, batchSize: 3, sequenceLength: 33 },
  { shape: "small-llama", method: "full", checkpointing: false, batchSize: 1, sequenceLength: 64 },
  { shape: "small-qwen3", method: "full", checkpointing: true, batchSize: 2, sequenceLength: 20 },
  { shape: "small-qwen3", method: "lora", checkpointing: false, batchSize: 1, sequenceLength: 17 },
  { shape: "small-llama", method: "qlora", checkpointing: true, batchSize: 1, sequenceLength: 40 },
  { shape: "small-qwen3", method: "qlora", checkpointing: false, batchSize: 2, sequenceLength: 24 },
  {
    shape: "small-llama",
    method: "full",
    checkpointing: true,
    batchSize: 1,
    sequenceLength: 32,
    optimizer: "adamw8bit",
  },
];

describe("a counted ledger", () => {
  const backends: [string, (precision: Precision) => Promise<Backend>][] = [
    ["reference", async () => openReference()],
  ];
  if (addon) backends.push(["cpu", async (precision) => (await cpu.open({ precision }))!]);
  for (const [name, open] of backends) {
    it.each(cases)(`is the ledger of real steps on ${name}: $shape $method`, async (one) => {
      // The reference is slow: a short sequence is enough there.
      const sequenceLength = name === "reference" ? 6 : one.sequenceLength;
      const precision = name === "reference" ? "fp32" : "bf16";
      const backend = await open(precision);
      const config = configOf(one.shape);
      const bench = resolveOptions(benchDefinition, {
        model: "random",
        method: one.method,
        batchSize: one.batchSize,
        sequenceLength,
        gradientCheckpointing: one.checkpointing ? "on" : "off",
        optimizer: one.optimizer ?? "adamw",
        steps: 1,
        warmup: 0,
      });
      const measured = await benchShape(backend, { config, storedDType: "f32" }, bench, () => {});
      backend.close();
      const predicted = await predictMemory(config, {
        recipe: bench,
        precision,
        batchSize: one.batchSize,
        sequenceLength,
        checkpointing: one.checkpointing,
      });
      expect(predicted.ledger.peakBytes).toBe(measured.peakBytes);
      expect(predicted.ledger.atPeak).toEqual(measured.memory.atPeak);
      expect(predicted.trainableParameters).toBe(measured.trainableParameters);
    });
  }

  it.skipIf(!addon)("is that of fp32 steps on the CPU over matrices that a file has in bf16", async () => {
    const config = configOf("small-llama");
    const bench = resolveOptions(benchDefinition, {
      ...{ model: "random", method: "lora", batchSize: 1, sequenceLength: 24 },
      ...{ gradientCheckpointing: "off", steps: 1, warmup: 0 },
    });
    const run = { recipe: bench, precision: "fp32", batchSize: 1, sequenceLength: 24 } as const;
    const weights: number[] = [];
    for (const storedDType of ["f32", "bf16"] as const) {
      const backend = (await cpu.open({ precision: "fp32" }))!;
      const measured = await benchShape(backend, { config, storedDType }, bench, () => {});
      backend.close();
      const { widensBf16 } = backend;
      const counted = await predictMemory(config, { ...run, checkpointing: false, storedDType, widensBf16 });
      expect(counted.ledger.atPeak).toEqual(measured.memory.atPeak);
      weights.push(measured.memory.atPeak.weights);
    }
    // Vectors alone stay in f32.
    expect(weights[1]! / weights[0]!).toBeCloseTo(0.5, 1);
  });
});

describe("LLaMA-2 7B", () => {
  const config = readModelConfig(llama2);
  const shape = {
    config,
    parameters: 6_738_415_616,
    linearParameters: 6_476_005_376,
    activeParameters: 6_738_415_616,
    storedDType: "bf16",
  } as const;

  it("has the published numbers of trainable parameters", async () => {
    expect(adapterParameters(config, 8, "q,v")).toBe(4_194_304);
    expect(adapterParameters(config, 8, "all-linear")).toBe(19_988_480);
    const recipe = {
      method: "qlora",
      rank: 8,
      alpha: 16,
      targets: "all-linear",
      optimizer: "adamw",
      seed: 0,
    } as const;
    const size = { batchSize: 1, sequenceLength: 512, checkpointing: true, precision: "bf16" } as const;
    const qlora = await predictMemory(config, { recipe, ...size });
    expect(qlora.baseParameters).toBe(shape.parameters);
    expect(qlora.trainableParameters).toBe(19_988_480);
    // Block linears at 4.127 bits and codebooks, embeddings and head at 16: 3.34 + 0.52 GB.
    const { weights, scales } = qlora.ledger.live;
    expect((weights + scales) / 1e9).toBeCloseTo(3.87, 2);
  });

  it("is explained with the published figure beside ours", async () => {
    const lines = await explain(shape, await readGpuTable(), undefined, { rank: 8 });
    const found = (what: string) => lines.find((line) => line.what === what)!;
    expect(found("round figure")).toMatchObject({ ours: "112.0 GB", published: "112 GB" });
    expect(found("exact").ours).toBe("107.8 GB");
    expect(found("one q_proj matrix").value).toBe(16_777_216);
    expect(found("the same at rank 8").value).toBe(65_536);
    expect(found("q and v, rank 8").value).toBe(4_194_304);
    expect(found("all linear layers, rank 8").value).toBe(19_988_480);
    expect(found("scales in fp32").value).toBe(4.5);
    expect(found("scales quantised again").value).toBeCloseTo(4.127, 3);
    expect(found("full fine-tuning").value).toBe(320);
    expect(found("QLoRA over NF4").published).toBe("9 GB");
    expect(found("quality kept, LoRA")).toMatchObject({ value: null, published: "97.5%" });
  });

  it("names no published figure for another shape", async () => {
    const small = await readShape(path("small-llama"));
    const lines = await explain(small, await readGpuTable(), undefined, { rank: 8 });
    expect(lines.filter(({ section, published }) => published && /Memory|LoRA:|NF4/.test(section))).toEqual(
      [],
    );
  });
});

describe("a plan", () => {
  const plan = async (flags: Record<string, unknown>) => {
    const resolved = options(flags);
    return makePlan(await readInputs(resolved), 2 ** 33, () => {});
  };

  it("takes the length that the model has, where none is given", async () => {
    const { sequenceLength } = await plan({ model: "tiny", sequenceLength: undefined });
    expect(sequenceLength).toBe(512);
    await expect(plan({ model: "tiny", sequenceLength: 513 })).rejects.toThrow(/trained for 512 positions/);
  });

  it("says what a token costs a server, and how many fit beside the weights", async () => {
    const { serving } = await plan({ model: "tiny", sequenceLength: undefined, vram: "24MB" });
    // 4 layers, keys and values of 64 numbers; in 8 bits 34 bytes for 32.
    expect(serving.tokenBytes).toEqual({ f32: 2048, bf16: 1024, f16: 1024, q8_0: 544 });
    expect([serving.slots, serving.context]).toEqual([8, 512]);
    expect(serving.weights.map(({ name }) => name)).toEqual(["lora", "qlora"]);
    for (const { weightBytes, passBytes, tokens } of serving.weights)
      expect(tokens!.f32).toBe(Math.max(0, Math.floor((24e6 - weightBytes - passBytes) / 2048)));
    const free = await plan({ model: "tiny", sequenceLength: undefined, vram: "1GB" });
    expect(free.serving.weights[1]!.tokens!.bf16).toBeGreaterThan(900_000);
  });

  it("says what fits, and the largest batch that does", async () => {
    const found = await plan({ vram: "24MB", method: "lora" });
    const [lora] = found.methods;
    const { batchSize } = lora!.largest!;
    expect(batchSize).toBeGreaterThan(1);
    const peak = async (size: number) => {
      const { methods } = await plan({ vram: "24MB", method: "lora", batchSize: size });
      return methods[0]!.variants.find(({ checkpointing }) => checkpointing)!;
    };
    expect(await peak(batchSize)).toMatchObject({ fits: true });
    expect(await peak(batchSize + 1)).toMatchObject({ fits: false });
  });

  it("prices a token budget with its assumptions", async () => {
    const found = await plan({ gpu: "A100 40GB", tokens: 1e9, method: "lora", price: 3 });
    const [estimate] = found.estimates.lora!;
    expect(estimate!.cost).toBeCloseTo((3 * estimate!.seconds!) / 3600, 9);
    expect(estimate!.seconds).toBeCloseTo(1e9 / estimate!.tokensPerSecond, 6);
    expect(estimate!.assumptions.join()).toContain("assumed, not measured");
  });

  it("times real steps with --probe", async () => {
    if (!addon) return;
    const found = await plan({ probe: true, method: "lora", batchSize: 1, threads: 1, tokens: 1000 });
    expect(found.probe).toMatchObject({ whole: true, layers: [3], sequences: 1 });
    expect(found.estimates.lora![0]!.tokensPerSecond).toBe(found.probe!.tokensPerSecond);
  });

  it("refuses lengths beyond the model's positions, and data without a tokenizer", async () => {
    await expect(plan({ sequenceLength: 2048 })).rejects.toThrow("trained for 1024 positions");
    await expect(plan({ data: "rows.jsonl" })).rejects.toThrow("bare configuration");
  });
});

it("knows its GPUs by name and refuses others", async () => {
  const table = await readGpuTable();
  expect(findGpu(table, "RTX 4090").memoryGB).toBe(24);
  expect(() => findGpu(table, "a9000")).toThrow("not in the table");
  for (const gpu of Object.values(table.gpus)) expect(gpu.source).not.toBe("");
});
