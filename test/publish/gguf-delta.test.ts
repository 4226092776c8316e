// GGUF files of models whose layers walk along sequences: order of value heads, decays, kernels, names and keys as
// llama.cpp's converter has them, and, where node-llama-cpp is there, its answers beside ours.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { llama, openLlama } from "./llama.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(() => {
  backend = openReference("f32");
});
afterAll(() => backend.close());

async function exported(name: string, adapter?: string) {
  const model = join(root, name);
  const out = join(root, `${name}${adapter ? "-lora" : ""}.gguf`);
  await exportGguf(backend, {
    ...{ model, out, adapter, type: "f32", adapterOnly: adapter !== undefined, modelfile: false },
  });
  const file = await openGguf(await openFile(out));
  const read = async (tensor: string) => [...decodeToF32(await file.readTensor(tensor), "f32")];
  return { model, out, file, read, value: (key: string) => file.metadata.get(key)?.value };
}

/** Value heads as the file has them: those of one key head, here two of four, are two places apart. */
const order = [0, 2, 1, 3];

it("value heads, decays and kernels of qwen35", async () => {
  writeTinyModel(join(root, "qwen3-5"), "qwen3-5");
  const { model, file, read, value } = await exported("qwen3-5");
  const opened = await openModel(backend, model);
  const own = async (name: string) => [
    ...decodeToF32(await opened.folder.read(`model.layers.0.linear_attn.${name}`), "f32"),
  ];
  const [keys, each, width] = [2 * 2 * 16, 16, 32];
  const heads = (values: number[], size: number) =>
    order.flatMap((head) => values.slice(head * size, (head + 1) * size));
  const qkv = await own("in_proj_qkv.weight");
  const split = keys * width;
  expect(await read("blk.0.attn_qkv.weight")).toEqual([
    ...qkv.slice(0, split),
    ...heads(qkv.slice(split), each * width),
  ]);
  const conv = await own("conv1d.weight");
  expect(file.tensors.get("blk.0.ssm_conv1d.weight")?.shape).toEqual([keys + 4 * each, 4]);
  expect(await read("blk.0.ssm_conv1d.weight")).toEqual([
    ...conv.slice(0, keys * 4),
    ...heads(conv.slice(keys * 4), each * 4),
  ]);
  expect(await read("blk.0.attn_gate.weight")).toEqual(heads(await own("in_proj_z.weight"), each * width));
  expect(await read("blk.0.ssm_alpha.weight")).toEqual(heads(await own("in_proj_a.weight"), width));
  expect(await read("blk.0.ssm_beta.weight")).toEqual(heads(await own("in_proj_b.weight"), width));
  expect(await read("blk.0.ssm_dt.bias")).toEqual(heads(await own("dt_bias"), 1));
  const decays = (await own("A_log")).map((log) => Math.fround(-Math.exp(log)));
  expect(await read("blk.0.ssm_a")).toEqual(heads(decays, 1));
  const out = await own("out_proj.weight");
  const rows = Array.from({ length: width }, (_, r) => out.slice(r * 64, (r + 1) * 64));
  expect(await read("blk.0.ssm_out.weight")).toEqual(rows.flatMap((row) => heads(row, each)));
  // The norm of what is read is a plain one; the others are around 1.
  expect(await read("blk.0.ssm_norm.weight")).toEqual(await own("norm.weight"));
  const shifted = decodeToF32(await opened.folder.read("model.norm.weight"), "f32").map((w) => w + 1);
  expect(await read("output_norm.weight")).toEqual([...shifted]);
  expect(file.tensors.has("blk.0.post_attention_norm.weight")).toBe(true);
  expect(value("general.architecture")).toBe("qwen35");
  expect(value("qwen35.full_attention_interval")).toBe(2);
  expect(value("qwen35.ssm.time_step_rank")).toBe(4);
  expect(value("qwen35.rope.dimension_count")).toBe(4);
  expect(value("qwen35.rope.dimension_sections")).toEqual([1, 1, 0, 0]);
  await file.close();
  await opened.close();
});

it("adapters follow the order of heads", async () => {
  const model = writeTinyModel(join(root, "qwen3-5"), "qwen3-5");
  const adapter = await writeRandomAdapter(join(root, "adapter"), model, { rank: 2 });
  const { read, file } = await exported("qwen3-5", adapter);
  const { readAdapter } = await import("../../src/formats/peft.ts");
  const { modules } = await readAdapter(adapter);
  const { b } = modules.get("model.layers.0.linear_attn.in_proj_a")!;
  expect(await read("blk.0.ssm_alpha.weight.lora_b")).toEqual(
    order.flatMap((head) => [...b.values.slice(2 * head, 2 * head + 2)]),
  );
  const { a } = modules.get("model.layers.0.linear_attn.out_proj")!;
  const rows = [0, 1].map((r) => [...a.values.slice(r * 64, (r + 1) * 64)]);
  expect(await read("blk.0.ssm_out.weight.lora_a")).toEqual(
    rows.flatMap((row) => order.flatMap((head) => row.slice(16 * head, 16 * head + 16))),
  );
  await file.close();
});

it("names and keys of lfm2", async () => {
  writeTinyModel(join(root, "lfm2"), "lfm2");
  const { file, value } = await exported("lfm2");
  expect(value("lfm2.attention.head_count_kv")).toEqual([0, 2, 0]);
  expect(value("lfm2.shortconv.l_cache")).toBe(3);
  expect(file.tensors.get("blk.0.shortconv.conv.weight")?.shape).toEqual([32, 3]);
  for (const name of ["token_embd_norm", "blk.0.shortconv.in_proj", "blk.1.attn_q_norm", "blk.2.ffn_gate"])
    expect(file.tensors.has(`${name}.weight`), name).toBe(true);
  await file.close();
});

it("what llama.cpp's architectures have no word for is refused", async () => {
  for (const name of ["qwen3-5-bias-tied", "lfm2-bias"]) {
    writeTinyModel(join(root, name), name);
    await expect(exported(name)).rejects.toThrow("it cannot be exported to GGUF");
  }
});

describe.skipIf(!llama.present)(`llama.cpp (${llama.reason})`, () => {
  it.each(["qwen3-5", "lfm2"])("%s: greedy tokens and log-probabilities", async (name) => {
    const model = writeTinyModel(join(root, name), name);
    const path = join(model, "config.json");
    const config = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...config, max_position_embeddings: 256 }));
    const { out, file } = await exported(name);
    await file.close();
    const opened = await openModel(backend, model);
    const other = await openLlama(out);
    const prompt = Array.from({ length: 90 }, (_, i) => 3 + ((i * 37) % 200));
    const request = { promptIds: prompt, maxNewTokens: 32, stopIds: [], sampling: greedy };
    const [ours] = await generateBatch(opened.loaded.decoder, [request]);
    const logits = await tokenLogits(opened.loaded.decoder, prompt);
    const width = opened.config.vocabularySize;
    let worst = 0;
    for (const [t, theirs] of (await other.probabilities(prompt)).entries()) {
      const row = logits.subarray(t * width, (t + 1) * width);
      const norm = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      for (const [id, p] of theirs)
        if (p > 1e-6) worst = Math.max(worst, Math.abs(Math.log(p) - (row[id]! - norm)));
    }
    expect(worst).toBeLessThan(1e-2);
    expect(await other.greedy(prompt, 32)).toEqual(ours!.tokenIds);
    await other.close();
    await opened.close();
  });
});
