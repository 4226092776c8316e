import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { memoryFolder } from "../../src/formats/byte-source.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { writeModelFolder } from "../../src/formats/model-folder-writer.ts";
import { hashModelFolder } from "../../src/formats/model-hash.ts";
import { headerOf, type TensorToWrite } from "../../src/formats/safetensors-writer.ts";
import { copySideFiles, writeChatTemplates } from "../../src/formats/side-files.ts";
import { UserError } from "../../src/util/errors.ts";
import { python } from "./python.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "lowrank-model-folder-"));
});
afterAll(() => rm(root, { recursive: true }));

function tensors(count: number): TensorToWrite[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `model.layers.${i}.weight`,
    dtype: "F32",
    shape: [2, 2],
    data: () => new Uint8Array(new Float32Array([i, i + 1, i + 2, i + 3]).buffer),
  }));
}

const text = (value: unknown) =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

/** A safetensors file of F32 [1] tensors. */
function weights(...names: string[]): Uint8Array {
  const header = headerOf(
    names.map((name) => ({ name, dtype: "F32", shape: [1] })),
    {},
  );
  const bytes = new Uint8Array(header.length + 4 * names.length);
  bytes.set(header);
  return bytes;
}

describe("model folder", () => {
  it("reads back a single file, with its generation config", async () => {
    const path = join(root, "single");
    const names = await writeModelFolder(path, {
      config: { model_type: "llama" },
      generationConfig: { eos_token_id: [1, 2] },
      tensors: tensors(3),
    });
    expect(names).toEqual(["model.safetensors"]);
    const model = await openModelFolder(path);
    expect(model.config).toEqual({ model_type: "llama" });
    expect(model.generationConfig).toEqual({ eos_token_id: [1, 2] });
    expect(model.weightBytes).toBe(48);
    expect(model.tensors.get("model.layers.2.weight")).toMatchObject({
      dtype: "F32",
      shape: [2, 2],
      sizeBytes: 16,
    });
    expect([...new Float32Array((await model.read("model.layers.2.weight")).buffer)]).toEqual([2, 3, 4, 5]);
    await expect(model.read("lm_head.weight")).rejects.toThrow(/no tensor "lm_head.weight"/);
    await model.close();
  });

  it("shards above the bound, and leaves nothing of the earlier weights", async () => {
    const path = join(root, "sharded");
    await writeModelFolder(path, { config: {}, tensors: tensors(5) }, { shardBytes: 32 });
    expect((await readdir(path)).sort()).toEqual([
      "config.json",
      "model-00001-of-00003.safetensors",
      "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
      "model.safetensors.index.json",
    ]);
    const model = await openModelFolder(path);
    expect([...model.tensors.keys()]).toEqual(tensors(5).map(({ name }) => name));
    expect([...new Float32Array((await model.read("model.layers.4.weight")).buffer)]).toEqual([4, 5, 6, 7]);
    await model.close();
    await writeModelFolder(path, { config: {}, tensors: tensors(1) });
    expect((await readdir(path)).sort()).toEqual(["config.json", "model.safetensors"]);
    await writeModelFolder(path, { config: {}, tensors: tensors(4) }, { shardBytes: 32 });
    expect(await readdir(path)).not.toContain("model.safetensors");
  });

  it("copies the tokenizer and nothing of the weights", async () => {
    const from = join(root, "from");
    const to = join(root, "to");
    await writeModelFolder(from, { config: {}, tensors: tensors(1) });
    await writeModelFolder(to, { config: {}, tensors: tensors(2) });
    await writeFile(join(from, "tokenizer.json"), "{}");
    expect(await copySideFiles(from, to)).toEqual(["tokenizer.json"]);
    await mkdir(join(from, "additional_chat_templates"));
    await writeFile(join(from, "additional_chat_templates", "tool_use.jinja"), "T");
    expect(await copySideFiles(from, to)).toEqual([
      "tokenizer.json",
      "additional_chat_templates/tool_use.jinja",
    ]);
    expect(await readFile(join(to, "additional_chat_templates", "tool_use.jinja"), "utf8")).toBe("T");
  });

  it("writes chat templates in place of all others, and none outside the folder", async () => {
    const path = join(root, "templates");
    await mkdir(join(path, "additional_chat_templates"), { recursive: true });
    await writeFile(join(path, "additional_chat_templates", "rag.jinja"), "R");
    const config = { eos_token: "x", chat_template: "C", model_max_length: 8 };
    await writeFile(join(path, "tokenizer_config.json"), JSON.stringify(config));
    await writeChatTemplates(path, { default: "D", tool_use: "T", "../out": "O", "..": "P" });
    expect((await readdir(path)).sort()).toEqual([
      "additional_chat_templates",
      "chat_template.jinja",
      "tokenizer_config.json",
    ]);
    expect(await readdir(join(path, "additional_chat_templates"))).toEqual(["tool_use.jinja"]);
    expect(JSON.parse(await readFile(join(path, "tokenizer_config.json"), "utf8"))).toEqual({
      eos_token: "x",
      model_max_length: 8,
    });
    await writeChatTemplates(path, { tool_use: "T" });
    expect(await readdir(path)).not.toContain("chat_template.jinja");
  });

  it("hashes content, not place", async () => {
    const at = async (name: string, count: number, full: boolean) => {
      await writeModelFolder(join(root, name), { config: {}, tensors: tensors(count) });
      const model = await openModelFolder(join(root, name));
      const hash = await hashModelFolder(model, { full });
      await model.close();
      return hash;
    };
    expect(await at("hash-a", 3, true)).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(await at("hash-a", 3, true)).toBe(await at("hash-b", 3, true));
    expect(await at("hash-a", 3, false)).toBe(await at("hash-b", 3, false));
    expect(await at("hash-a", 3, false)).not.toBe(await at("hash-b", 2, false));
  });

  it("samples large files at both ends", async () => {
    const header = headerOf([{ name: "w", dtype: "U8", shape: [1 << 20] }], {});
    const hashOf = async (changeAt: number) => {
      const bytes = new Uint8Array(header.length + (1 << 20));
      bytes.set(header);
      bytes[header.length + changeAt]! += 1;
      const model = await openModelFolder(
        memoryFolder({ "config.json": text({}), "model.safetensors": bytes }),
      );
      return hashModelFolder(model);
    };
    expect(new Set(await Promise.all([0, (1 << 20) - 1].map(hashOf))).size).toBe(2);
  });

  it.skipIf(!python.has("transformers", "torch"))(
    `writes shards that the reference reads (${python.reason})`,
    async () => {
      const path = join(root, "reference");
      await writeModelFolder(path, { config: {}, tensors: tensors(5) }, { shardBytes: 32 });
      const out = python.run(
        `import sys, json, os
from safetensors import safe_open
index = json.load(open(os.path.join(sys.argv[1], "model.safetensors.index.json")))
total = 0
for name, shard in index["weight_map"].items():
    with safe_open(os.path.join(sys.argv[1], shard), "pt") as f: total += f.get_tensor(name).sum().item()
print(total, index["metadata"]["total_size"])`,
        path,
      );
      expect(out.trim()).toBe("70.0 80");
    },
    60_000,
  );

  const index = (map: unknown) => ({
    "config.json": text({}),
    "model.safetensors.index.json": text({ weight_map: map }),
  });
  const broken: [string, Record<string, Uint8Array>, RegExp][] = [
    ["an empty folder", {}, /there is no config\.json/],
    ["an adapter", { "adapter_config.json": text({}) }, /this is an adapter.*--adapter/],
    ["a folder of GGUF", { "m.gguf": text("") }, /only a GGUF file \(m\.gguf\)/],
    [
      "config.json with a comma too many",
      { "config.json": text('{\n  "a": 1,\n}') },
      /config\.json: not valid JSON, line 3 column 1/,
    ],
    ["config.json cut off", { "config.json": text('{"a": [1,') }, /ends before the last bracket/],
    ["config.json that is empty", { "config.json": text("") }, /the text is empty/],
    ["config.json that is a list", { "config.json": text("[1]") }, /expected a JSON object/],
    ["config.json of 17 MB", { "config.json": new Uint8Array(17 << 20) }, /too large/],
    ["no weights", { "config.json": text({}) }, /there are no weights/],
    [
      "only a pickle",
      { "config.json": text({}), "pytorch_model.bin": text("") },
      /PyTorch pickle \(pytorch_model\.bin\)/,
    ],
    ["only .pth", { "config.json": text({}), "consolidated.00.pth": text("") }, /PyTorch pickle/],
    ["only GGUF weights", { "config.json": text({}), "m.gguf": text("") }, /only as GGUF/],
    [
      "weights by another name",
      { "config.json": text({}), "w.safetensors": text("") },
      /It has w\.safetensors/,
    ],
    ["an index without a map", index(undefined), /expected a "weight_map"/],
    ["a shard outside the folder", index({ a: "../../etc/x.safetensors" }), /plain name/],
    ["a shard with an absolute path", index({ a: "/etc/x.safetensors" }), /plain name/],
    ["a shard on another drive", index({ a: "C:\\x.safetensors" }), /plain name/],
    ["a shard that is no string", index({ a: 3 }), /plain name/],
    ["a missing shard", index({ a: "s1.safetensors" }), /1 of the 1 shards.*missing: s1\.safetensors/],
    [
      "a tensor that its shard lacks",
      { ...index({ a: "s1.safetensors" }), "s1.safetensors": weights("b") },
      /"a" is in s1\.safetensors, and s1\.safetensors has no such tensor/,
    ],
    [
      "a truncated shard",
      { ...index({ a: "s1.safetensors" }), "s1.safetensors": weights("a").subarray(0, -1) },
      /cut off/,
    ],
    [
      "a shard of no bytes",
      { ...index({ a: "s1.safetensors" }), "s1.safetensors": new Uint8Array(0) },
      /too short/,
    ],
  ];
  it.each(broken)("refuses %s", async (_, files, message) => {
    const opening = openModelFolder(memoryFolder(files, "m"));
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(message);
  });

  it("refuses a folder that is missing or is a file", async () => {
    await expect(openModelFolder(join(root, "nowhere"))).rejects.toThrow(/no such folder/);
    await writeFile(join(root, "plain"), "");
    await expect(openModelFolder(join(root, "plain"))).rejects.toThrow(/expected a folder, found a file/);
  });
});
