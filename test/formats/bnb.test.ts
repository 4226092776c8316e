import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bnbTensors,
  bnbWeightNames,
  dequantizeBnbWeight,
  readBnbWeight,
  type StoredQuantized,
} from "../../src/formats/bnb.ts";
import { parseQuantizationConfig, toQuantizationConfig } from "../../src/formats/bnb-config.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import type { JsonObject } from "../../src/formats/json.ts";
import { writeModelFolder } from "../../src/formats/model-folder-writer.ts";
import { openSafetensors, type SafetensorsDType } from "../../src/formats/safetensors.ts";
import {
  headerOf,
  inFileOrder,
  type TensorToWrite,
  writeSafetensors,
} from "../../src/formats/safetensors-writer.ts";
import { quantizeScales } from "../../src/quant/double-quant.ts";
import { signedDynamicMap } from "../../src/quant/dynamic-map.ts";
import { quantizers } from "../../src/quant/index.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { UserError } from "../../src/util/errors.ts";
import { type ByteArray, bytesOf, type FloatArray, floatsOf, readGolden } from "../golden/load-golden.ts";
import { python } from "./python.ts";

interface StoredTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly bytes: ByteArray;
}
interface FileCase {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly tensors: Readonly<Record<string, StoredTensor>>;
  readonly dequantized: FloatArray;
}
const { cases } = readGolden<{ cases: FileCase[] }>("bnb-files.json");
const nestedCase = cases[0]!;

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "lowrank-bnb-"));
});
afterAll(() => rm(root, { recursive: true }));

function toWrite(tensors: FileCase["tensors"]): TensorToWrite[] {
  return Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => ({
    name,
    dtype,
    shape,
    data: () => bytesOf(bytes),
  }));
}

/** The tensors as a file in memory. */
async function sourceOf(tensors: readonly TensorToWrite[]) {
  const sorted = inFileOrder(tensors);
  const parts = [
    headerOf(sorted, {}),
    ...(await Promise.all(sorted.map(({ data }) => data() as Uint8Array))),
  ];
  const file = await openSafetensors(memorySource(Buffer.concat(parts)));
  return { path: "m", tensors: file.tensors, read: (name: string) => file.readTensor(name) };
}

