// A --vram budget turns on what saves memory, the cheapest first and only as much as it takes, before a run is refused;
// and runs under such budgets stay within them, and learn what unlimited ones learn.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { BackendName } from "../../src/backend/index.ts";
import { openReference } from "../../src/backend/reference.ts";
import { findAdapter, webgpu } from "../../src/backend/webgpu.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import type { ModelFolder } from "../../src/formats/model-folder.ts";
import { fitMemory, type MemoryCheck, memoryFindings } from "../../src/memory/fit-memory.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { runTraining } from "../../src/train/run.ts";
import { relativeDifference } from "../conformance/model-case.ts";
import { backendName, filesOf, makeRows, scratchFolder, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

const noGpu = (await findAdapter()) ? "" : webgpu.reason!();
if (noGpu && process.env.LOWRANK_REQUIRE_WEBGPU === "1") throw new Error(noGpu);

describe("the choice", () => {
  // Logits of 2,048 tokens over 32,000 words are two chunks of 128 MiB; ten layers make recomputation worth it.
  const config = readModelConfig({
    ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 32_000, hidden_size: 256 },
    ...{ intermediate_size: 512, num_hidden_layers: 10, num_attention_heads: 4, num_key_value_heads: 4 },
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu" },
    tie_word_embeddings: false,
  });
  const noFiles: Partial<ModelFolder> = { config: {}, tensors: new Map() };
  const model = { backend: openReference("f32"), config, folder: noFiles as ModelFolder };
  const choose = (more: Record<string, unknown>): Promise<MemoryCheck> => {
    const given = { model: "m", data: "d", out: "o", method: "full", batchSize: 4, maxSteps: 1, ...more };
    return fitMemory(model, resolveOptions(trainDefinition, given), {
      ...{ sequenceLength: 512, sampleTokens: 512 },
    });
  };
  /** A budget that a run needing so many bytes just misses. */
  const justUnder = ({ neededBytes }: MemoryCheck) => Math.floor(neededBytes / 0.9) - 1;
  const chosen = ({ gradientCheckpointing, logitsChunkBytes, paged }: MemoryCheck) => ({
    ...{ gradientCheckpointing, paged, logits: logitsChunkBytes / 2 ** 20 },
  });

  it("saves step by step, and no more than it must", async () => {
    const plenty = await choose({ vram: 1e12 });
    expect(chosen(plenty)).toEqual({ gradientCheckpointing: false, paged: false, logits: 128 });
    const seen: Record<string, unknown>[] = [];
    let last = plenty;
    for (let next = await choose({ vram: justUnder(plenty) }); next.neededBytes < last.neededBytes; ) {
      seen.push(chosen(next));
      expect(memoryFindings(next)).toEqual([]);
      last = next;
      next = await choose({ vram: justUnder(last) });
    }
    expect(seen).toEqual([
      { gradientCheckpointing: false, paged: false, logits: 8 },
      { gradientCheckpointing: true, paged: false, logits: 8 },
      { gradientCheckpointing: true, paged: true, logits: 8 },
    ]);
    // What is left stays on the device.
    expect(last.pagedBudget! + last.neededBytes).toBeLessThanOrEqual(0.9 * last.limit!.bytes);
    expect(last.pagedBudget! + last.neededBytes).toBeGreaterThan(0.89 * last.limit!.bytes);
    const refused = memoryFindings(await choose({ vram: Math.floor(last.neededBytes / 2) }));
    expect(refused).toMatchObject([{ code: "memory", level: "refuse" }]);
    expect(refused[0]!.message).toMatch(/will need [\d.]+ MB .*--vram.*smaller --batch-size/);
  });

  it("recomputes on a card only what does not fit there, and what was asked for", async () => {
    const onCard = (availableBytes: number, more: Record<string, unknown> = {}) => {
      const backend = Object.assign(openReference("f32"), {
        deviceMemory: () => ({ availableBytes, heldBytes: 0 }),
      });
      const given = { model: "m", data: "d", out: "o", method: "full", batchSize: 4, maxSteps: 1, ...more };
      return fitMemory({ ...model, backend }, resolveOptions(trainDefinition, given), {
        ...{ sequenceLength: 512, sampleTokens: 512 },
      });
    };
    const kept = await onCard(1e12);
    expect(kept.gradientCheckpointing).toBe(false);
    const tight = await onCard(kept.neededBytes);
    expect(tight.gradientCheckpointing).toBe(true);
    expect(tight.neededBytes).toBeLessThan(kept.neededBytes);
    expect(memoryFindings(tight)).toEqual([]);
    expect((await onCard(kept.neededBytes, { gradientCheckpointing: "off" })).gradientCheckpointing).toBe(
      false,
    );
    expect((await onCard(1e12, { gradientCheckpointing: "on" })).gradientCheckpointing).toBe(true);
  });

  it("leaves alone what was asked for", async () => {
    const tight = await choose({ vram: 1e6, gradientCheckpointing: "off", paged: true, pagedBudget: 12_345 });
    expect(chosen(tight)).toMatchObject({ gradientCheckpointing: false, paged: true });
    expect(tight.pagedBudget).toBe(12_345);
    expect(chosen(await choose({}))).toMatchObject({ paged: false, logits: 128 });
  });
});

