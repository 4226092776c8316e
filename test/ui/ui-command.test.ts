// `lowrank ui` as it is typed: where the folder may stand, what it says, how it ends, and what it refuses.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import type { RunList } from "../../src/ui/api.ts";
import { expectRefusal, lowrank, scratchFolder, startLowrank } from "../e2e/lowrank.ts";
import { makeRun } from "./made-runs.ts";

const folder = scratchFolder();
const runs = join(folder, "runs");
makeRun(runs, "first", 5);

it("shows the folder that stands anywhere among its flags, and ends when told to", async () => {
  for (const args of [
    [runs, "--port", "0"],
    ["--json", "--port", "0", runs],
  ]) {
    const { child, finished } = startLowrank(["ui", ...args]);
    let told = "";
    child.stdout!.on("data", (text) => (told += text));
    while (!told.includes("\n")) await sleep(10);
    const url = args.includes("--json") ? JSON.parse(told).url : /^(\S+) shows /.exec(told)![1];
    const list = (await (await fetch(new URL("api/runs", url))).json()) as RunList;
    expect(list.runs.map(({ id }) => id)).toEqual(["first"]);
    child.kill("SIGTERM");
    expect((await finished).status).toBe(0);
  }
});

it("refuses what it cannot show or must not open", () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  mkdirSync(join(folder, "other"));
  expectRefusal(lowrank("ui", file, "--port", "0"), 1, ["not a folder"]);
  expectRefusal(lowrank("ui", runs, join(folder, "other")), 2, ["unexpected", "other"]);
  expectRefusal(lowrank("ui", runs, "--host", "0.0.0.0"), 2, ["--api-key"]);
  expectRefusal(lowrank("ui", runs, "--prot", "0"), 2, ["--port"]);
});
