// A comparison as the page gets it: its rows lead to the runs that lie below its folder.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { CompareFiles } from "../../src/ui/compare-file.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-compares-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

it("names the run of a row wherever the comparison was made from, and none that is not there", async () => {
  const row = (name: string, folder?: string) => ({
    ...{ name, method: "lora", rank: 8, trainableParameters: 10, scores: { perplexity: 2 } },
    ...{
      standardErrors: { perplexity: 0.1 },
      intervals: {},
      tried: [],
      atEdge: false,
      course: [[1, 2]],
      folder,
    },
  });
  const rows = [
    row("base"),
    row("lora-r8", "elsewhere/night/one/runs/lora-r8-lr0.00100"),
    row("beside", "one\\full-lr0.0001"),
    row("gone", "one/runs/gone-lr0.1"),
  ];
  mkdirSync(join(root, "one"));
  const facts = {
    model: "m",
    data: "d",
    evalData: "e",
    status: "done",
    quality: "perplexity",
    seeds: [0],
    runs: 2,
  };
  writeFileSync(join(root, "one", "compare.json"), JSON.stringify({ ...facts, rows }));
  const ids = new Set(["one/runs/lora-r8-lr0.00100", "one/full-lr0.0001"]);
  const view = await new CompareFiles(root).view("one", ids);
  expect(view.rows.map(({ name, run }) => [name, run])).toEqual([
    ["base", undefined],
    ["lora-r8", "one/runs/lora-r8-lr0.00100"],
    ["beside", "one/full-lr0.0001"],
    ["gone", undefined],
  ]);
});
