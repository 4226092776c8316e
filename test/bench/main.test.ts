// Benchmarks by name: a kernel's calls are those of the case list, checked and timed; --json is one document.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { kernelSpecs } from "../conformance/cases/index.ts";

const main = fileURLToPath(new URL("../../bench/main.mjs", import.meta.url));
const bench = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });

it("times a kernel's calls and holds them against the reference", () => {
  const { status, stdout } = bench("rope", "--seconds", "0", "--json");
  const document = JSON.parse(stdout);
  expect(status).toBe(0);
  expect(document.results.map(({ name }: { name: string }) => name)).toEqual(
    kernelSpecs.rope.speed.map(({ name }) => name),
  );
  for (const { microseconds, error, ok } of document.results) {
    expect(ok).toBe(true);
    expect(error).toBeLessThan(2e-5);
    expect(microseconds).toBeGreaterThan(0);
  }
});

it("lists what there is when a name is none, with the code for wrong usage", () => {
  const { status, stderr } = bench("roope");
  expect(status).toBe(2);
  expect(stderr).toContain('there is no benchmark "roope"');
  expect(stderr).toContain("against-peft");
});
