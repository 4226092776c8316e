import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openFile } from "../../src/formats/disk.ts";
import { type GgufTensorType, type GgufValue, ggufTensorTypes, openGguf } from "../../src/formats/gguf.ts";
import { type GgufTensorToWrite, writeGguf } from "../../src/formats/gguf-writer.ts";
import { encodeGguf } from "../../src/quant/ggml/index.ts";
import { f16Table } from "../../src/tensor/dtype.ts";
import { UserError } from "../../src/util/errors.ts";
import { python } from "./python.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "lowrank-gguf-"));
});
afterAll(() => rm(root, { recursive: true }));

const metadata = new Map<string, GgufValue>([
  ["general.architecture", { type: "string", value: "llama" }],
  ["general.name", { type: "string", value: "a näme" }],
  ["llama.block_count", { type: "u32", value: 4_000_000_000 }],
  ["llama.rope.freq_base", { type: "f32", value: 10_000 }],
  ["some.bool", { type: "bool", value: true }],
  ["some.big", { type: "u64", value: 2n ** 60n }],
  ["some.negative", { type: "i64", value: -5n }],
  ["some.small", { type: "i8", value: -3 }],
  ["some.double", { type: "f64", value: 0.1 }],
  ["tokenizer.ggml.tokens", { type: "array", of: "string", value: ["a", "▁b", ""] }],
  ["tokenizer.ggml.scores", { type: "array", of: "f32", value: [0, -1, -2.5] }],
]);

const values = Float32Array.from(
  { length: 2 * 256 },
  (_, i) => Math.sin(i * 1.7) * (i < 32 ? 0 : 1 + (i % 7)),
);

const tensors: GgufTensorToWrite[] = (Object.keys(ggufTensorTypes) as GgufTensorType[]).map((type) => ({
  name: `blk.0.${type}.weight`,
  type,
  shape: [2, 256],
  data: () => encodeGguf(values, type),
}));
const odd: GgufTensorToWrite = { name: "norm", type: "f32", shape: [3], data: () => new Uint8Array(12) };

/** gguf-py quantises no K types: quant/ggml.test.ts holds those to ggml itself. */
const alike = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"];

/** The values that blocks of 32 stand for. */
function decodeBlocks(bytes: Uint8Array, type: "q8_0" | "q4_0"): Float32Array {
  const { blockBytes } = ggufTensorTypes[type];
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const out: number[] = [];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const scale = f16Table()[view.getUint16(at, true)]!;
    for (let i = 0; i < 32; i++) {
      const byte = bytes[at + 2 + (i % 16)]!;
      out.push(scale * (type === "q8_0" ? view.getInt8(at + 2 + i) : (i < 16 ? byte & 15 : byte >> 4) - 8));
    }
  }
  return Float32Array.from(out);
}

describe("GGUF", () => {
  it("reads back what it writes", async () => {
    const path = join(root, "a.gguf");
    await writeGguf(path, metadata, [...tensors, odd]);
    const file = await openGguf(await openFile(path));
    expect(file.version).toBe(3);
    expect(file.metadata).toEqual(metadata);
    for (const { name, type, shape, data } of [...tensors, odd]) {
      expect(file.tensors.get(name)).toMatchObject({ type, shape });
      expect((file.tensors.get(name)?.offset ?? 1) % 32).toBe(0);
      expect(await file.readTensor(name)).toEqual(data());
    }
    await file.close();
  });

  it.each(["q8_0", "q4_0"] as const)("%s blocks stay within half a step of the values", (type) => {
    const decoded = decodeBlocks(encodeGguf(values, type), type);
    for (let start = 0; start < values.length; start += 32) {
      const block = values.subarray(start, start + 32);
      const largest = Math.max(...block.map(Math.abs));
      // q4_0 has no code for the extreme's opposite: up to a whole step there. 2^-11: the scale's rounding to f16.
      const step = type === "q8_0" ? largest / 127 / 2 : largest / 8;
      for (let i = 0; i < 32; i++) {
        expect(Math.abs(block[i]! - decoded[start + i]!)).toBeLessThanOrEqual(step + largest * 2 ** -11);
      }
    }
  });

  it.skipIf(!python.has("gguf", "numpy"))(
    `is read, and its blocks are made alike, by the gguf library (${python.reason})`,
    async () => {
      const path = join(root, "live.gguf");
      const raw = join(root, "values.f32");
      await writeGguf(path, metadata, [...tensors, odd]);
      await writeFile(raw, new Uint8Array(values.buffer));
      const out = python.run(
        `import sys, json, numpy as np, gguf
values = np.fromfile(sys.argv[2], dtype=np.float32).reshape(2, 256)
reader = gguf.GGUFReader(sys.argv[1])
same = {}
for t in reader.tensors:
    if t.name == "norm" or t.tensor_type.name.endswith("_K"): continue
    kind = gguf.GGMLQuantizationType(t.tensor_type)
    expected = values if kind.name == "F32" else values.astype(np.float16) if kind.name == "F16" else gguf.quants.quantize(values, kind)
    same[kind.name] = bool(np.array_equal(np.ascontiguousarray(t.data).view(np.uint8).ravel(), np.ascontiguousarray(expected).view(np.uint8).ravel()))
print(json.dumps([same, reader.get_field("general.name").contents(), reader.get_field("tokenizer.ggml.tokens").contents(), [int(x) for x in reader.tensors[0].shape]]))`,
        path,
        raw,
      );
      expect(JSON.parse(out)).toEqual([
        Object.fromEntries(alike.map((name) => [name, true])),
        "a näme",
        ["a", "▁b", ""],
        [256, 2],
      ]);
    },
    60_000,
  );

  it("answers every truncation and many flipped bytes with a UserError or a reading", async () => {
    const path = join(root, "whole.gguf");
    await writeGguf(path, metadata, [odd]);
    const bytes = new Uint8Array(await readFile(path));
    for (let length = 0; length < bytes.length - 32; length++) {
      await expect(openGguf(memorySource(bytes.subarray(0, length)))).rejects.toThrow(UserError);
    }
    for (let i = 0; i < bytes.length - 32; i++) {
      for (const flip of [1, 16, 128]) {
        const changed = bytes.slice();
        changed[i]! ^= flip;
        try {
          await openGguf(memorySource(changed));
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }
    }
  });

  it("says what a file is not", async () => {
    await expect(openGguf(memorySource(new TextEncoder().encode("PK\x03\x04xxxx")))).rejects.toThrow(
      /not a GGUF/,
    );
    const old = new Uint8Array(24);
    old.set([0x47, 0x47, 0x55, 0x46, 1]);
    await expect(openGguf(memorySource(old))).rejects.toThrow(/version 1/);
  });
});
