// GGUF files that llama.cpp reads as we mean them: names, metadata and permuted rows by our own reader, and, where
// node-llama-cpp is there, its tokens, greedy texts and log-probabilities beside ours.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { beginText } from "../../src/data/render.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { interleaveRows } from "../../src/models/gguf/names.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { type ExportOptions, exportGguf } from "../../src/publish/export-gguf.ts";
import { tokenizerMetadata } from "../../src/publish/gguf-tokenizer.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.node.ts";
import { asset, assetJson, hasAssets, WITHOUT } from "../text/assets.ts";
import { llama, openLlama } from "./llama.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => backend.close());

const exportTo = (out: string, given: Pick<ExportOptions, "model"> & Partial<ExportOptions>) =>
  exportGguf(backend, {
    type: "auto",
    adapterOnly: false,
    modelfile: false,
    ...given,
    out: join(root, out),
  });

/** Changes sliding_window in a folder's config.json. */
function setWindow(model: string, window: number | null): void {
  const path = join(model, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, JSON.stringify({ ...config, sliding_window: window }));
}

async function read(name: string) {
  const file = await openGguf(await openFile(join(root, name)));
  const value = (key: string) => file.metadata.get(key)?.value;
  return { file, value };
}

describe("export to GGUF", () => {
  it("names every weight, permutes llama's q and k and leaves a tied head out", async () => {
    const model = writeTinyModel(join(root, "llama3"), "llama-gqa-tied-llama3");
    const opened = await openModel(backend, model);
    const config = opened.config;
    await exportTo("llama3.gguf", { model });
    const { file, value } = await read("llama3.gguf");
    expect(value("general.architecture")).toBe("llama");
    expect(value("general.file_type")).toBe(0);
    expect(value("llama.attention.head_count_kv")).toBe(config.layers[0]!.kvHeads);
    expect(value("llama.rope.freq_base")).toBe(Math.fround(config.ropes[0]!.rope.theta));
    expect(value("tokenizer.ggml.model")).toBe("gpt2");
    expect(file.tensors.has("output.weight")).toBe(false);
    expect(file.tensors.get("rope_freqs.weight")?.shape).toEqual([config.layers[0]!.headWidth / 2]);
    const name = "model.layers.0.self_attn.k_proj.weight";
    const original = decodeToF32(await opened.folder.read(name), "f32");
    expect(decodeToF32(await file.readTensor("blk.0.attn_k.weight"), "f32")).toEqual(
      interleaveRows(
        original,
        { rows: original.length, headWidth: config.layers[0]!.headWidth },
        config.width,
      ),
    );
    const v = decodeToF32(await file.readTensor("blk.1.attn_v.weight"), "f32");
    expect(v).toEqual(decodeToF32(await opened.folder.read("model.layers.1.self_attn.v_proj.weight"), "f32"));
    await file.close();
    await opened.close();
  });

  it("keeps qwen's rows, biases and norms of heads", async () => {
    const model = writeTinyModel(join(root, "qwen3"), "qwen3");
    await exportTo("qwen3.gguf", { model, type: "f16" });
    const { file, value } = await read("qwen3.gguf");
    expect(value("general.architecture")).toBe("qwen3");
    expect(file.tensors.get("blk.0.attn_q_norm.weight")?.type).toBe("f32");
    expect(file.tensors.get("blk.0.attn_q.weight")?.type).toBe("f16");
    await file.close();
    const biased = writeTinyModel(join(root, "qwen2"), "qwen2-tied");
    await exportTo("qwen2.gguf", { model: biased, type: "q8_0" });
    const second = await read("qwen2.gguf");
    expect(second.file.tensors.get("blk.0.attn_q.bias")?.type).toBe("f32");
    await second.file.close();
  });

  it("writes mistral as llama, and says what llama.cpp does not know of its window", async () => {
    const model = writeTinyModel(join(root, "mistral"), "mistral-window");
    const warnings: string[] = [];
    const given = {
      type: "auto",
      adapterOnly: false,
      modelfile: false,
      out: join(root, "mistral.gguf"),
    } as const;
    await exportGguf(backend, { ...given, model }, (message) => void warnings.push(message));
    const { file, value } = await read("mistral.gguf");
    expect(value("general.architecture")).toBe("llama");
    expect(value("llama.attention.head_count_kv")).toBe(2);
    // As llama.cpp's converter: its llama models have no key for a window.
    expect([...file.metadata.keys()].filter((key) => key.includes("window"))).toEqual([]);
    await file.close();
    expect(warnings.join()).toContain("beyond 8 tokens (the sliding window) it computes something else");
    setWindow(model, null);
    warnings.length = 0;
    await exportGguf(backend, { ...given, model }, (message) => void warnings.push(message));
    expect(warnings).toEqual([]);
  });

  it("interleaves halves of heads", () => {
    const rows = Float32Array.from([0, 1, 2, 3, 4, 5, 6, 7]);
    expect([...interleaveRows(rows, { rows: 8, headWidth: 4 }, 1)]).toEqual([0, 2, 1, 3, 4, 6, 5, 7]);
    // Only the first rows are heads that turn.
    expect([...interleaveRows(rows, { rows: 4, headWidth: 4 }, 1)]).toEqual([0, 2, 1, 3, 4, 5, 6, 7]);
  });

  it("folds rank-stabilised scales and patterns so that alpha / rank is right for every module", async () => {
    const model = writeTinyModel(join(root, "folded-base"), "qwen3");
    const adapter = await writeRandomAdapter(join(root, "folded"), model, {
      rslora: true,
      rankPattern: { q_proj: 2 },
      alphaPattern: { v_proj: 5 },
    });
    await exportTo("folded.gguf", { model, adapter, adapterOnly: true });
    const { file, value } = await read("folded.gguf");
    expect(value("general.type")).toBe("adapter");
    expect(value("adapter.lora.alpha")).toBe(Math.fround(8 * Math.sqrt(4)));
    const { readAdapter } = await import("../../src/formats/peft.ts");
    const loaded = await readAdapter(adapter);
    for (const part of ["q_proj", "k_proj", "v_proj"]) {
      const module = `model.layers.0.self_attn.${part}`;
      const stored = decodeToF32(await file.readTensor(`blk.0.attn_${part[0]}.weight.lora_b`), "f32");
      const { scale, rank } = loaded.settings.get(module)!;
      const runtime = (value("adapter.lora.alpha") as number) / rank;
      const b = loaded.modules.get(module)!.b.values;
      expect(stored[3]! * runtime).toBeCloseTo(b[3]! * scale, 5);
    }
    await file.close();
  });

  it("writes a Modelfile, with the chat template as Ollama's own", async () => {
    const model = writeTinyModel(join(root, "chat"));
    const config = JSON.parse(readFileSync(join(model, "tokenizer_config.json"), "utf8"));
    config.chat_template =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify(config));
    const report = await exportTo("chat.gguf", { model, modelfile: true });
    const text = readFileSync(report.modelfile!, "utf8");
    expect(text).toContain("FROM ./chat.gguf\n");
    expect(text).toContain(
      'TEMPLATE """{{ if .System }}<|system|>{{ .System }}<|im_end|>\n<|user|>{{ else }}<|user|>{{ end }}{{ .Prompt }}<|im_end|>\n<|assistant|>{{ .Response }}<|im_end|>\n"""',
    );
    expect(text).toContain('PARAMETER stop "</s>"');
  });

  it.skipIf(!hasAssets).each([
    ["llama2", "llama", "default"],
    ["llama3.2", "gpt2", "llama-bpe"],
    ["qwen3", "gpt2", "qwen2"],
  ])(`knows the tokenizer of %s${hasAssets ? "" : ` (${WITHOUT})`}`, async (name, model, pre) => {
    const json = assetJson(`tokenizers/${name}/derived/tokenizer.json`) as never;
    const { Tokenizer } = await import("../../src/text/tokenizer.ts");
    const eos = { llama2: "</s>", "llama3.2": "<|end_of_text|>", qwen3: "<|im_end|>" }[name]!;
    const tokenizer = new Tokenizer({ name, tokenizer: json, tokenizerConfig: { eos_token: eos } });
    const metadata = tokenizerMetadata({ tokenizer, json, vocabularySize: tokenizer.vocabSize + 3 });
    expect(metadata.get("tokenizer.ggml.model")?.value).toBe(model);
    expect(metadata.get("tokenizer.ggml.pre")?.value).toBe(pre);
    const tokens = metadata.get("tokenizer.ggml.tokens")!.value as string[];
    expect(tokens).toHaveLength(tokenizer.vocabSize + 3);
    expect(tokens.at(-1)).toMatch(/^\[PAD/);
  });
});

