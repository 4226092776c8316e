// QLoRA through the real commands: quantise a folder, train on it and on the original, page and resume; what is equal
// by construction must be equal in bytes.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { quantizerNames } from "../../src/quant/index.ts";
import {
  backendName,
  expectRefusal,
  filesOf,
  lowrank,
  makeRows,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(40));

const train = (out: string, ...more: string[]) => [
  ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", backendName],
  ...["--max-steps", "6", "--batch-size", "2", "--no-timing", "--rank", "4", ...more],
];
const recordOf = (out: string) => JSON.parse(readFileSync(join(folder, out, "run.json"), "utf8"));

describe("--method qlora", () => {
  it("gives the same adapter on the original, quantised on arrival, and on a quantised folder as it is", () => {
    const quantized = join(folder, "nf4");
    const report = JSON.parse(
      succeed("quantize", "--model", model, "--out", quantized, "--backend", backendName, "--json").stdout,
    );
    expect(report).toMatchObject({
      quantType: "nf4",
      blockSize: 64,
      doubleQuant: true,
      quantizedWeights: 14,
    });
    expect(Object.keys(report.overall.errors)).toEqual(["nf4", "fp4", "int4"]);
    expect(report.peakRssBytes).toBeGreaterThan(0);
    succeed(...train("arrival", "--method", "qlora"));
    succeed(...train("stored", "--method", "qlora", "--model", quantized));
    const [a, b] = ["arrival", "stored"].map((out) =>
      filesOf(join(folder, out), ["metrics.jsonl", "adapter_model.safetensors"]),
    );
    expect(a).toEqual(b);
    expectRefusal(lowrank("quantize", "--model", quantized, "--out", join(folder, "again")), 1, [
      "quantised already",
    ]);
    expect(existsSync(join(folder, "again"))).toBe(false);
    expectRefusal(lowrank(...train("full", "--method", "full", "--model", quantized)), 1, [
      "full fine-tuning cannot train",
    ]);
  });

  it("trains on every quantiser there is, each its own run, and resumes only on the same", () => {
    const adapters = quantizerNames.map((name) => {
      const out = `type-${name}`;
      succeed(...train(out, "--method", "qlora", "--quant-type", name));
      expect(recordOf(out).options.quantType).toBe(name);
      return filesOf(join(folder, out), ["adapter_model.safetensors"]);
    });
    expect(new Set(adapters.map((files) => JSON.stringify(files))).size).toBe(quantizerNames.length);
    const again = (name: string) => train("type-int4", "--method", "qlora", "--quant-type", name, "--resume");
    expectRefusal(lowrank(...again("fp4")), 1, ["quantType"]);
    succeed(...again("int4"));
  });

  it("books codes as weights and all that decodes them as scales", () => {
    succeed(...train("lora", "--method", "lora"));
    const [lora, qlora] = ["lora", "arrival"].map((out) => recordOf(out).memory.live);
    expect(lora.scales).toBe(0);
    expect(qlora.scales).toBeGreaterThan(0);
    expect(qlora.weights).toBeLessThan(lora.weights);
    expect(qlora.adapters).toBe(lora.adapters);
  });
});

describe.skipIf(backendName !== "cpu")("--paged", () => {
  it.each(["adamw", "adamw8bit"])(
    "%s: changes no byte, and resumes a run that was not paged",
    (optimizer) => {
      const common = ["--method", "full", "--optimizer", optimizer];
      const paged = ["--paged", "--paged-budget", "1000"];
      const result = (out: string) => filesOf(join(folder, out), ["metrics.jsonl", "model.safetensors"]);
      succeed(...train(`${optimizer} plain`, ...common));
      const run = succeed(...train(`${optimizer} paged`, ...common, ...paged));
      expect(run.stderr).toMatch(/paging .* of optimizer state/);
      const expected = result(`${optimizer} plain`);
      expect(result(`${optimizer} paged`)).toEqual(expected);
      expect(readdirSync(join(folder, `${optimizer} paged`)).filter((name) => name.startsWith("."))).toEqual(
        [],
      );

      const resumed = train(`${optimizer} resumed`, ...common, "--save-every", "3");
      succeed(...resumed, ...paged);
      rmSync(join(folder, `${optimizer} resumed`, "checkpoints", "step-6"), { recursive: true });
      succeed(...resumed, "--resume");
      expect(result(`${optimizer} resumed`)).toEqual(expected);
    },
  );

  it("a disk without room for the state, or for the 4-bit folder: one clear error, nothing left", ({
    skip,
  }) => {
    const disk = join(folder, "disk");
    mkdirSync(disk);
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], {
      encoding: "utf8",
    });
    if (mounted.status !== 0) skip(`a small disk cannot be mounted here: ${mounted.stderr}`);
    try {
      const out = ["--out", join(disk, "run"), "--method", "full", "--paged", "--paged-budget", "1"];
      expectRefusal(lowrank(...train("unused", ...out)), 1, ["--paged", "the disk has no room for it"]);
      expect(readdirSync(disk)).toEqual([]);
      const quantize = ["quantize", "--model", model, "--out", join(disk, "nf4"), "--backend", "cpu"];
      expectRefusal(lowrank(...quantize), 1, ["the disk is full"]);
      expect(readdirSync(disk)).toEqual([]);
    } finally {
      spawnSync("umount", [disk]);
    }
  });

  it("needs --paged for a budget", () => {
    expectRefusal(lowrank(...train("x", "--paged-budget", "1GB")), 2, ["--paged-budget needs --paged"]);
  });
});
