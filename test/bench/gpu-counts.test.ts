// The counting benchmark: one JSON object for every method, whose counts agree with each other; one sentence for what is
// wrong, with its code.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";

const main = fileURLToPath(new URL("../../bench/main.mjs", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lowrank-gpu-counts-"));
afterAll(() => rmSync(folder, { recursive: true }));

function configFile(layers: number): string {
  const path = join(folder, `config-${layers}.json`);
  const shape = { hidden_size: 256, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 512 };
  writeFileSync(
    path,
    JSON.stringify({ model_type: "llama", vocab_size: 512, num_hidden_layers: layers, ...shape }),
  );
  return path;
}

function counts(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, "gpu-counts", ...args], {
    encoding: "utf8",
  });
  return { status, stderr, document: status === 0 ? JSON.parse(stdout) : undefined };
}

const shape = ["--batch-size", "1", "--sequence-length", "256", "--json"];

describe.each(["qlora", "lora", "full"])("a step of %s", (method) => {
  it("is counted as one object whose families add up to it", () => {
    const { status, document } = counts("--model", configFile(2), "--method", method, ...shape, "--families");
    expect(status).toBe(0);
    const sum = (key: string) =>
      document.families.reduce((total: number, family: Record<string, number>) => total + family[key]!, 0);
    expect(document.dispatches).toBe(sum("dispatches"));
    expect(document.operandBytes).toBe(sum("operandBytes"));
    expect(document).toMatchObject({ method, newBuffers: 0, newPipelines: 0 });
    for (const name of ["newBindGroups", "submits", "hostMs", "peakBytes"])
      expect(document[name], name).toBeGreaterThanOrEqual(0);
  });
});

it("grows with the layers", () => {
  const [two, four] = [2, 4].map((layers) => counts("--model", configFile(layers), ...shape).document);
  const three = counts("--model", configFile(3), ...shape).document;
  expect(four.dispatches - three.dispatches).toBe(three.dispatches - two.dispatches);
  expect(four.dispatches).toBeGreaterThan(three.dispatches);
});

it.each([
  [1, /no such folder/, ["--model", "nothing-here"]],
  [2, /--tier: expected matrix, f16, f32/, ["--model", "x", "--tier", "f8"]],
  [2, /unknown flag --metod/, ["--model", "x", "--metod", "lora"]],
  [2, /needs --model/, []],
])("ends with %i for what is wrong", (code, message, args) => {
  const { status, stderr } = counts(...args);
  expect(status).toBe(code);
  expect(stderr).toMatch(message);
  expect(stderr).not.toContain("    at ");
});
