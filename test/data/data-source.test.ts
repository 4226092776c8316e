import { describe, expect, it } from "vitest";
import { dataName, readDataChoice, readRenamed, renamed, sourcesOf } from "../../src/data/data-source.ts";
import { ExampleReader } from "../../src/data/index.ts";
import { UsageError } from "../../src/util/errors.ts";

const read = (given: unknown) => readDataChoice(given, "--data");

describe("data as it is given", () => {
  it.each([
    ["rows.jsonl"],
    ["C:\\data\\rows.jsonl"],
    ["C:/data/rows=2.jsonl"],
    ["\\\\host\\share\\a:b.jsonl"],
    ["owner/name:train"],
    ["owner/name@main:validation"],
    ["folder/*.jsonl"],
    ["weight=2,limit=3.jsonl"],
  ])("%s is a path and nothing else", (path) => {
    expect(read(path)).toBe(path);
    expect(read([path])).toBe(path);
    expect(sourcesOf(read(path))).toEqual([{ path }]);
  });

  it.each([
    ["rows.jsonl:weight=2", { path: "rows.jsonl", weight: 2 }],
    ["C:\\data\\rows.jsonl:limit=500,weight=0.5", { path: "C:\\data\\rows.jsonl", limit: 500, weight: 0.5 }],
    ["owner/name:train:weight=3", { path: "owner/name:train", weight: 3 }],
    [
      "a.jsonl:chat-template=C:\\t,1.jinja,train-on=all",
      { path: "a.jsonl", chatTemplate: "C:\\t,1.jinja", trainOn: "all" },
    ],
    [
      "a.csv:columns.prompt=question,columns.completion=the answer,weight=1e2",
      { path: "a.csv", columns: { prompt: "question", completion: "the answer" }, weight: 100 },
    ],
  ])("%s", (text, source) => {
    expect(read(text)).toEqual([source]);
    expect(read(source)).toEqual([source]);
  });

  it("several, of both forms", () => {
    const choice = read(["a.jsonl", { path: "b.jsonl", weight: 2 }]);
    expect(choice).toEqual([{ path: "a.jsonl" }, { path: "b.jsonl", weight: 2 }]);
    expect(dataName(choice)).toBe("a.jsonl + b.jsonl");
    expect(dataName(["a", "b", "c", "d", "e"].map((path) => ({ path })))).toBe("a + b + c + 2 more");
  });

  it.each([
    ["rows.jsonl:wieght=2", /unknown option "wieght".*Did you mean "weight"/],
    ["rows.jsonl:weight=2,wieght=3", /unknown option "wieght"/],
    ["rows.jsonl:weight=0", /weight: expected a number above 0; got 0/],
    ["rows.jsonl:weight=much", /weight: expected a number above 0; got "much"/],
    ["rows.jsonl:limit=1.5", /limit: expected a whole number/],
    ["rows.jsonl:train-on=some", /trainOn: expected completions, assistant, all/],
    [":weight=2", /path: expected/],
    [{ path: "a", wieght: 1 }, /unknown key "wieght".*Did you mean "weight"/],
    [{ path: "a", columns: { prompt: 1 } }, /columns: expected a map/],
    [[], /expected from 1 to 256 data sets; got 0/],
    [7, /expected a path, or/],
    [[["a"]], /expected a path, or/],
  ])("%j is refused", (given, message) => {
    expect(() => read(given)).toThrow(message);
    expect(() => read(given)).toThrow(UsageError);
  });
});

it("columns stand for the keys that are read, and what they hide is gone", () => {
  const id = { file: "a", line: 1, unit: "line" } as const;
  const row = { id, value: { q: "1", prompt: "old", a: "2", more: 3 } };
  expect(renamed(row, { prompt: "q", completion: "a" })).toEqual({
    id,
    value: { prompt: "1", completion: "2", more: 3 },
  });
  expect(renamed(row, { prompt: "none" }).value).toEqual({ q: "1", a: "2", more: 3 });
});

it("a row that cannot be read tells which columns it has not", () => {
  const row = { id: { file: "a.csv", line: 1, unit: "row" as const }, value: { question: "1", reply: "2" } };
  const reader = new ExampleReader();
  const read = (columns: Record<string, string>) => readRenamed(row, columns, (each) => reader.read(each));
  expect(read({ prompt: "question", completion: "reply" }).example).toMatchObject({ kind: "completion" });
  expect(() => read({ prompt: "questoin", completion: "reply" })).toThrow(
    /a\.csv row 1: expected .*columns\.prompt=questoin: the row has no such key; it has question, reply\./,
  );
});
