// From training to what people do next, by the real commands: merge, export, generate from the merged folder, serve,
// and refusals on the way.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  lowrank,
  makeRows,
  scratchFolder,
  startLowrank,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = join(folder, "model");
const adapter = join(folder, "adapter");
const merged = join(folder, "merged");
const device = ["--backend", backendName];

beforeAll(() => {
  writeTinyModel(model);
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(8));
  const training = ["--data", data, "--out", adapter, "--max-steps", "6", "--learning-rate", "0.05"];
  succeed(
    "train",
    "--model",
    model,
    ...training,
    "--sequence-length",
    "64",
    "--precision",
    "fp32",
    ...device,
  );
});

const generate = (...args: string[]) =>
  JSON.parse(
    succeed(
      "generate",
      "--prompt",
      "0 red:",
      "--max-new-tokens",
      "12",
      "--precision",
      "fp32",
      "--json",
      ...device,
      ...args,
    ).stdout,
  ) as { tokenIds: number[] };

describe("a trained adapter", () => {
  it("merges with a receipt, and the merged folder says the same", () => {
    const { stdout } = succeed(
      "merge",
      "--model",
      model,
      "--adapter",
      adapter,
      "--out",
      merged,
      "--json",
      ...device,
    );
    const report = JSON.parse(stdout) as { passed: boolean; comparisons: { meanKl: number }[] };
    expect(report.passed).toBe(true);
    expect(report.comparisons[0]!.meanKl).toBeLessThan(1e-6);
    expect(generate("--model", merged).tokenIds).toEqual(
      generate("--model", model, "--adapter", adapter).tokenIds,
    );
    expectRefusal(lowrank("merge", "--model", model, "--adapter", adapter, "--out", merged, ...device), 1, [
      "not empty",
    ]);
    const coarse = ["--dtype", "bf16", "--max-kl", "0", "--out", join(folder, "coarse")];
    expectRefusal(lowrank("merge", "--model", model, "--adapter", adapter, ...coarse, ...device), 1, [
      "mean KL divergence",
      "--force",
    ]);
  });

  it("exports as GGUF, merged and alone, with a Modelfile", () => {
    const base = ["export", "--model", model, "--adapter", adapter, "--json", ...device];
    const whole = JSON.parse(succeed(...base, "--type", "q8_0", "--out", join(folder, "whole.gguf")).stdout);
    expect(whole).toMatchObject({ kind: "model", type: "q8_0" });
    const alone = JSON.parse(succeed(...base, "--adapter-only", "--out", join(folder, "alone.gguf")).stdout);
    expect(alone).toMatchObject({ kind: "adapter", type: "f32" });
    for (const name of ["whole", "alone"])
      expect(
        readFileSync(join(folder, `${name}.gguf`))
          .subarray(0, 4)
          .toString(),
      ).toBe("GGUF");
    expect(readFileSync(join(folder, "alone.Modelfile"), "utf8")).toContain("ADAPTER ./alone.gguf");
    expectRefusal(lowrank("export", "--model", model, "--adapter-only", "--out", "x.gguf"), 2, ["--adapter"]);
    expect(existsSync("x.gguf")).toBe(false);
  });

  it("serves by name until told to end", async () => {
    const { child, finished } = startLowrank([
      ...["serve", "--model", model, "--adapter", `tuned=${adapter}`, "--port", "0", "--json"],
      ...["--precision", "fp32", "--context", "64", ...device],
    ]);
    const started = await new Promise<{ url: string; models: string[] }>((resolve) => {
      child.stdout!.once("data", (line: string) => resolve(JSON.parse(line)));
    });
    expect(started.models).toEqual(["model", "tuned"]);
    const response = await fetch(`${started.url}/v1/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "tuned", prompt: "0 red:", max_tokens: 12, temperature: 0 }),
    });
    const { usage } = (await response.json()) as { usage: { completion_tokens: number } };
    expect(usage.completion_tokens).toBe(generate("--model", model, "--adapter", adapter).tokenIds.length);
    child.kill("SIGTERM");
    expect((await finished).status).toBe(0);
  });

  it("is pushed with a token only", () => {
    expectRefusal(lowrank("push", "--adapter", adapter, "--repo", "nonsense"), 1, ["owner/name"]);
  });
});
