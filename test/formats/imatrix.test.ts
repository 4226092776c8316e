// llama.cpp's importance matrices: what is written is read back as means, the older form too, and what is neither is
// told from rows of data.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { memorySource } from "../../src/formats/byte-source.ts";
import { openFile } from "../../src/formats/disk.ts";
import { isImatrix, readImatrix, writeImatrix } from "../../src/formats/imatrix.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-imatrix-"));
afterAll(() => rmSync(root, { recursive: true }));

/** count, then name, calls and numbers of each tensor. */
function older(entries: readonly (readonly [name: string, calls: number, values: readonly number[]])[]) {
  const integer = (value: number) => Buffer.from(Int32Array.of(value).buffer);
  return Buffer.concat([
    integer(entries.length),
    ...entries.flatMap(([name, calls, values]) => [
      ...[integer(name.length), Buffer.from(name), integer(calls), integer(values.length)],
      Buffer.from(Float32Array.from(values).buffer),
    ]),
  ]);
}

describe("an importance matrix", () => {
  it("comes back as means, with ones for experts that saw nothing", async () => {
    const path = join(root, "a.gguf");
    const entries = [
      { name: "blk.0.attn_q.weight", sums: Float32Array.of(2, 4, 6), counts: Float64Array.of(2) },
      { name: "blk.0.ffn_up_exps.weight", sums: Float32Array.of(8, 4, 0, 0), counts: Float64Array.of(4, 0) },
    ];
    await writeImatrix(path, entries, { datasets: ["rows.jsonl"], chunks: 1, chunkSize: 512 });
    expect(await isImatrix(await openFile(path))).toBe(true);
    const found = await readImatrix(await openFile(path));
    expect([...found]).toEqual([
      ["blk.0.attn_q.weight", Float32Array.of(1, 2, 3)],
      ["blk.0.ffn_up_exps.weight", Float32Array.of(2, 1, 1, 1)],
    ]);
  });

  it("is read in the older form", async () => {
    const bytes = older([["blk.0.attn_q.weight", 4, [4, 8]]]);
    expect(await isImatrix(memorySource(bytes))).toBe(true);
    expect([...(await readImatrix(memorySource(bytes)))]).toEqual([
      ["blk.0.attn_q.weight", Float32Array.of(1, 2)],
    ]);
  });

  it("is not taken for rows of data, nor they for it", async () => {
    const rows = Buffer.from('{"prompt": "a question", "completion": "an answer"}\n');
    expect(await isImatrix(memorySource(rows))).toBe(false);
    await expect(readImatrix(memorySource(rows))).rejects.toThrow(/not an importance matrix/);
  });

  it("is refused when it is cut off or holds numbers that weigh nothing", async () => {
    const whole = older([["blk.0.attn_q.weight", 1, [1, 2, 3]]]);
    for (let length = 8; length < whole.length; length++) {
      await expect(readImatrix(memorySource(whole.subarray(0, length)))).rejects.toThrow(
        /not an importance matrix/,
      );
    }
    const negative = older([["blk.0.attn_q.weight", 1, [1, -2]]]);
    await expect(readImatrix(memorySource(negative))).rejects.toThrow(/below 0 or not finite/);
  });
});
