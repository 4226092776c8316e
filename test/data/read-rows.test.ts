import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { toExamples } from "../../src/data/index.ts";
import { readRows } from "../../src/data/read-rows.node.ts";
import { exactJsonText } from "../../src/text/template-values.ts";
import { UserError } from "../../src/util/errors.ts";
import { readGolden } from "../golden/load-golden.ts";
import { asset, hasAssets, WITHOUT } from "../text/assets.ts";
import { parquetSample } from "./parquet-sample.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-rows-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function read(name: string, content: string | Uint8Array) {
  const path = join(folder, name);
  writeFileSync(path, content);
  return readRows(path);
}

describe("JSON Lines", () => {
  it("counts lines, and takes BOM, CRLF, blank lines and a missing last line break", async () => {
    const rows = await read("a.jsonl", '\ufeff{"text":"a"}\r\n\r\n{"text":"b\\n"}\n   \n{"text":"ü"}');
    expect(rows.map((row) => row.value.text)).toEqual(["a", "b\n", "ü"]);
    expect(rows.map((row) => row.id.line)).toEqual([1, 3, 5]);
    expect(rows[0]!.id).toEqual({ file: "a.jsonl", line: 1, unit: "line" });
  });

  it.each([
    ['{"text":"a"}\n{"text":\n', /a\.jsonl line 2: not valid JSON/],
    ['{"text":"a"}\n["b"]\n', /a\.jsonl line 2: expected an object .*found an array/],
    ["null\n", /a\.jsonl line 1: .*found null/],
    ["", /a\.jsonl: has no rows/],
    ["\n\n", /has no rows/],
  ])("refuses %j", async (content, message) => {
    await expect(read("a.jsonl", content)).rejects.toThrow(message);
  });

  it("refuses text that is not UTF-8, by line", async () => {
    const bytes = new Uint8Array([...new TextEncoder().encode('{"text":"a"}\n{"text":"'), 0xff, 0x22, 0x7d]);
    await expect(read("a.jsonl", bytes)).rejects.toThrow(/a\.jsonl line 2: the text is not valid UTF-8/);
  });
});

describe("JSON arrays", () => {
  it("are told from JSON Lines by their first character", async () => {
    const rows = await read("a.json", '\ufeff\n [{"text":"a"},\n{"text":"b"}]');
    expect(rows.map((row) => [row.id.line, row.id.unit, row.value.text])).toEqual([
      [1, "row", "a"],
      [2, "row", "b"],
    ]);
    expect(await read("b.json", '{"text":"a"}\n{"text":"b"}')).toHaveLength(2);
  });

  it("name the place of a mistake", async () => {
    await expect(read("a.json", '[{"text":"a"},\n{"text" "b"}]')).rejects.toThrow(
      /a\.json line 2: not valid JSON/,
    );
    await expect(read("a.json", '[{"text":"a"}, 5]')).rejects.toThrow(/a\.json row 2: expected an object/);
    await expect(read("a.json", "[]")).rejects.toThrow(/has no rows/);
  });
});

describe("CSV", () => {
  it("reads quoted fields, line breaks inside them and lists written as JSON", async () => {
    const rows = await read("a.csv", 'prompt,completion\r\n"a ""b""\nc",d\r\ne,\r\n');
    expect(rows.map((row) => row.value)).toEqual([
      { prompt: 'a "b"\nc', completion: "d" },
      { prompt: "e", completion: "" },
    ]);
    const chat = await read("b.csv", 'messages\n"[{""role"":""user"",""content"":""a""}]"\n');
    expect(toExamples(chat).rows[0]!.example).toEqual({
      kind: "chat",
      messages: [{ role: "user", content: "a" }],
    });
    expect((await read("c.tsv", "prompt\tcompletion\na,b\tc\n"))[0]!.value).toEqual({
      prompt: "a,b",
      completion: "c",
    });
    expect((await read("d.csv", "text\none column\n"))[0]!.value).toEqual({ text: "one column" });
  });

  it.each([
    ["prompt,completion\na\n", /a\.csv row 1: 1 fields, but the header names 2/],
    ['prompt,completion\n"a,b\n', /not valid CSV/],
    ["text,text\na,b\n", /the column "text" twice/],
    ["messages\nhello\n", /row 1: "messages" is text that is not valid JSON/],
    ["messages\n[{'role': 'user'}]\n", /row 1: .*printed by Python/],
    ["text\n", /has no rows/],
  ])("refuses %j", async (content, message) => {
    await expect(read("a.csv", content).then(toExamples)).rejects.toThrow(message);
  });
});

