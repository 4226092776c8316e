import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { toExamples } from "../../src/data/index.ts";
import { readRows } from "../../src/data/read-rows.node.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-e2e-"));
afterAll(() => rmSync(folder, { recursive: true }));
const tool = join(import.meta.dirname, "../../tools/convert-e2e.mjs");
const at = (name: string) => join(folder, name);

function convert(...options: string[]) {
  execFileSync(process.execPath, [tool, at("in.txt"), at("out.jsonl"), ...options], { stdio: "pipe" });
  return readFileSync(at("out.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

describe("convert-e2e", () => {
  writeFileSync(
    at("in.txt"),
    "name : A | food : x||A has x . \nname : B||B is here . \nname : A | food : x||x at A .\n",
  );
  writeFileSync(at("seen.txt"), "name : B||B .\n");

  it("writes one row a text", async () => {
    expect(convert()[0]).toEqual({ prompt: "name : A | food : x ||", completion: " A has x ." });
    expect(convert("--separator", "\n")[1]).toEqual({ prompt: "name : B\n", completion: " B is here ." });
    expect(toExamples(await readRows(at("out.jsonl"))).format.name).toBe("prompt-completion");
  });

  it("groups the texts of a meaning and leaves out seen meanings", async () => {
    expect(convert("--group", "--unseen", at("seen.txt"))).toEqual([
      { prompt: "name : A | food : x ||", completion: " A has x .", references: [" A has x .", " x at A ."] },
    ]);
    expect(toExamples(await readRows(at("out.jsonl"))).ignoredKeys).toEqual({});
  });

  it("refuses other lines and wrong usage", () => {
    writeFileSync(at("bad.txt"), "no bars\n");
    expect(spawnSync(process.execPath, [tool, at("bad.txt"), at("out.jsonl")]).status).toBe(1);
    expect(spawnSync(process.execPath, [tool]).status).toBe(2);
  });
});