const texts = [
  "Once upon a time, there was a little girl named Lily.",
  "  two  spaces\nand a line, a comma; 1234 and Zürich!",
];

describe.skipIf(!llama.present || !hasAssets)(
  `llama.cpp (${llama.present ? (hasAssets ? "live" : WITHOUT) : llama.reason})`,
  () => {
    /** Greedy tokens must be equal; returns the largest difference of log-probabilities. */
    async function compare(model: string, gguf: string, options: { adapter?: string; lora?: string } = {}) {
      const opened = await openModel(backend, model, { adapter: options.adapter });
      const other = await openLlama(gguf, options.lora);
      try {
        const prompt = beginText(opened.tokenizer, texts[0]!);
        const [ours] = await generateBatch(opened.loaded.decoder, [
          { promptIds: prompt, maxNewTokens: 64, stopIds: [], sampling: greedy },
        ]);
        expect(await other.greedy(prompt, 64)).toEqual(ours!.tokenIds);
        const logits = await tokenLogits(opened.loaded.decoder, prompt);
        const probabilities = await other.probabilities(prompt);
        const width = opened.config.vocabularySize;
        let worst = 0;
        for (const [t, theirs] of probabilities.entries()) {
          const row = logits.subarray(t * width, (t + 1) * width);
          const norm = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
          for (const [id, p] of theirs)
            if (p > 1e-6) worst = Math.max(worst, Math.abs(Math.log(p) - (row[id]! - norm)));
        }
        return worst;
      } finally {
        await other.close();
        await opened.close();
      }
    }

    for (const name of ["stories260k/hf", "tinystories-656k"]) {
      const model = asset(`models/${name}`);
      const file = name.replaceAll("/", "-");

      it(`${name}: tokens, 64 greedy tokens and log-probabilities`, async () => {
        await exportTo(`${file}.gguf`, { model, type: "f32" });
        const tokenizer = await loadTokenizer(model);
        const other = await openLlama(join(root, `${file}.gguf`));
        // The second model has no byte tokens, and llama.cpp aborts on what it does not know.
        for (const text of name.startsWith("stories") ? texts : texts.slice(0, 1)) {
          expect(other.tokenize(text)).toEqual(tokenizer.encode(text, { addSpecialTokens: false }));
        }
        await other.close();
        expect(await compare(model, join(root, `${file}.gguf`))).toBeLessThan(1e-2);
      });

      it(`${name}: adapters, rank-stabilised too, alone and merged`, async () => {
        await exportTo(`${file}.gguf`, { model, type: "f32" });
        for (const rslora of [false, true]) {
          const tag = `${file}-${rslora}`;
          const adapter = await writeRandomAdapter(
            join(root, tag),
            model,
            { rslora, rank: 8, rankPattern: { k_proj: 3 }, alphaPattern: { o_proj: 4 } },
            0.04,
          );
          await exportTo(`${tag}-lora.gguf`, { model, adapter, adapterOnly: true });
          await exportTo(`${tag}-merged.gguf`, { model, adapter, type: "f32" });
          const lora = join(root, `${tag}-lora.gguf`);
          expect(await compare(model, join(root, `${file}.gguf`), { adapter, lora })).toBeLessThan(1e-2);
          expect(await compare(model, join(root, `${tag}-merged.gguf`), { adapter })).toBeLessThan(1e-2);
        }
      });
    }

    it.each(["llama-gqa-tied-llama3", "llama-linear", "llama-bias", "qwen2-tied", "qwen3"])(
      "%s: log-probabilities of a random model",
      async (name) => {
        const model = writeTinyModel(join(root, `random-${name}`), name);
        await exportTo(`random-${name}.gguf`, { model, type: "f32" });
        expect(await compare(model, join(root, `random-${name}.gguf`))).toBeLessThan(1e-2);
      },
    );

    it("mistral without a window: log-probabilities of a random model", async () => {
      const model = writeTinyModel(join(root, "random-mistral"), "mistral-window");
      setWindow(model, null);
      await exportTo("random-mistral.gguf", { model, type: "f32" });
      expect(await compare(model, join(root, "random-mistral.gguf"))).toBeLessThan(1e-2);
    });

    it.each(["f16", "bf16", "q8_0", "q4_0"] as const)("loads files of type %s", async (type) => {
      const model = asset("models/tinystories-656k");
      await exportTo(`${type}.gguf`, { model, type });
      const other = await openLlama(join(root, `${type}.gguf`));
      const ids = await other.greedy([1, ...other.tokenize(texts[0]!)], 8);
      expect(ids).toHaveLength(8);
      await other.close();
    });
  },
);
