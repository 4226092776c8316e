import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeFileAtomic } from "../../src/formats/atomic-file.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { UserError } from "../../src/util/errors.ts";
import { python } from "./python.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

function file(header: unknown, dataBytes: number, headerLength?: number): Uint8Array {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const json = new TextEncoder().encode(text);
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength ?? json.length), true);
  bytes.set(json, 8);
  for (let i = 0; i < dataBytes; i++) bytes[8 + json.length + i] = i & 255;
  return bytes;
}

const tensor = (dtype: string, shape: unknown, begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

const samples: TensorToWrite[] = [
  {
    name: "b.weight",
    dtype: "F32",
    shape: [2, 3],
    data: () => new Uint8Array(new Float32Array([1, 2, 3, 4, 5, 6]).buffer),
  },
  { name: "a.codes", dtype: "U8", shape: [5], data: () => new Uint8Array([1, 2, 3, 4, 5]) },
  { name: "a.ids", dtype: "I64", shape: [1], data: () => new Uint8Array(new BigInt64Array([-7n]).buffer) },
  {
    name: "a.half",
    dtype: "BF16",
    shape: [2, 2],
    async *data() {
      yield new Uint8Array([0x80, 0x3f, 0, 0x40]);
      yield new Uint8Array([0x40, 0x40, 0x80, 0x40]);
    },
  },
  { name: "é empty", dtype: "F16", shape: [0, 4], data: () => new Uint8Array(0) },
  {
    name: "a.scalar",
    dtype: "F32",
    shape: [],
    data: async () => new Uint8Array(new Float32Array([0.5]).buffer),
  },
];

describe("safetensors", () => {
  it("reads back what it writes, whole, in ranges and in chunks", async () => {
    const path = join(folder, "round.safetensors");
    await writeSafetensors(path, samples);
    const opened = await openSafetensors(await openFile(path));
    expect(opened.metadata).toEqual({ format: "pt" });
    expect([...opened.tensors.keys()]).toEqual([
      "a.ids",
      "a.scalar",
      "b.weight",
      "a.half",
      "é empty",
      "a.codes",
    ]);
    expect((opened.tensors.get("a.ids")?.offset ?? 1) % 8).toBe(0);
    expect([...new Float32Array((await opened.readTensor("b.weight")).buffer)]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await opened.readRange("a.codes", 1, 3))]).toEqual([2, 3, 4]);
    const chunks: number[][] = [];
    for await (const chunk of opened.readChunks("a.half", 3)) chunks.push([...chunk]);
    expect(chunks).toEqual([
      [0x80, 0x3f, 0],
      [0x40, 0x40, 0x40],
      [0x80, 0x40],
    ]);
    const into = new Uint8Array(5);
    await opened.readTensorInto("a.codes", into);
    expect([...into]).toEqual([1, 2, 3, 4, 5]);
    await expect(opened.readTensorInto("a.codes", new Uint8Array(4))).rejects.toThrow(/has 5 bytes; 4/);
    await expect(opened.readRange("a.codes", 3, 3)).rejects.toThrow(UserError);
    await expect(opened.readTensor("nope")).rejects.toThrow(/no tensor "nope"/);
    await opened.close();
  });

  it.skipIf(!python.has("safetensors", "torch"))(
    `writes the bytes that the Python library writes (${python.reason})`,
    async () => {
      const ours = join(folder, "ours.safetensors");
      const theirs = join(folder, "theirs.safetensors");
      await writeSafetensors(ours, samples);
      python.run(
        `import sys; from safetensors.torch import load_file, save_file; save_file(load_file(sys.argv[1]), sys.argv[2], {"format": "pt"})`,
        ours,
        theirs,
      );
      expect(Buffer.compare(await readFile(ours), await readFile(theirs))).toBe(0);
    },
    60_000,
  );

  const f32 = tensor("F32", [2], 0, 8);
  const broken: [string, Uint8Array, RegExp][] = [
    ["an empty file", new Uint8Array(0), /0 bytes is too short/],
    ["a header length of 2^63", file("{}", 0, 2 ** 63), /not a safetensors file/],
    ["a header longer than the file", file("{}", 0, 5000), /header should have 5000 bytes/],
    ["a header shorter than its JSON", file({ a: f32 }, 8, 20), /the header: not valid JSON/],
    ["a GGUF file", new TextEncoder().encode("GGUF\x03\x00\x00\x00more"), /It is a GGUF file/],
    ["a header that is a list", file("[]", 0), /expected a JSON object/],
    ["bytes that are not UTF-8", new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]), /not valid UTF-8/],
    ["a truncated tensor", file({ a: f32 }, 7), /cut off/],
    ["trailing bytes", file({ a: f32 }, 9), /1 bytes after the last tensor/],
    [
      "overlapping tensors",
      file({ a: f32, b: tensor("F32", [2], 4, 12) }, 12),
      /"b" overlaps the tensor before/,
    ],
    ["a hole", file({ a: f32, b: tensor("F32", [1], 12, 16) }, 16), /4 bytes before it belong to no tensor/],
    ["a size that disagrees with the shape", file({ a: tensor("F32", [3], 0, 8) }, 8), /need 12 bytes/],
    [
      "a shape whose size overflows",
      file({ a: tensor("U8", [2 ** 40, 2 ** 40], 0, 8) }, 8),
      /data_offsets give 8/,
    ],
    ["a negative size", file({ a: tensor("F32", [-2], 0, 8) }, 8), /not a list of whole numbers/],
    ["offsets backwards", file({ a: tensor("F32", [2], 8, 0) }, 8), /not \[begin, end\]/],
    ["an unknown dtype", file({ a: tensor("F4", [2], 0, 8) }, 8), /dtype "F4" is not supported/],
    [
      "a repeated name",
      file(
        `{"a": ${JSON.stringify(f32)}, "x\\"{": ${JSON.stringify(tensor("U8", [0], 8, 8))}, "a": ${JSON.stringify(f32)}}`,
        8,
      ),
      /names tensor "a" twice/,
    ],
    ["metadata that is not strings", file({ __metadata__: { a: 1 } }, 0), /not a string/],
  ];
  it.each(broken)("refuses %s", async (_, bytes, message) => {
    const opening = openSafetensors(memorySource(bytes, "m.safetensors"));
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(message);
  });

  it("survives every truncation and every flipped header byte with a UserError or a valid reading", async () => {
    const bytes = file({ __metadata__: { format: "pt" }, a: f32, b: tensor("U8", [3], 8, 11) }, 11);
    for (let length = 0; length < bytes.length; length++) {
      await expect(openSafetensors(memorySource(bytes.subarray(0, length)))).rejects.toThrow(UserError);
    }
    for (let i = 0; i < bytes.length - 11; i++) {
      for (const flip of [1, 4, 16, 128]) {
        const changed = bytes.slice();
        changed[i]! ^= flip;
        try {
          await openSafetensors(memorySource(changed));
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }
    }
  });
});

