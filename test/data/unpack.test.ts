// Packed files, folders and patterns. zstd frames are made here, of blocks that are stored as they are or repeat one byte.

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { openDataFile, readRows } from "../../src/data/read-rows.node.ts";
import { unpackedBytes } from "../../src/data/unpack.node.ts";
import { UserError } from "../../src/util/errors.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-unpack-"));
afterAll(() => rmSync(folder, { recursive: true }));
const place = (name: string, bytes: Uint8Array | string) => {
  writeFileSync(join(folder, name), bytes);
  return join(folder, name);
};

const lines = Array.from({ length: 3000 }, (_, i) =>
  JSON.stringify({ text: `row ${i} é ${"y".repeat(i % 90)}` }),
);
const jsonl = Buffer.from(lines.join("\n"));

/** magic | descriptor 0 | window 1 MiB | blocks of (last, type, size) in 3 bytes */
function zstdFrame(
  blocks: readonly { readonly type: 0 | 1; readonly size: number; readonly bytes: Uint8Array }[],
) {
  const parts = [Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3])];
  for (const [i, { type, size, bytes }] of blocks.entries()) {
    const head = Number(i === blocks.length - 1) | (type << 1) | (size << 3);
    parts.push(Buffer.from([head & 255, (head >> 8) & 255, head >> 16]), Buffer.from(bytes));
  }
  return Buffer.concat(parts);
}

function stored(bytes: Uint8Array, blockBytes = 60_000) {
  const blocks = [];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const piece = bytes.subarray(at, at + blockBytes);
    blocks.push({ type: 0, size: piece.length, bytes: piece } as const);
  }
  return zstdFrame(blocks);
}

const texts = async (path: string) => (await readRows(path)).map(({ value }) => value.text);
const expected = lines.map((line) => (JSON.parse(line) as { text: string }).text);

describe("packed rows", () => {
  it.each([
    ["a.jsonl.gz", gzipSync(jsonl)],
    ["several.jsonl.gz", Buffer.concat([gzipSync(jsonl.subarray(0, 5001)), gzipSync(jsonl.subarray(5001))])],
    ["a.jsonl.zst", stored(jsonl)],
    [
      "several.jsonl.zst",
      Buffer.concat([stored(jsonl.subarray(0, 70_001)), stored(jsonl.subarray(70_001), 999)]),
    ],
    ["a.json.gz", gzipSync(`[${lines.join(",")}]`)],
  ])("%s is read as what is in it", async (name, bytes) => {
    expect(await texts(place(name, bytes))).toEqual(expected);
  });

  it("names rows by line, and CSV by row", async () => {
    const path = place("b.csv.gz", gzipSync("prompt,completion\n1,2\n3,4\n"));
    expect((await readRows(path)).map(({ id }) => id)).toEqual([
      { file: "b.csv.gz", line: 1, unit: "row" },
      { file: "b.csv.gz", line: 2, unit: "row" },
    ]);
    const broken = place("c.jsonl.gz", gzipSync('{"text":"a"}\n\n{"text":'));
    await expect(readRows(broken)).rejects.toThrow(/c\.jsonl\.gz line 3: not valid JSON/);
  });

  it.each([
    [
      "cut.jsonl.gz",
      gzipSync(jsonl).subarray(0, 200),
      /cut\.jsonl\.gz: cannot be unpacked .*cut off or damaged/,
    ],
    ["no.jsonl.gz", Buffer.from("plain text"), /cannot be unpacked .*not packed/],
    ["packed.jsonl", gzipSync(jsonl), /packed\.jsonl line 1: the file is packed.*\.gz/],
    ["packed.json", stored(jsonl), /packed\.json line 1: the file is packed.*\.zst/],
    ["packed.csv", gzipSync("a,b\n"), /packed\.csv: the file is packed.*\.gz/],
    ["cut.jsonl.zst", stored(jsonl).subarray(0, 70_000), /cannot be unpacked/],
    ["no.jsonl.zst", Buffer.from("plain text, long enough for a frame"), /cannot be unpacked/],
    ["a.parquet.gz", gzipSync("PAR1"), /Parquet is compressed within/],
    ["a.txt.gz", gzipSync("x"), /plain text has no rows/],
    ["a.tar.gz", gzipSync("x"), /only \.gz and \.zst/],
    ["empty.jsonl.gz", gzipSync(""), /has no rows/],
  ])("%s is refused", async (name, bytes, message) => {
    const reading = readRows(place(name, bytes));
    await expect(reading).rejects.toThrow(message);
    await expect(reading).rejects.toBeInstanceOf(UserError);
  });

  it("unpack to so much and no more", async () => {
    const bounds = { bytes: 2 ** 20, bytesPerByte: 100, windowBytes: 2 ** 27 };
    const drain = async (path: string, packing: ".gz" | ".zst", within = bounds) => {
      let bytes = 0;
      for await (const piece of unpackedBytes(path, "file", packing, within)) bytes += piece.length;
      return bytes;
    };
    const gz = place("zeros.gz", gzipSync(new Uint8Array(8 * 2 ** 20)));
    await expect(drain(gz, ".gz")).rejects.toThrow(/file: unpacks to more than 100 times its size/);
    const block = { type: 1, size: 2 ** 17, bytes: Uint8Array.of(65) } as const;
    const zst = place("letters.zst", zstdFrame(new Array(64).fill(block)));
    await expect(drain(zst, ".zst")).rejects.toThrow(/unpacks to more than 100 times its size/);
    const generous = { ...bounds, bytes: 2 ** 24 };
    expect(await drain(gz, ".gz", generous)).toBe(8 * 2 ** 20);
    expect(await drain(zst, ".zst", generous)).toBe(8 * 2 ** 20);
    await expect(drain(zst, ".zst", { ...generous, windowBytes: 2 ** 19 })).rejects.toThrow();
  });
});

