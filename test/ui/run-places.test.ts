// Where runs may lie and which files a page may name: nothing outside, by no spelling and by no link.

import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ReadablePlaces } from "../../src/ui/readable-places.ts";
import { findRuns, folderOf, isId, newFolderOf } from "../../src/ui/run-places.ts";
import { makeRun } from "./made-runs.ts";

const base = realpathSync(mkdtempSync(join(tmpdir(), "lowrank-ui-places-")));
afterAll(() => rmSync(base, { recursive: true, force: true }));
const root = join(base, "runs");
makeRun(root, "first", 3);
makeRun(root, "group/second", 3);
makeRun(base, "outside", 3);
mkdirSync(join(root, "comparison", "lora-r8"), { recursive: true });
writeFileSync(join(root, "comparison", "compare.json"), "{}");
makeRun(root, "comparison/lora-r8", 3);
mkdirSync(join(root, "full"));
writeFileSync(join(root, "full", "anything"), "");
mkdirSync(join(root, ".hidden"));
makeRun(root, ".hidden/run", 3);
symlinkSync(join(base, "outside"), join(root, "link"));
symlinkSync(base, join(root, "group", "up"));

const strange = [
  "",
  "..",
  "../outside",
  "first/..",
  "first/../../outside",
  "/etc",
  "a//b",
  "./first",
  "first/",
  "a\\b",
  "c:x",
  "first\u0000",
  ".hidden/run",
  "x".repeat(500),
  "a.",
  "a ",
];

describe("runs", () => {
  it("are found below the folder, in comparisons too, without following links", async () => {
    const { runs, compares, truncated } = await findRuns(root);
    expect([...runs].sort()).toEqual(["comparison/lora-r8", "first", "group/second"]);
    expect([compares, truncated]).toEqual([["comparison"], false]);
    expect((await findRuns(join(root, "first"))).runs).toEqual(["."]);
    expect((await findRuns(join(base, "nowhere"))).runs).toEqual([]);
  });

  it("are named by plain names alone", async () => {
    for (const id of strange) {
      expect(isId(id), id).toBe(false);
      await expect(folderOf(root, id), id).rejects.toThrow(/there is no run/);
    }
    for (const id of ["link", "link/x", "group/up/outside", "nowhere"])
      await expect(folderOf(root, id), id).rejects.toThrow(/there is no run/);
    expect(await folderOf(root, "group/second")).toBe(join(root, "group", "second"));
    expect(await folderOf(root, ".")).toBe(root);
  });

  it("begin in a folder that is absent or empty, below the shown one", async () => {
    for (const id of [...strange, ".", "a/b/c/d/e", "checkpoints", "x/checkpoints", "-rf", "a:b", "a;b"])
      await expect(newFolderOf(root, id), id).rejects.toThrow(/cannot name a run/);
    for (const id of ["full", "first", "first/inside", "link", "link/new", "group/up/new"])
      await expect(newFolderOf(root, id), id).rejects.toThrow(/not empty|something else|is a run itself/);
    mkdirSync(join(root, "empty"));
    expect(await newFolderOf(root, "empty")).toBe(join(root, "empty"));
    expect(await newFolderOf(root, "Später 2/run_1")).toBe(join(root, "Später 2", "run_1"));
  });
});

describe("files that a page names", () => {
  const places = new ReadablePlaces([root, join(base, "more")]);
  mkdirSync(join(base, "more"));
  writeFileSync(join(base, "secret.jsonl"), "");
  symlinkSync(join(base, "secret.jsonl"), join(root, "linked.jsonl"));

  it("lie in the folders that it may read", async () => {
    for (const path of ["rows.jsonl", "*.jsonl", "deeper/**/rows-?.jsonl", "."])
      await places.require(join(root, path), "data");
    await places.require(join(base, "more", "rows.jsonl"), "data");
    // A name of a template, or on the hub, is no path that leads out.
    await new ReadablePlaces([process.cwd()]).require("owner/name", "model");
  });

  it("are rows that lie there, whatever leads to them from a folder or a pattern", async () => {
    mkdirSync(join(base, "more", "data"));
    writeFileSync(join(base, "more", "data", "rows.jsonl"), "");
    for (const path of ["more/data", "more/data/*.jsonl", "more/data/rows.jsonl"])
      await places.requireData(join(base, path), "data");
    symlinkSync(join(base, "secret.jsonl"), join(base, "more", "data", "other.jsonl"));
    for (const path of ["more/data", "more/data/*.jsonl", "more/*/oth*", "more/data/other.jsonl"])
      await expect(places.requireData(join(base, path), "data"), path).rejects.toMatchObject({ status: 403 });
  });

  it("lie nowhere else, by no spelling, pattern or link", async () => {
    const outside = [
      join(base, "secret.jsonl"),
      `${root}/../secret.jsonl`,
      join(root, "linked.jsonl"),
      join(root, "link", "run.json"),
      join(root, "group", "up", "secret.jsonl"),
      `${base}/*.jsonl`,
      `${root}/../*/run.json`,
      `${root}/*/../../secret.jsonl`,
      "/etc/passwd",
      `${root}-beside/rows.jsonl`,
      "../../somewhere.jsonl",
    ];
    for (const path of outside)
      await expect(places.require(path, "data"), path).rejects.toMatchObject({ status: 403, param: "data" });
  });
});
