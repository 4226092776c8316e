// Merged folders: the weights are W + scale * B A, the receipt tells a good merge from a bad one, and transformers
// loads the result.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { bnbTensors } from "../../src/formats/bnb.ts";
import { type BnbQuantType, toQuantizationConfig } from "../../src/formats/bnb-config.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { writeModelFolder } from "../../src/formats/model-folder-writer.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import type { TensorToWrite } from "../../src/formats/safetensors-writer.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { type MergeOptions, mergeFolder } from "../../src/publish/merge-folder.ts";
import { quantizeScales } from "../../src/quant/double-quant.ts";
import { signedDynamicMap } from "../../src/quant/dynamic-map.ts";
import { quantizers } from "../../src/quant/index.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { python } from "../formats/python.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

function merge(given: Pick<MergeOptions, "model" | "adapter" | "out"> & Partial<MergeOptions>) {
  const defaults = {
    dtype: "auto",
    sampleTokens: 64,
    maxKl: 0.01,
    maxKlQuantized: 0.5,
    force: false,
  } as const;
  return mergeFolder(backend, { ...defaults, ...given });
}

async function weightsOf(path: string): Promise<Map<string, Float32Array>> {
  const folder = await openModelFolder(path);
  const weights = new Map<string, Float32Array>();
  for (const [name, { dtype }] of folder.tensors)
    weights.set(name, decodeToF32(await folder.read(name), dtype.toLowerCase() as "f32"));
  await folder.close();
  return weights;
}

/** The folder's linear weights in 4 bits, as bitsandbytes would save them. */
async function writeFourBit(from: string, to: string): Promise<string> {
  const folder = await openModelFolder(from);
  const tensors: TensorToWrite[] = [];
  for (const [name, entry] of folder.tensors) {
    const bytes = await folder.read(name);
    if (!name.endsWith("_proj.weight")) {
      tensors.push({ name, dtype: entry.dtype, shape: entry.shape, data: () => bytes });
      continue;
    }
    const { codes, absmax } = quantizers.nf4.quantize(decodeToF32(bytes, "f32"), 64);
    const nested = quantizeScales(absmax);
    const quantType: BnbQuantType = "nf4";
    tensors.push(
      ...bnbTensors(name, {
        quantType,
        shape: entry.shape as [number, number],
        dtype: "float32",
        blockSize: 64,
        codes,
        codebook: quantizers.nf4.codebook,
        absmax: nested.codes,
        nested: { codebook: signedDynamicMap, absmax: nested.absmax, blockSize: 256, offset: nested.offset },
      }),
    );
  }
  const config = {
    ...folder.config,
    quantization_config: toQuantizationConfig({
      quantType: "nf4",
      doubleQuant: true,
      computeDType: "float32",
    }),
  };
  await writeModelFolder(to, { config, tensors });
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    writeFileSync(join(to, name), readFileSync(join(from, name)));
  await folder.close();
  return to;
}

