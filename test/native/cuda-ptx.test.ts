// The PTX in the package: made from the sources that are there, no kernel missing, none that spills registers, and not large.

import { readFileSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { kernelFiles, ptxPath, sourceHash, statedHash } from "../../native/cuda/ptx-source.mjs";
import { cudaKernels } from "../../src/backend/cuda/kernels.ts";
import { kernelsOf } from "../../src/backend/cuda/ptx.ts";

const again = "run `node native/cuda/build-ptx.mjs`";
const registers = fileURLToPath(new URL("../../native/cuda/ptx/registers.txt", import.meta.url));

describe.each(kernelFiles())("%s.ptx", (file) => {
  const kernels = Object.entries(cudaKernels).flatMap(([name, kernel]) =>
    kernel.file === file ? [{ name, ...kernel }] : [],
  );

  it("was made from these sources", () => {
    expect(statedHash(file), again).toBe(sourceHash(file));
  });

  it("has every kernel of its source", () => {
    const entries = [...readFileSync(ptxPath(file), "utf8").matchAll(/\.entry (\w+)\(/g)].map(
      ([, name]) => name,
    );
    expect(entries.sort(), again).toEqual(kernels.map(({ name }) => name).sort());
  });

  it("takes arguments of the size that launches write", () => {
    const text = readFileSync(ptxPath(file), "utf8");
    for (const { name, argumentBytes } of kernels) {
      const found = new RegExp(`\\.entry ${name}\\(\\s*\\.param \\.align \\d+ \\.b8 \\w+\\[(\\d+)\\]`).exec(
        text,
      );
      expect(Number(found?.[1]), name).toBe(argumentBytes);
    }
  });

  it("is taken apart kernel by kernel, each with what it names", () => {
    const apart = kernelsOf(readFileSync(ptxPath(file), "utf8"), file);
    expect([...apart.keys()].sort()).toEqual(kernels.map(({ name }) => name).sort());
    for (const text of apart.values()) {
      expect(text.match(/\.entry /g)).toHaveLength(1);
      expect(text.match(/\.(version|target|address_size) /g)).toHaveLength(3);
      // Names of variables begin with _Z or are the dynamic shared memory; none may be used and not declared.
      for (const [name] of text.matchAll(/\b(?:_Z\w+|dynamicSharedRaw)\b/g))
        expect(text).toMatch(new RegExp(`^\\s*\\.(?:global|shared|extern|const) .*\\b${name}\\b`, "m"));
    }
  });

  it("spills nothing on the cards of four generations", () => {
    const lines = readFileSync(registers, "utf8")
      .split("\n")
      .filter((line) => line.startsWith(`${file} `));
    expect(lines.length, again).toBe(kernels.length);
    for (const line of lines) {
      const [, kernel, ...figures] = line.split(" ");
      const cards = figures.filter((_, i) => i % 3 === 0);
      expect(cards.length, kernel).toBe(file.endsWith("-sm90") ? 1 : 4);
      for (let i = 2; i < figures.length; i += 3)
        expect(figures[i], `${kernel} on ${figures[i - 2]}`).toBe("0");
    }
  });
});

it("all of it is below a megabyte as npm packs it", async () => {
  const { gzipSync } = await import("node:zlib");
  const texts = kernelFiles().map((file) => gzipSync(readFileSync(ptxPath(file))).length);
  expect(texts.reduce((sum, bytes) => sum + bytes, statSync(registers).size)).toBeLessThan(1e6);
});
