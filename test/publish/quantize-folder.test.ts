// `lowrank quantize`'s folder: its bytes are the quantisers' own, it loads as it was written and as quantising on
// arrival gives, transformers + bitsandbytes read the same weights out of it, and bad folders are refused whole.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Backend, isQuantized, type Matrix, type QuantizedMatrix } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openReference } from "../../src/backend/reference.ts";
import { bnbTensors, bnbWeightNames, dequantizeBnbWeight, readBnbWeight } from "../../src/formats/bnb.ts";
import { type ModelFolder, openModelFolder } from "../../src/formats/model-folder.ts";
import { writeModelFolder as writeFolder } from "../../src/formats/model-folder-writer.ts";
import type { TensorToWrite } from "../../src/formats/safetensors-writer.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadDecoder } from "../../src/models/load-model.ts";
import { deviceSource, folderSource } from "../../src/models/open-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { type QuantizeFolderOptions, quantizeFolder } from "../../src/publish/quantize-folder.ts";
import { quantizeScales } from "../../src/quant/double-quant.ts";
import { quantizers } from "../../src/quant/index.ts";
import { decodeToF32 } from "../../src/tensor/dtype.ts";
import { UserError } from "../../src/util/errors.ts";
import { python } from "../formats/python.ts";
import { type ModelFolderOptions, writeModelFolder } from "../golden/load-golden.ts";
import { loadQloraGolden } from "../golden/typed-goldens.ts";

const golden = loadQloraGolden().cases["llama-rows-64"]!;
const defaults = { quantType: "nf4", blockSize: 64, doubleQuant: true } as const;

let root: string;
let backend: Backend;
let made = 0;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "lowrank-quantize-"));
  backend = await openBackend("cpu", { precision: "fp32" });
});
afterAll(() => {
  rmSync(root, { recursive: true });
  backend.close();
});

const fresh = () => join(root, `folder-${made++}`);
const plainModel = (dtype: ModelFolderOptions["dtype"] = "bf16") =>
  writeModelFolder(golden, fresh(), { dtype });

async function quantized(options: Partial<QuantizeFolderOptions> = {}): Promise<string> {
  const out = fresh();
  await quantizeFolder(backend, { ...defaults, model: plainModel(), ...options, out });
  return out;
}

async function withFolder<T>(path: string, use: (folder: ModelFolder) => Promise<T>): Promise<T> {
  const folder = await openModelFolder(path);
  try {
    return await use(folder);
  } finally {
    await folder.close();
  }
}