describe("merge", () => {
  const model = writeTinyModel(join(root, "base"));
  let adapter: string;
  beforeAll(async () => {
    adapter = await writeRandomAdapter(join(root, "adapter"), model, {
      rslora: true,
      rankPattern: { q_proj: 2 },
      alphaPattern: { down_proj: 3 },
      targets: ["q_proj", "v_proj", "down_proj"],
    });
  });

  it("adds scale * B A to the weights that are adapted, and to no other", async () => {
    const out = join(root, "exact");
    const report = await merge({ model, adapter, out });
    const { modules, settings } = await readAdapter(adapter);
    const [before, after] = [await weightsOf(model), await weightsOf(out)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [name, values] of after) {
      const pair = modules.get(name.replace(/\.weight$/, ""));
      if (!pair) {
        expect(values).toEqual(before.get(name));
        continue;
      }
      const { rank, scale } = settings.get(name.replace(/\.weight$/, ""))!;
      const inputs = pair.a.shape[1]!;
      for (let i = 0; i < values.length; i += 7) {
        let sum = 0;
        for (let r = 0; r < rank; r++) {
          sum +=
            pair.b.values[Math.floor(i / inputs) * rank + r]! * pair.a.values[r * inputs + (i % inputs)]!;
        }
        expect(values[i]).toBeCloseTo(before.get(name)![i]! + scale * sum, 5);
      }
    }
    expect(report).toMatchObject({ passed: true, forced: false, dtype: "f32", mergedWeights: modules.size });
    expect(report.comparisons).toHaveLength(1);
    expect(report.comparisons[0]!.meanKl).toBeLessThan(1e-9);
    expect(JSON.parse(readFileSync(join(out, "merge-report.json"), "utf8"))).toMatchObject({ passed: true });
  });

  it("keeps nothing but the report of a merge above the bound, unless forced", async () => {
    const out = join(root, "refused");
    const coarse = { model, adapter, dtype: "bf16", maxKl: 0 } as const;
    await expect(merge({ ...coarse, out })).rejects.toThrow(
      /mean KL divergence from the adapter on base.*--force/,
    );
    expect(readdirSync(out)).toEqual(["merge-report.json"]);
    expect(JSON.parse(readFileSync(join(out, "merge-report.json"), "utf8"))).toMatchObject({ passed: false });
    const forced = await merge({ ...coarse, out: join(root, "forced"), force: true });
    expect(forced).toMatchObject({ passed: false, forced: true });
    expect(existsSync(join(root, "forced", "model.safetensors"))).toBe(true);
    expect(readdirSync(root).filter((name) => name.endsWith(".partial"))).toEqual([]);
  });

  it("refuses a tokenizer beside the adapter whose tokens have no rows", async () => {
    const more = join(root, "more-tokens");
    await writeRandomAdapter(more, model);
    const json = JSON.parse(readFileSync(join(model, "tokenizer.json"), "utf8")) as {
      added_tokens: { id: number; content: string }[];
    };
    const added = { ...json.added_tokens[0]!, id: 264, content: "<far>" };
    const ids = [259, 260, 261, 262, 263].map((id) => ({ ...added, id, content: `<${id}>` }));
    const tokenizer = { ...json, added_tokens: [...json.added_tokens, ...ids, added] };
    writeFileSync(join(more, "tokenizer.json"), JSON.stringify(tokenizer));
    const out = join(root, "not-merged");
    await expect(merge({ model, adapter: more, out })).rejects.toThrow(
      /more-tokens: the tokenizer has 265 tokens, but embedding and head only 264 rows/,
    );
    expect(existsSync(out)).toBe(false);
  });

  it("merges into dequantised 4-bit weights, and into the original when it is given", async () => {
    const fourBit = await writeFourBit(model, join(root, "four-bit"));
    const warnings: string[] = [];
    const defaults = {
      dtype: "auto",
      sampleTokens: 64,
      maxKl: 0.01,
      maxKlQuantized: 5,
      force: false,
    } as const;
    const into = await mergeFolder(
      backend,
      { ...defaults, model: fourBit, adapter, out: join(root, "dequantised"), dtype: "f32" },
      { warn: (message) => warnings.push(message) },
    );
    expect(warnings.join()).toContain("--base");
    expect(into.comparisons.map((c) => c.reference)).toEqual(["adapter on 4-bit base"]);
    expect(into.comparisons[0]!.meanKl).toBeLessThan(1e-9);

    const original = await mergeFolder(backend, {
      ...defaults,
      model: fourBit,
      base: model,
      adapter,
      out: join(root, "original"),
    });
    const [onBase, onFourBit] = original.comparisons;
    expect(onBase).toMatchObject({ reference: "adapter on base", passed: true });
    expect(onFourBit!.reference).toBe("adapter on 4-bit base");
    expect(onFourBit!.meanKl).toBeGreaterThan(100 * onBase!.meanKl);
    const { config } = await openModelFolder(join(root, "dequantised"));
    expect(config.quantization_config).toBeUndefined();
  });

  it("holds an adapter of QLoRA's training against the 4-bit base that it saw", async () => {
    const trained = await writeRandomAdapter(join(root, "qlora"), model);
    writeFileSync(join(trained, "run.json"), JSON.stringify({ options: { method: "qlora" } }));
    const { comparisons } = await merge({
      model,
      adapter: trained,
      out: join(root, "from-qlora"),
      maxKlQuantized: 9,
    });
    expect(comparisons.map((c) => c.reference)).toEqual(["adapter on base", "adapter on 4-bit base"]);
    expect(comparisons[1]!.meanKl).toBeGreaterThan(1e-5);
  });

  it("refuses another model's adapter, a full folder and values beyond f16", async () => {
    const other = writeTinyModel(join(root, "other"), "qwen3");
    await expect(merge({ model: other, adapter, out: join(root, "x") })).rejects.toThrow(/base model/);
    await expect(merge({ model, adapter, out: root })).rejects.toThrow(/not empty/);
    const huge = await writeRandomAdapter(join(root, "huge"), model, {}, 300);
    await expect(merge({ model, adapter: huge, out: join(root, "y"), dtype: "f16" })).rejects.toThrow(
      /beyond what f16/,
    );
    expect(readdirSync(root).filter((name) => name.endsWith(".partial"))).toEqual([]);
  });
});

describe.skipIf(!python.has("transformers", "torch"))(
  `merged folders in transformers (${python.reason})`,
  () => {
    it.each(["llama-gqa-tied-llama3", "mistral-window", "qwen2-tied", "qwen3"])(
      "%s: logits within 1e-4",
      async (name) => {
        const model = writeTinyModel(join(root, name), name);
        const adapter = await writeRandomAdapter(join(root, `${name}-adapter`), model, { rslora: true });
        const out = join(root, `${name}-merged`);
        await merge({ model, adapter, out });
        const ids = [0, 70, 81, 92, 103, 114, 125];
        const expected = JSON.parse(
          python.run(
            `import json, sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
print(json.dumps(model(torch.tensor([json.loads(sys.argv[2])])).logits[0].flatten().tolist()))`,
            out,
            JSON.stringify(ids),
          ),
        ) as number[];
        const opened = await openModel(backend, model, { adapter });
        const actual = await tokenLogits(opened.loaded.decoder, ids);
        await opened.close();
        const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
        expect(worst).toBeLessThan(1e-4);
      },
    );
  },
);
