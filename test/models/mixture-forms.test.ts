// The forms of a mixture's weights: what is written is what was read, 4-bit experts one by one, adapters made before
// transformers 5, merges, and what is refused.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { newAdapterConfig, readAdapter } from "../../src/formats/peft.ts";
import { type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { attachLoadedAdapter, attachNewAdapter } from "../../src/models/adapter.ts";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { denseSource, fourBitView } from "../../src/models/dense-source.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadDecoder, type WeightSource } from "../../src/models/load-model.ts";
import { trainedParts } from "../../src/models/mixture-parts.ts";
import { deviceSource } from "../../src/models/open-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { RouterCount } from "../../src/models/router-balance.ts";
import { storedParts } from "../../src/models/stored-parts.ts";
import { mergedSource } from "../../src/publish/merged-source.ts";
import { quantizeFolder } from "../../src/publish/quantize-folder.ts";
import { decodeToF32, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import { UserError } from "../../src/util/errors.ts";
import { Random } from "../../src/util/rng.ts";
import { logitsOf, relativeDifference } from "../conformance/model-case.ts";
import { floatsOf } from "../golden/load-golden.ts";
import { mixtureGoldens, writeMixture, writeMixtureAdapter } from "../golden/mixtures.ts";

const root = mkdtempSync(path.join(tmpdir(), "lowrank-mixture-forms-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (name: string) => path.join(root, name);

async function openFolder(name: string, folder = at(name)) {
  const opened = await openModelFolder(await writeMixture(mixtureGoldens[name]!, folder));
  return { folder: opened, config: await readFolderConfig(opened) };
}

async function floats(source: WeightSource, name: string): Promise<Float32Array> {
  const { dtype, shape } = source.find(name)!;
  const bytes = { f32: 4, bf16: 2, f16: 2, f64: 8 }[dtype as "f32"]!;
  return decodeToF32(await source.read(name, 0, bytes * elementCount(shape)), dtype);
}

const names = Object.keys(mixtureGoldens);

describe("files of mixtures", () => {
  it.each(names)("%s: every tensor is written as transformers names and shapes it", async (name) => {
    const { folder, config } = await openFolder(name);
    const source = denseSource(folder, config);
    const tensors: TensorToWrite[] = [];
    for (const spec of weightSpecs(config)) {
      const values = await floats(source, spec.name);
      for (const part of storedParts(folder, config, spec)) {
        const pieces = part.pieces.map(({ offset, count }) => {
          const piece = values.slice(offset, offset + count);
          return part.arrange ? part.arrange(piece) : piece;
        });
        const all = Float32Array.from(pieces.flatMap((piece) => [...piece]));
        tensors.push({
          ...{ name: part.name, dtype: "F32", shape: part.shape },
          data: () => encodeFrom(all, "f32"),
        });
      }
    }
    const again = at(`${name}-again`);
    mkdirSync(again);
    const { quantization_config: _, ...json } = mixtureGoldens[name]!.config;
    writeFileSync(path.join(again, "config.json"), JSON.stringify(json));
    await writeSafetensors(path.join(again, "model.safetensors"), tensors);
    const golden = mixtureGoldens[name]!;
    const published = name === "qwen3-moe-fused" || name === "gpt-oss-mxfp4";
    if (!published) {
      const shapes = (list: readonly { name: string; shape: readonly number[] }[]) =>
        list.map((tensor) => `${tensor.name} ${tensor.shape}`).sort();
      expect(shapes(tensors)).toEqual(shapes(golden.tensors));
    }
    const reopened = await openModelFolder(again);
    const copy = denseSource(reopened, await readFolderConfig(reopened));
    for (const { name: weight } of weightSpecs(config))
      expect(await floats(copy, weight), weight).toEqual(await floats(source, weight));
  });

  it("an expert that is missing, and one of another shape, are named", async () => {
    const golden = mixtureGoldens.mixtral!;
    const gone = { ...golden, tensors: golden.tensors.filter(({ name }) => !name.includes("experts.2.w3")) };
    await expect(openModelFolder(await writeMixture(gone, at("gone")))).rejects.toThrow(
      /expert 2 has no w3\.weight/,
    );
    const odd = {
      ...golden,
      tensors: golden.tensors.map((tensor) =>
        tensor.name.includes("experts.1.w2") ? { ...tensor, shape: [32, 41] } : tensor,
      ),
    };
    await expect(openModelFolder(await writeMixture(odd, at("odd")))).rejects.toThrow(
      /experts of a layer are alike/,
    );
  });

  it("config.json's traps are read", () => {
    const { config: json } = mixtureGoldens["qwen3-moe"]!;
    const config = readModelConfig(json);
    expect(config.layers.map(({ mlp }) => mlp)).toEqual(["mixture", "dense", "mixture"]);
    expect(config.layers[0]!.experts).toMatchObject({ count: 6, perToken: 2, normalized: false });
    const { num_local_experts: experts, ...rest } = json;
    expect(readModelConfig({ ...rest, num_experts: experts }).layers).toEqual(config.layers);
    expect(() => readModelConfig({ ...json, num_experts_per_tok: 7 })).toThrow(/from 1 to 6/);
    expect(() => readModelConfig({ ...json, mlp_only_layers: "1" })).toThrow(/mlp_only_layers/);
  });
});

describe("4-bit experts", () => {
  it("are the same quantised on arrival and in the merge's view, and in a folder but for its scales", async () => {
    const { folder, config } = await openFolder("qwen3-moe", at("to-quantize"));
    const backend = openReference();
    const out = at("quantized");
    await quantizeFolder(backend, {
      ...{ model: folder.path, out, quantType: "nf4", blockSize: 64, doubleQuant: true },
    });
    const stored = await openModelFolder(out);
    expect(stored.stacks?.size).toBe(4);
    const ids = mixtureGoldens["qwen3-moe"]!.ids;
    const arrived = await loadDecoder(backend, config, deviceSource(backend, folder), {
      quantize: quantizeOnArrival(backend, "nf4"),
    });
    const fromFolder = await loadDecoder(
      backend,
      await readFolderConfig(stored),
      deviceSource(backend, stored),
    );
    const viewed = await loadDecoder(
      backend,
      config,
      fourBitView(denseSource(folder, config), config, "nf4"),
    );
    const dequantized = await loadDecoder(backend, config, denseSource(stored, config));
    const expected = await logitsOf(backend, arrived, ids);
    expect(relativeDifference(expected, floatsOf(mixtureGoldens["qwen3-moe"]!.logits))).toBeGreaterThan(1e-3);
    expect(relativeDifference(await logitsOf(backend, viewed, ids), expected)).toBeLessThan(1e-5);
    // In a folder gate and up are weights of their own, whose scales are quantised apart.
    const inFolder = await logitsOf(backend, fromFolder, ids);
    expect(relativeDifference(inFolder, expected)).toBeLessThan(1e-3);
    expect(relativeDifference(await logitsOf(backend, dequantized, ids), inFolder)).toBeLessThan(1e-5);
  });

  it("MXFP4 stays as it is on the device, and is refused to be quantised again", async () => {
    const { folder, config } = await openFolder("gpt-oss-mxfp4");
    const backend = openReference();
    const loaded = await loadDecoder(backend, config, deviceSource(backend, folder));
    const weight = loaded.decoder.weight("model.layers.0.mlp.experts.gate_up_proj.weight");
    expect(weight).toMatchObject({ kind: "quantizedStack", blockSize: 32 });
    await expect(
      quantizeFolder(backend, {
        ...{ model: folder.path, out: at("never"), quantType: "nf4", blockSize: 64, doubleQuant: true },
      }),
    ).rejects.toThrow(/MXFP4.*one quantization_config.*--method qlora leaves its experts as they are/);
  });

  it.each(names.filter((name) => name !== "gpt-oss-mxfp4"))(
    "%s: kept as they are where asked",
    async (name) => {
      const { folder, config } = await openFolder(name, at(`${name}-to-keep`));
      const backend = openReference();
      const out = at(`${name}-kept`);
      const usual = { model: folder.path, quantType: "nf4", blockSize: 64, doubleQuant: true } as const;
      const { notes } = await quantizeFolder(backend, { ...usual, out, experts: "kept" });
      expect(notes).toEqual([]);
      const kept = await openModelFolder(out);
      const experts = weightSpecs(config).filter(({ name: weight }) => /\.experts\./.test(weight));
      expect(experts.length).toBeGreaterThan(0);
      for (const { name: weight } of experts)
        expect(Buffer.compare(await kept.read(weight), await folder.read(weight)), weight).toBe(0);
      const others = [...kept.tensors].filter(([weight]) => /\.[qo]_proj\.weight$/.test(weight));
      expect(others.map(([, { dtype }]) => dtype)).toEqual(others.map(() => "U8"));
      const viewed = fourBitView(denseSource(folder, config), config, "nf4");
      const plain = denseSource(folder, config);
      const onlyExpertsPlain: WeightSource = {
        path: folder.path,
        find: (weight) => plain.find(weight),
        read: (weight, offset, length) =>
          (/\.experts\./.test(weight) ? plain : viewed).read(weight, offset, length),
      };
      const ids = mixtureGoldens[name]!.ids;
      const found = await loadDecoder(backend, await readFolderConfig(kept), deviceSource(backend, kept));
      const wanted = await loadDecoder(backend, config, onlyExpertsPlain);
      expect(
        relativeDifference(await logitsOf(backend, found, ids), await logitsOf(backend, wanted, ids)),
      ).toBeLessThan(1e-5);
    },
  );

  it("who opens them is said, and where there is no form for them what to do instead", async () => {
    const backend = openReference();
    const usual = { quantType: "nf4", blockSize: 64, doubleQuant: true } as const;
    const { folder } = await openFolder("mixtral", at("mixtral-to-tell"));
    const { notes } = await quantizeFolder(backend, { ...usual, model: folder.path, out: at("told") });
    expect(notes.join()).toMatch(/transformers 5 does not.*--experts kept/);
    const { folder: other } = await openFolder("gpt-oss", at("gpt-oss-to-tell"));
    await expect(quantizeFolder(backend, { ...usual, model: other.path, out: at("untold") })).rejects.toThrow(
      /no form for the experts of gpt_oss.*--experts kept/,
    );
  });
});

describe("adapters of mixtures", () => {
  it.each(names)("%s: merged weights answer as the adapter does", async (name) => {
    const { folder, config } = await openFolder(name, at(`${name}-to-merge`));
    const adapter = await readAdapter(
      await writeMixtureAdapter(mixtureGoldens[name]!, at(`${name}-adapter`)),
    );
    const backend = openReference();
    const merged = mergedSource(backend, denseSource(folder, config), config, adapter);
    const loaded = await loadDecoder(backend, merged.config, merged);
    const golden = mixtureGoldens[name]!;
    expect(
      relativeDifference(await logitsOf(backend, loaded, golden.ids), floatsOf(golden.tunedLogits)),
    ).toBeLessThan(1e-4);
  });

  it("factors of single experts, as older adapters have them, become a stack's", async () => {
    const name = "qwen3-moe";
    const { folder, config } = await openFolder(name, at("for-old"));
    const [rank, alpha, experts] = [2, 6, 6];
    const random = new Random(3, 1);
    const tensors = new Map<string, { shape: number[]; values: Float32Array }>();
    const sizes = { gate_proj: [24, 32], up_proj: [24, 32], down_proj: [32, 24] } as const;
    for (const layer of [0, 2])
      for (let e = 0; e < experts; e++)
        for (const [matrix, [out, width]] of Object.entries(sizes)) {
          // One expert has no gate of its own.
          if (e === 3 && matrix === "gate_proj") continue;
          const at = `model.layers.${layer}.mlp.experts.${e}.${matrix}`;
          const make = (shape: number[]) => ({
            shape,
            values: Float32Array.from({ length: elementCount(shape) }, () => random.nextNormal() * 0.2),
          });
          tensors.set(`${at}.lora_A`, make([rank, width])).set(`${at}.lora_B`, make([out, rank]));
        }
    const old = at("old-adapter");
    mkdirSync(old);
    const peft = { peft_type: "LORA", r: rank, lora_alpha: alpha };
    const targets = Object.keys(sizes);
    writeFileSync(
      path.join(old, "adapter_config.json"),
      JSON.stringify({ ...peft, target_modules: targets }),
    );
    await writeSafetensors(
      path.join(old, "adapter_model.safetensors"),
      [...tensors].map(([key, { shape, values }]) => ({
        ...{ name: `base_model.model.${key}.weight`, dtype: "F32" as const, shape },
        data: () => encodeFrom(values, "f32"),
      })),
    );
    const adapter = await readAdapter(old);
    expect(adapter.modules.get("model.layers.0.mlp.experts.gate_up_proj")).toMatchObject({ experts });
    const backend = openReference();
    const base = denseSource(folder, config);
    const merged = mergedSource(backend, base, config, adapter);
    for (const layer of [0, 2]) {
      for (const [weight, parts] of [
        ["gate_up_proj", ["gate_proj", "up_proj"]],
        ["down_proj", ["down_proj"]],
      ] as const) {
        const stack = `model.layers.${layer}.mlp.experts.${weight}.weight`;
        const expected = await floats(base, stack);
        const [rows, width] = sizes[parts[0]!];
        for (let e = 0; e < experts; e++)
          for (const [i, matrix] of parts.entries()) {
            const a = tensors.get(`model.layers.${layer}.mlp.experts.${e}.${matrix}.lora_A`)?.values;
            const b = tensors.get(`model.layers.${layer}.mlp.experts.${e}.${matrix}.lora_B`)?.values;
            if (!a || !b) continue;
            for (let o = 0; o < rows; o++)
              for (let c = 0; c < width; c++)
                for (let r = 0; r < rank; r++)
                  expected[((e * parts.length + i) * rows + o) * width + c]! +=
                    (alpha / rank) * b[o * rank + r]! * a[r * width + c]!;
          }
        expect(relativeDifference(await floats(merged, stack), expected)).toBeLessThan(1e-5);
      }
    }
  });

  it("all-linear leaves the router frozen, experts take no dropout, and what trains is said", async () => {
    const { folder, config } = await openFolder("qwen3-moe", at("new-adapter"));
    const backend = openReference();
    const loaded = await loadDecoder(backend, config, deviceSource(backend, folder));
    expect(trainedParts(loaded.decoder, false)).toMatch(
      /adapters train nothing of it; frozen: experts, routers/,
    );
    const attach = (targets: string | string[], more = {}) =>
      attachNewAdapter(loaded, newAdapterConfig({ rank: 2, alpha: 4, targets, ...more }), 1);
    const all = attach("all-linear");
    const modules = [...(await all.read()).modules.keys()];
    expect(modules).toContain("model.layers.0.mlp.experts.gate_up_proj");
    expect(modules).toContain("model.layers.1.mlp.down_proj");
    expect(modules.some((module) => module.endsWith(".mlp.gate"))).toBe(false);
    expect(trainedParts(loaded.decoder, false)).toMatch(
      /train experts, attention, dense MLPs; frozen: routers/,
    );
    all.free();
    const router = attach(["mlp.gate"]);
    expect(trainedParts(loaded.decoder, false)).toMatch(/train routers; frozen: experts, attention/);
    router.free();
    expect(() => attach(["experts.down_proj"], { dropout: 0.1 })).toThrow(UserError);
    expect(() => attach(["experts.down_proj"], { kind: "dora" })).toThrow(/plain LoRA alone/);
    const fresh = attach(["experts.down_proj"]);
    const given = (await fresh.read()).modules.get("model.layers.0.mlp.experts.down_proj")!;
    expect(given).toMatchObject({ experts: 6, a: { shape: [12, 24] }, b: { shape: [32, 12] } });
    fresh.free();
  });

  it("a name of linear layers reaches no experts beside them, as in PEFT", async () => {
    const { folder, config } = await openFolder("gemma4-moe", at("beside"));
    const backend = openReference();
    const loaded = await loadDecoder(backend, config, deviceSource(backend, folder));
    const modules = async (targets: string[]) => {
      const adapter = attachNewAdapter(loaded, newAdapterConfig({ rank: 2, alpha: 4, targets }), 1);
      const names = [...(await adapter.read()).modules.keys()];
      adapter.free();
      return names.filter((name) => name.startsWith("model.layers.2."));
    };
    expect(await modules(["gate_proj", "down_proj"])).toEqual([
      "model.layers.2.mlp.gate_proj",
      "model.layers.2.mlp.down_proj",
    ]);
    expect(await modules(["down_proj", "experts.down_proj", "router.proj"])).toEqual([
      "model.layers.2.mlp.down_proj",
      "model.layers.2.router.proj",
      "model.layers.2.experts.down_proj",
    ]);
    const linear = attachNewAdapter(
      loaded,
      newAdapterConfig({ rank: 2, alpha: 4, targets: "all-linear" }),
      1,
    );
    expect(trainedParts(loaded.decoder, false)).toMatch(
      /train attention, dense MLPs; frozen: experts, routers/,
    );
    linear.free();
  });

  it("an adapter of other experts is refused by name", async () => {
    const { folder, config } = await openFolder("mixtral", at("for-other"));
    const backend = openReference();
    const loaded = await loadDecoder(backend, config, deviceSource(backend, folder));
    const other = await readAdapter(await writeMixtureAdapter(mixtureGoldens["gpt-oss-mxfp4"]!, at("other")));
    expect(() => attachLoadedAdapter(loaded, other, { trains: false })).toThrow(/is for 3 experts.*has 4/);
  });
});

describe("the routers' balance", () => {
  it("is even at 1, idle experts are counted, and the busiest is told by its share", () => {
    const count = new RouterCount();
    expect(count.balance()).toBeUndefined();
    count.add(0, Int32Array.from([0, 2, 4, 6, 8]));
    count.add(2, Int32Array.from([0, 6, 8, 8, 8]));
    const { layers, entropy, busiest, idle } = count.balance()!;
    expect(layers[0]).toEqual({ layer: 0, entropy: 1, busiest: 1, idle: 0 });
    expect(layers[1]).toMatchObject({ layer: 2, busiest: 3, idle: 2 });
    const second = -(0.75 * Math.log(0.75) + 0.25 * Math.log(0.25)) / Math.log(4);
    expect(entropy).toBeCloseTo((1 + second) / 2, 10);
    expect([busiest, idle]).toEqual([3, 2]);
  });
});