describe("the folder", () => {
  it.each([
    ["nf4, nested", {}],
    ["nf4, f32 scales", { doubleQuant: false }],
    ["fp4, blocks of 128, three shards", { quantType: "fp4", blockSize: 128, shardBytes: 20_000 }],
  ] as const)("holds the quantisers' own bytes: %s", async (_, options) => {
    for (const dtype of ["bf16", "f16", "f32"] as const) {
      const model = plainModel(dtype);
      const out = await quantized({ ...options, model });
      const { quantType, blockSize, doubleQuant } = { ...defaults, ...options };
      await withFolder(model, (source) =>
        withFolder(out, async (folder) => {
          if ("shardBytes" in options) expect(folder.files.length).toBeGreaterThan(2);
          const names = bnbWeightNames(folder);
          expect(names.size).toBe(14);
          for (const [name, entry] of source.tensors) {
            if (!names.has(name)) {
              expect(await folder.read(name)).toEqual(await source.read(name));
              continue;
            }
            const values = decodeToF32(await source.read(name), dtype);
            const expected = quantizers[quantType].quantize(values, blockSize);
            const weight = (await readBnbWeight(folder, name))!;
            expect(weight.shape).toEqual(entry.shape);
            expect(weight.dtype).toBe({ bf16: "bfloat16", f16: "float16", f32: "float32" }[dtype]);
            expect(weight.codes).toEqual(expected.codes);
            if (!doubleQuant) {
              expect(weight.absmax).toEqual(expected.absmax);
              continue;
            }
            const { codes, absmax, offset } = quantizeScales(expected.absmax);
            expect([weight.absmax, weight.nested!.absmax, weight.nested!.offset]).toEqual([
              codes,
              absmax,
              offset,
            ]);
          }
        }),
      );
    }
  });

  it("round trips: what it loads as is what it was quantised to, and quantising the original on arrival gives the same", async () => {
    const model = plainModel();
    const out = await quantized({ model });
    const config = readModelConfig(golden.config);
    for (const device of [backend, openReference("f64")]) {
      const before = device.liveBytes;
      const stored = await withFolder(out, (folder) =>
        loadDecoder(device, config, deviceSource(device, folder)),
      );
      const arrived = await withFolder(model, (folder) =>
        loadDecoder(device, config, folderSource(folder), { quantize: quantizeOnArrival(device) }),
      );
      for (const [i, layer] of stored.decoder.linears.entries()) {
        const [a, b] = [layer, arrived.decoder.linears[i]!].map(({ weight }) => quantizedOf(weight));
        expect(await bytesOf(device, a!)).toEqual(await bytesOf(device, b!));
        expect(a!.nested!.offset).toBe(b!.nested!.offset);
      }
      stored.free();
      arrived.free();
      expect(device.liveBytes).toBe(before);
    }
  });

  it("is not quantised again by --method qlora", async () => {
    const out = await quantized({ blockSize: 128, quantType: "fp4", doubleQuant: false });
    const loaded = await withFolder(out, (folder) =>
      loadDecoder(backend, readModelConfig(golden.config), deviceSource(backend, folder), {
        quantize: quantizeOnArrival(backend),
      }),
    );
    const weight = quantizedOf(loaded.decoder.linears[0]!.weight);
    expect([weight.blockSize, weight.nested]).toEqual([128, undefined]);
    loaded.free();
  });

  const modules = ["torch", "transformers", "bitsandbytes", "accelerate"];
  it.skipIf(!python.has(...modules))(
    `loads in transformers with equal weights (${python.reason})`,
    async () => {
      for (const options of [{}, { doubleQuant: false }, { quantType: "fp4" }] as const) {
        const out = await quantized(options);
        const script = `
import sys, json, torch, bitsandbytes as bnb, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], device_map="cpu", dtype=torch.bfloat16)
sums = {}
for name, module in model.named_modules():
    if isinstance(module, bnb.nn.Linear4bit):
        state = module.weight.quant_state
        state.dtype = torch.float32
        values = bnb.functional.dequantize_4bit(module.weight.data, state)
        sums[name + ".weight"] = values.flatten().tolist()
print(json.dumps(sums))`;
        const theirs = JSON.parse(python.run(script, out)) as Record<string, number[]>;
        expect(Object.keys(theirs)).toHaveLength(14);
        await withFolder(out, async (folder) => {
          for (const [name, values] of Object.entries(theirs)) {
            expect(dequantizeBnbWeight((await readBnbWeight(folder, name))!)).toEqual(
              Float32Array.from(values),
            );
          }
        });
      }
    },
    240_000,
  );
});

describe("the report", () => {
  it("measures every registered quantiser per layer and over all", async () => {
    const { layers, overall, ...totals } = await quantizeFolder(backend, {
      ...{ ...defaults, model: plainModel(), out: fresh() },
    });
    expect(layers).toHaveLength(14);
    expect(Object.keys(overall.errors)).toEqual(Object.keys(quantizers));
    expect(overall.count).toBe(layers.reduce((sum, layer) => sum + layer.values, 0));
    expect(totals.quantizedParameters + totals.keptParameters).toBe(
      golden.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    );
    const errors = layers.map((layer) => layer.errors.nf4!.rms);
    expect(overall.errors.nf4!.rms).toBeGreaterThanOrEqual(Math.min(...errors));
    expect(overall.errors.nf4!.rms).toBeLessThanOrEqual(Math.max(...errors));
  });
});