describe("bitsandbytes' 4-bit tensors", () => {
  it.each(cases)("reads and writes $name", async ({ shape, tensors, dequantized }) => {
    const source = await sourceOf(toWrite(tensors));
    expect([...bnbWeightNames(source)]).toEqual(["weight"]);
    const weight = (await readBnbWeight(source, "weight"))!;
    expect(weight.shape).toEqual(shape);
    expect(weight.codebook).toEqual(quantizers[weight.quantType].codebook);
    if (weight.nested) expect(weight.nested.codebook).toEqual(signedDynamicMap);
    expect(dequantizeBnbWeight(weight)).toEqual(floatsOf(dequantized));

    const written = bnbTensors("weight", weight);
    expect(written.map(({ name }) => name).sort()).toEqual(Object.keys(tensors).sort());
    for (const { name, dtype, shape: writtenShape, data } of written) {
      expect([name, dtype, writtenShape]).toEqual([name, tensors[name]!.dtype, tensors[name]!.shape]);
      expect([name, Buffer.from(data() as Uint8Array)]).toEqual([
        name,
        Buffer.from(bytesOf(tensors[name]!.bytes)),
      ]);
    }
  });

  it("leaves plain weights alone", async () => {
    const source = await sourceOf([{ name: "w", dtype: "U8", shape: [1], data: () => new Uint8Array(1) }]);
    expect(await readBnbWeight(source, "w")).toBeUndefined();
    expect(bnbWeightNames(source).size).toBe(0);
  });

  const stateName = "weight.quant_state.bitsandbytes__nf4";
  const state = JSON.parse(
    Buffer.from(bytesOf(nestedCase.tensors[stateName]!.bytes)).toString(),
  ) as JsonObject;

  /** The nested case with some tensors replaced (or, undefined, left out). */
  function changed(
    change: Readonly<Record<string, Omit<TensorToWrite, "name"> | undefined>>,
  ): TensorToWrite[] {
    const kept = toWrite(nestedCase.tensors).filter(({ name }) => !(name in change));
    const added = Object.entries(change).flatMap(([name, tensor]) => (tensor ? [{ name, ...tensor }] : []));
    return [...kept, ...added];
  }
  const zeros = (dtype: SafetensorsDType, count: number, width = 1) => {
    return { dtype, shape: [count], data: () => new Uint8Array(count * width) };
  };
  const stateWith = (change: JsonObject) => {
    const bytes = new TextEncoder().encode(JSON.stringify({ ...state, ...change }));
    return { [stateName]: { dtype: "U8" as const, shape: [bytes.length], data: () => bytes } };
  };
  const garbage = new TextEncoder().encode("{nonsense");
  const nan = encodeFrom(new Float32Array(16).fill(Number.NaN), "f32");

  const broken: [string, Parameters<typeof changed>[0], RegExp][] = [
    ["codes too few", { weight: zeros("U8", 863) }, /"weight": it has 863 bytes; .* need 864/],
    ["scales missing", { "weight.absmax": undefined }, /"weight\.absmax": it is missing/],
    ["scales of another dtype", { "weight.absmax": zeros("F32", 27, 4) }, /dtype is F32; expected U8/],
    ["scales too many", { "weight.absmax": zeros("U8", 28) }, /it has 28 bytes; .* need 27/],
    [
      "a codebook of 8",
      { "weight.quant_map": zeros("F32", 8, 4) },
      /quant_map": it has 32 bytes; .* need 64/,
    ],
    [
      "a codebook of NaN",
      { "weight.quant_map": { dtype: "F32", shape: [16], data: () => nan } },
      /element 0 is NaN/,
    ],
    ["nested scales missing", { "weight.nested_absmax": undefined }, /nested_absmax": it is missing/],
    ["nested map too short", { "weight.nested_quant_map": zeros("F32", 16, 4) }, /nested_quant_map/],
    [
      "a state that is no JSON",
      { [stateName]: { dtype: "U8", shape: [9], data: () => garbage } },
      /not valid JSON/,
    ],
    ["a state of 5,000 bytes", { [stateName]: zeros("U8", 5000) }, /5000 bytes are too many/],
    ["a shape that lies", stateWith({ shape: [48, 72] }), /it has 864 bytes; .* need 1728/],
    ["a shape of one number", stateWith({ shape: [1728] }), /expected \[out, in\]/],
    ["a shape that overflows", stateWith({ shape: [2 ** 40, 2 ** 40] }), /expected \[out, in\]/],
    ["a block size of 48", stateWith({ blocksize: 48 }), /blocksize is 48/],
    ["another type inside", stateWith({ quant_type: "fp4" }), /quant_type is "fp4"/],
    ["an integer weight", stateWith({ dtype: "int8" }), /dtype is "int8"/],
    ["no nested offset", stateWith({ nested_offset: null }), /nested_offset is missing/],
    ["a nested block of 0", stateWith({ nested_blocksize: 0 }), /nested_blocksize is 0/],
    ["16-bit nested scales", stateWith({ nested_dtype: "float16" }), /nested_dtype is "float16"/],
  ];
  it.each(broken)("refuses %s", async (_, change, message) => {
    const reading = readBnbWeight(await sourceOf(changed(change)), "weight");
    await expect(reading).rejects.toThrow(UserError);
    await expect(reading).rejects.toThrow(message);
  });

  it("reads codes stored as another dtype", async () => {
    const bytes = bytesOf(nestedCase.tensors.weight!.bytes);
    const source = await sourceOf(changed({ weight: { dtype: "BF16", shape: [432, 1], data: () => bytes } }));
    expect(dequantizeBnbWeight((await readBnbWeight(source, "weight"))!)).toEqual(
      floatsOf(nestedCase.dequantized),
    );
  });
});

describe("quantization_config", () => {
  it("reads back what it writes; a plain model has none", () => {
    const config = { quantType: "nf4", doubleQuant: true, computeDType: "bfloat16" } as const;
    expect(parseQuantizationConfig({ quantization_config: toQuantizationConfig(config) }, "m")).toEqual(
      config,
    );
    expect(parseQuantizationConfig({}, "m")).toBeUndefined();
    expect(parseQuantizationConfig({ quantization_config: null }, "m")).toBeUndefined();
  });

  it("reads what transformers 5 writes, and its default of fp4", () => {
    const written = {
      _load_in_4bit: true,
      bnb_4bit_compute_dtype: "float32",
      bnb_4bit_quant_storage: "uint8",
      bnb_4bit_use_double_quant: true,
      llm_int8_threshold: 6,
      load_in_4bit: true,
      load_in_8bit: false,
      quant_method: "bitsandbytes",
    };
    expect(parseQuantizationConfig({ quantization_config: written }, "m")).toEqual({
      quantType: "fp4",
      doubleQuant: true,
      computeDType: "float32",
    });
  });

  it.each([
    [{ quant_method: "gptq", bits: 4 }, /quant_method is "gptq"/],
    [{ quant_method: "bitsandbytes", load_in_8bit: true }, /only those with load_in_4bit/],
    [{ load_in_4bit: true, bnb_4bit_quant_type: "int4" }, /bnb_4bit_quant_type is "int4"/],
    [[], /expected an object/],
  ])("refuses %j", (given, message) => {
    expect(() => parseQuantizationConfig({ quantization_config: given }, "m/config.json")).toThrow(UserError);
    expect(() => parseQuantizationConfig({ quantization_config: given }, "m/config.json")).toThrow(message);
  });
});

function quantized(
  type: "nf4" | "fp4",
  values: Float32Array,
  shape: readonly [number, number],
  nest: boolean,
) {
  const { codes, absmax } = quantizers[type].quantize(values, 64);
  const plain = { quantType: type, shape, dtype: "float32", blockSize: 64, codes, absmax } as const;
  const weight: StoredQuantized = { ...plain, codebook: quantizers[type].codebook };
  if (!nest) return weight;
  const nested = quantizeScales(absmax);
  return {
    ...weight,
    absmax: nested.codes,
    nested: { codebook: signedDynamicMap, absmax: nested.absmax, blockSize: 256, offset: nested.offset },
  };
}

describe.skipIf(!python.has("bitsandbytes", "transformers", "torch"))(
  `live bitsandbytes (${python.reason})`,
  () => {
    it.each([
      ["nf4", true],
      ["nf4", false],
      ["fp4", true],
    ] as const)(
      "transformers loads a %s folder of ours (nested %s) and dequantises the same weights",
      async (type, nest) => {
        const path = join(root, `${type}-${nest}`);
        const shapes: Record<string, [number, number]> = {
          "self_attn.q_proj": [32, 32],
          "self_attn.k_proj": [16, 32],
          "self_attn.v_proj": [16, 32],
          "self_attn.o_proj": [32, 32],
          "mlp.gate_proj": [72, 32],
          "mlp.up_proj": [72, 32],
          "mlp.down_proj": [32, 72],
        };
        const dense = (name: string, ...shape: number[]): TensorToWrite => {
          const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i));
          return { name, dtype: "F32", shape, data: () => encodeFrom(values, "f32") };
        };
        const tensors = [
          dense("model.embed_tokens.weight", 48, 32),
          dense("lm_head.weight", 48, 32),
          dense("model.norm.weight", 32),
          dense("model.layers.0.input_layernorm.weight", 32),
          dense("model.layers.0.post_attention_layernorm.weight", 32),
        ];
        const expected: TensorToWrite[] = [];
        let salt = 0;
        for (const [name, shape] of Object.entries(shapes)) {
          salt++;
          const values = Float32Array.from(
            { length: shape[0] * shape[1] },
            (_, i) => Math.sin(i * 0.7 + salt) * salt,
          );
          const weight = quantized(type, values, shape, nest);
          const full = `model.layers.0.${name}.weight`;
          tensors.push(...bnbTensors(full, weight));
          expected.push({
            name: full,
            dtype: "F32",
            shape,
            data: () => encodeFrom(dequantizeBnbWeight(weight), "f32"),
          });
        }
        const config = {
          architectures: ["LlamaForCausalLM"],
          model_type: "llama",
          dtype: "float32",
          vocab_size: 48,
          hidden_size: 32,
          intermediate_size: 72,
          num_hidden_layers: 1,
          num_attention_heads: 2,
          num_key_value_heads: 1,
          quantization_config: toQuantizationConfig({
            quantType: type,
            doubleQuant: nest,
            computeDType: "float32",
          }),
        };
        await writeModelFolder(path, { config, tensors });
        const dequantized = join(path, "expected.safetensors");
        await writeSafetensors(dequantized, expected);
        const out = python.run(
          `import sys, torch, warnings
warnings.simplefilter("ignore")
import bitsandbytes.functional as F
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
model = LlamaForCausalLM.from_pretrained(sys.argv[1], device_map="cpu", dtype=torch.float32)
expected = load_file(sys.argv[2])
worst = 0.0
for name, weight in expected.items():
    p = dict(model.named_parameters())[name]
    # As a column, because bitsandbytes' AVX-512 loop over long rows rounds the codebook to bf16.
    p.quant_state.shape = (weight.numel(), 1)
    worst = max(worst, (F.dequantize_4bit(p.data, p.quant_state).reshape(weight.shape) - weight).abs().max().item())
print(len(expected), worst)`,
          path,
          dequantized,
        );
        const [count, worst] = out.trim().split(/\s+/).slice(-2).map(Number);
        expect(count).toBe(7);
        expect(worst).toBe(0);
      },
      180_000,
    );
  },
);