const folder = scratchFolder();
const modelFolder = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(24));
let runs = 0;

async function train(backend: BackendName, flags: Readonly<Record<string, unknown>>) {
  const out = join(folder, `run-${++runs}`);
  const options = resolveOptions(trainDefinition, {
    ...{ model: modelFolder, data, out, backend, precision: "fp32", method: "full", timing: false },
    ...{ maxSteps: 6, batchSize: 4, ...flags },
  });
  const losses: number[] = [];
  const messages: string[] = [];
  await runTraining(
    options,
    (event) => {
      if (event.type === "train") losses.push(event.loss);
      if (event.type === "info") messages.push(event.message);
    },
    { interrupted: false },
  );
  const record = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
  return { out, losses, messages: messages.join("; "), record, files: filesOf(out, ["model.safetensors"]) };
}

const devices = [
  { backend: backendName as BackendName, skip: "" },
  { backend: "webgpu" as const, skip: noGpu },
];

describe.each(devices)("on $backend", ({ backend, skip }) => {
  it.skipIf(skip).each([
    ["adamw", 70_000],
    ["adamw8bit", 1],
  ])("%s paged is the unpaged run, bit for bit", async (optimizer, pagedBudget) => {
    const whole = await train(backend, { optimizer });
    const paged = await train(backend, { optimizer, paged: true, pagedBudget });
    expect(paged.files).toEqual(whole.files);
    expect(paged.losses).toEqual(whole.losses);
    const place = backend === "webgpu" ? "this machine's memory" : paged.out;
    expect(paged.messages).toMatch(/paging 0\.\d MB of optimizer state to/);
    expect(paged.messages).toContain(place);
  });

  it.skipIf(skip)("stays within --vram by recomputing and paging", async () => {
    const whole = await train(backend, {});
    // Weights and gradients have half of what AdamW adds to them; activations are small beside both.
    const vram = Math.floor(0.8 * whole.record.peakBytes);
    const limited = await train(backend, { vram });
    expect(limited.record).toMatchObject({ status: "done", gradientCheckpointing: true, paged: true });
    expect(limited.record.peakBytes).toBeLessThanOrEqual(vram);
    expect(limited.messages).toMatch(/gradient checkpointing is on.*/);
    expect(relativeDifference(limited.losses, whole.losses)).toBeLessThan(1e-5);
    await expect(train(backend, { vram: Math.floor(0.2 * whole.record.peakBytes) })).rejects.toThrow(
      /--vram.*--allow memory/s,
    );
  });
});