describe("refusals", () => {
  const refused = async (options: Partial<QuantizeFolderOptions>, message: RegExp) => {
    const out = options.out ?? fresh();
    const before = readdirSync(root);
    const attempt = quantizeFolder(backend, { ...defaults, model: plainModel(), ...options, out });
    await expect(attempt).rejects.toThrow(UserError);
    await expect(attempt).rejects.toThrow(message);
    const left = readdirSync(root).filter((name) => !before.includes(name) && !/^folder-\d+$/.test(name));
    expect(left).toEqual([]);
    if (!options.out) expect(() => readdirSync(out)).toThrow(/ENOENT/);
    expect(backend.liveBytes).toBe(0);
  };

  it("refuses what is quantised already", async () => {
    await refused({ model: await quantized() }, /quantised already/);
    const withoutConfig = await quantized();
    const path = join(withoutConfig, "config.json");
    const { quantization_config: _, ...config } = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify(config));
    await refused({ model: withoutConfig }, /quantised already/);
  });

  it("refuses a block size that bitsandbytes has not", () => refused({ blockSize: 48 }, /block size 48/));
  it("refuses a folder with something in it", () => refused({ out: plainModel() }, /not empty/));

  it("refuses missing, misshapen and non-finite weights", async () => {
    const name = "model.layers.1.mlp.up_proj.weight";
    const variant = (change: (tensor: TensorToWrite) => TensorToWrite | undefined) =>
      withFolder(plainModel(), async (folder) => {
        const path = fresh();
        const tensors = [...folder.tensors.values()].map((entry): TensorToWrite => {
          return {
            name: entry.name,
            dtype: entry.dtype,
            shape: entry.shape,
            data: () => folder.read(entry.name),
          };
        });
        await writeFolder(path, {
          config: folder.config,
          tensors: tensors.flatMap((tensor) => (tensor.name === name ? (change(tensor) ?? []) : tensor)),
        });
        return path;
      });
    await refused({ model: await variant(() => undefined) }, /up_proj\.weight" is missing/);
    await refused(
      { model: await variant((tensor) => ({ ...tensor, shape: tensor.shape.toReversed() })) },
      /has shape \[64,128\], but config.json makes it \[128,64\]/,
    );
    const nan = (tensor: TensorToWrite) => {
      return {
        ...tensor,
        data: async () => new Uint8Array((await (tensor.data() as Promise<Uint8Array>)).fill(0xff, 4, 6)),
      };
    };
    await refused({ model: await variant(nan) }, /holds 1 values that are NaN/);
  });

  it("refuses to open 4-bit folders that lie", async () => {
    const name = "model.layers.0.mlp.up_proj.weight";
    const config = readModelConfig(golden.config);
    const open = (path: string) =>
      withFolder(path, (folder) => loadDecoder(backend, config, deviceSource(backend, folder)));
    const lying = async (change: (tensor: TensorToWrite) => TensorToWrite) =>
      withFolder(await quantized(), async (folder) => {
        const path = fresh();
        const tensors: TensorToWrite[] = [];
        for (const entry of folder.tensors.values()) {
          const bytes = await folder.read(entry.name);
          const tensor = { name: entry.name, dtype: entry.dtype, shape: entry.shape, data: () => bytes };
          tensors.push(entry.name.startsWith(name) ? change(tensor) : tensor);
        }
        await writeFolder(path, { config: folder.config, tensors });
        return path;
      });
    const inState = (from: string, to: string) => (tensor: TensorToWrite) => {
      if (!tensor.name.includes("quant_state")) return tensor;
      const text = new TextDecoder().decode(tensor.data() as Uint8Array).trimEnd();
      const bytes = new TextEncoder().encode(text.replace(from, to));
      expect(text).toContain(from);
      return { ...tensor, shape: [bytes.length], data: () => bytes };
    };
    await expect(open(await lying(inState("[128, 64]", "[64, 128]")))).rejects.toThrow(
      /says in its quant_state that its shape is \[64,128\], but config.json makes it \[128,64\]/,
    );
    await expect(open(await lying(inState('"blocksize": 64', '"blocksize": 128')))).rejects.toThrow(
      /absmax.*has 128 bytes; the weight's shape and block size need 64/,
    );
    const truncated = await lying((tensor) => {
      if (tensor.name !== name) return tensor;
      return { ...tensor, shape: [100, 1], data: () => (tensor.data() as Uint8Array).slice(0, 100) };
    });
    await expect(open(truncated)).rejects.toThrow(
      /has 100 bytes; the weight's shape and block size need 4096/,
    );
    await withFolder(await quantized(), async (folder) => {
      expect(() => deviceSource(backend, folder, { train: true })).toThrow(/full fine-tuning cannot train/);
    });
    expect(backend.liveBytes).toBe(0);
  });
});

it("pads a quant_state only when asked to", () => {
  const weight = {
    ...({ quantType: "nf4", shape: [2, 32], dtype: "float32", blockSize: 64 } as const),
    ...quantizers.nf4.quantize(new Float32Array(64).fill(1), 64),
    codebook: quantizers.nf4.codebook,
  };
  const sizes = [false, true].map((padded) => bnbTensors("w", weight, padded).at(-1)!.shape[0]);
  expect(sizes).toEqual([76, 256]);
});

function quantizedOf(weight: { readonly frozen: Matrix } | { readonly parameter: unknown }): QuantizedMatrix {
  if (!("frozen" in weight) || !isQuantized(weight.frozen)) throw new Error("not a quantised weight");
  return weight.frozen;
}

async function bytesOf(device: Backend, { codes, absmax, codebook, nested }: QuantizedMatrix) {
  const tensors = [codes, absmax, codebook, nested!.codebook, nested!.absmax];
  return Promise.all(tensors.map((tensor) => device.read(tensor.buffer, 0, tensor.buffer.sizeBytes)));
}
