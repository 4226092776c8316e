// Yarn's Plug'n'Play gives programs open files of its own making, on which sync() and utimes() throw at once; here every
// process of lowrank gets such files, and trains, saves, resumes and merges.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  backendName,
  makeRows,
  scratchFolder,
  succeed,
  summaryIn,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const preload = `
  import { open } from "node:fs/promises";
  const file = await open(process.execPath);
  const { prototype } = file.constructor;
  await file.close();
  prototype.sync = prototype.utimes = () => {
    throw new Error("Method not implemented.");
  };
`;
const before = process.env.NODE_OPTIONS;
beforeAll(() => {
  process.env.NODE_OPTIONS = `${before ?? ""} --import=data:text/javascript,${encodeURIComponent(preload)}`;
});
afterAll(() => {
  if (before === undefined) delete process.env.NODE_OPTIONS;
  else process.env.NODE_OPTIONS = before;
});

it("files that cannot be synced by their own method are written all the same", () => {
  const model = writeTinyModel(join(folder, "model"));
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(8));
  const out = join(folder, "run");
  const words = ["--data", data, "--out", out, "--backend", backendName, "--rank", "4", "--save-every", "1"];
  succeed("train", "--model", model, ...words, "--max-steps", "2");
  const resumed = succeed("train", "--model", model, ...words, "--max-steps", "3", "--resume", "--json");
  expect(summaryIn(resumed.stdout).steps).toBe(3);
  const merged = join(folder, "merged");
  succeed("merge", "--model", model, "--adapter", out, "--out", merged);
  expect(existsSync(join(merged, "model.safetensors"))).toBe(true);
});