describe("Parquet", () => {
  it.each(["a.parquet", "a.data.parquet"])(
    "%s: nested rows, whole numbers as numbers, nulls left out",
    async (name) => {
      const rows = await read(name, parquetSample);
      expect(rows.map((row) => row.value)).toEqual([
        {
          messages: [
            { role: "user", content: "Hi" },
            { role: "assistant", content: "Hello, café.", name: "bot" },
          ],
          stars: 5,
        },
        { messages: [{ role: "user", content: "Bye" }] },
      ]);
      expect(rows[1]!.id).toEqual({ file: name, line: 2, unit: "row" });
      expect(toExamples(rows).ignoredKeys).toEqual({ stars: 1 });
    },
  );

  it("keeps floats, 64 bits, decimals and the order of fields, at every depth", async () => {
    const golden = readGolden<{ file: string; rows: string[] }>("parquet-rows.json");
    const rows = await read("numbers.parquet", Buffer.from(golden.file, "base64"));
    expect(rows.map(({ value }) => exactJsonText(value))).toEqual(golden.rows);
    expect(Object.keys(toExamples(rows).ignoredKeys)).toContain("huge");
  });

  it("is refused, never crashed on, when any byte is cut off or changed", async () => {
    for (let i = 0; i < parquetSample.length; i += 101) {
      const damaged = Buffer.from(parquetSample);
      damaged[i]! ^= 0xff;
      for (const content of [damaged, parquetSample.subarray(0, i)]) {
        const outcome = await read("damaged.parquet", content).catch((error: unknown) => error);
        if (!Array.isArray(outcome)) expect(outcome, `byte ${i}`).toBeInstanceOf(UserError);
      }
    }
  }, 60_000);
});

describe("other files", () => {
  it.each([
    ["a.txt", /plain text has no rows.*\{"text"/],
    ["a.jsonl.xz", /packed; unpack it first/],
    ["a.xlsx", /expected a \.jsonl/],
  ])("%s is refused with advice", async (name, message) => {
    await expect(read(name, "x")).rejects.toThrow(message);
  });

  it("damaged Parquet and missing files are refused", async () => {
    await expect(read("a.parquet", "PAR1 not really PAR1")).rejects.toThrow(/a\.parquet: not a Parquet file/);
    await expect(read("b.parquet", "")).rejects.toThrow(/not a Parquet file/);
    await expect(readRows(join(folder, "none.jsonl"))).rejects.toThrow(/no such file/);
  });
});

describe("real data sets", () => {
  const cases: [string, string, number][] = [
    ["alpaca/alpaca_5000.json", "alpaca", 5000],
    ["llamafactory/alpaca_en_demo.json", "alpaca", 999],
    ["llamafactory/identity.json", "alpaca", 91],
    ["llamafactory/glaive_toolcall_en_demo.json", "sharegpt", 300],
    ["wikisql-mlx/train.jsonl", "text", 1000],
    ["gsm8k/test.jsonl", "question-answer", 1319],
  ];
  it.skipIf(!hasAssets).each(cases)(`%s is %s (${WITHOUT} when skipped)`, async (path, format, count) => {
    const examples = toExamples(await readRows(asset(`data/${path}`)));
    expect(examples.format.name).toBe(format);
    expect(examples.rows).toHaveLength(count);
  });

  const refused: [string, RegExp][] = [
    ["alpaca/seed_tasks.jsonl", /line 1: expected/],
    ["llamafactory/dpo_en_demo.json", /preference data/],
    ["llamafactory/kto_en_demo.json", /rated good or bad/],
    ["tinyshakespeare/input.txt", /plain text/],
  ];
  it.skipIf(!hasAssets).each(refused)(`%s is refused (${WITHOUT} when skipped)`, async (path, message) => {
    await expect(readRows(asset(`data/${path}`)).then(toExamples)).rejects.toThrow(message);
  });
});