describe("several files", () => {
  mkdirSync(join(folder, "many/deep"), { recursive: true });
  mkdirSync(join(folder, "many/.hidden"));
  mkdirSync(join(folder, "bare"));
  place("many/b.jsonl", '{"text":"b1"}\n{"text":"b2"}\n');
  place("many/a.jsonl.gz", gzipSync('{"text":"a1"}'));
  place("many/deep/c.jsonl", '{"text":"c1"}');
  place("many/README.md", "no rows");
  place("many/.hidden/d.jsonl", '{"text":"d1"}');
  place("bare/x.txt", "x");
  place("one[1].jsonl", '{"text":"odd"}');

  it("of a folder, in the order of their names", async () => {
    const rows = await readRows(join(folder, "many"));
    expect(rows.map(({ id, value }) => [id.file, id.line, value.text])).toEqual([
      ["a.jsonl.gz", 1, "a1"],
      ["b.jsonl", 1, "b1"],
      ["b.jsonl", 2, "b2"],
      ["deep/c.jsonl", 1, "c1"],
    ]);
  });

  it("that a pattern matches", async () => {
    expect(await texts(join(folder, "many/*.jsonl"))).toEqual(["b1", "b2"]);
    expect(await texts(join(folder, "many/**/{b,c}.jsonl"))).toEqual(["b1", "b2", "c1"]);
  });

  it("is told by their contents, not by where they lie", async () => {
    const { hash } = await openDataFile(join(folder, "many"));
    mkdirSync(join(folder, "moved"));
    place("moved/a.jsonl.gz", gzipSync('{"text":"a1"}'));
    place("moved/b.jsonl", '{"text":"b1"}\n{"text":"b2"}\n');
    place("moved/c.jsonl", '{"text":"c1"}');
    expect((await openDataFile(join(folder, "moved"))).hash).toBe(hash);
    place("moved/c.jsonl", '{"text":"c2"}');
    expect((await openDataFile(join(folder, "moved"))).hash).not.toBe(hash);
  });

  it("once each, where links lead to them twice", async () => {
    mkdirSync(join(folder, "linked", "real"), { recursive: true });
    place("linked/real/one.jsonl", '{"text": "one"}\n');
    symlinkSync("real", join(folder, "linked", "again"), "dir");
    symlinkSync("one.jsonl", join(folder, "linked", "real", "two.jsonl"));
    expect(await texts(join(folder, "linked", "**", "*.jsonl").replaceAll("\\", "/"))).toEqual(["one"]);
    expect(await texts(join(folder, "linked", "again", "t*.jsonl").replaceAll("\\", "/"))).toEqual(["one"]);
  });

  it("a file whose name looks like a pattern is that file", async () => {
    expect(await texts(join(folder, "one[1].jsonl"))).toEqual(["odd"]);
  });

  it("are refused where there are none", async () => {
    await expect(readRows(join(folder, "bare"))).rejects.toThrow(/no data file is in this folder/);
    await expect(readRows(join(folder, "*.nothing"))).rejects.toThrow(/no data file matches/);
  });
});