describe("writing atomically", () => {
  it("leaves the old file and no temporary one when the disk fills up", async () => {
    const inside = await mkdtemp(join(folder, "full-"));
    const path = join(inside, "model.safetensors");
    await writeFile(path, "old");
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const writing = writeSafetensors(path, [
      { name: "a", dtype: "U8", shape: [1], data: () => new Uint8Array(1) },
      { name: "b", dtype: "U8", shape: [1], data: () => Promise.reject(full) },
    ]);
    await expect(writing).rejects.toThrow(UserError);
    await expect(writing).rejects.toThrow(/the disk is full/);
    expect(await readdir(inside)).toEqual(["model.safetensors"]);
    expect(await readFile(path, "utf8")).toBe("old");
  });

  it("replaces a file, makes parent folders and names what stands in the way", async () => {
    const path = join(folder, "new", "deep", "run.json");
    await writeFileAtomic(path, "1");
    await writeFileAtomic(path, new Uint8Array([50]));
    expect(await readFile(path, "utf8")).toBe("2");
    expect(await readdir(join(folder, "new", "deep"))).toEqual(["run.json"]);
    await expect(writeFileAtomic(join(path, "below.json"), "3")).rejects.toThrow(UserError);
    await expect(writeFileAtomic(join(folder, "new"), "3")).rejects.toThrow(/this is a folder/);
  });
});
