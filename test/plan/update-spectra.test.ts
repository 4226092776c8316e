// Spectra of whole models: a planted update of rank 5 is found as such in files, and summed up over modules.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { newAdapterConfig, writeAdapter } from "../../src/formats/peft.ts";
import { writeSafetensors } from "../../src/formats/safetensors-writer.ts";
import { adapterSpectra, differenceSpectra, summarizeSpectra } from "../../src/plan/update-spectra.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { Random } from "../../src/util/rng.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-spectra-"));
afterAll(() => rmSync(folder, { recursive: true }));

const [rows, cols] = [48, 40];
const random = new Random(5);
const normals = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, () => scale * random.nextNormal());
const q = "model.layers.0.self_attn.q_proj";
const up = "model.layers.0.mlp.up_proj";

async function writeModel(name: string, matrices: Record<string, Float32Array>): Promise<string> {
  const path = join(folder, name);
  mkdirSync(path);
  writeFileSync(join(path, "config.json"), "{}");
  await writeSafetensors(
    join(path, "model.safetensors"),
    Object.entries(matrices).map(([module, values]) => ({
      name: `${module}.weight`,
      dtype: "F32",
      shape: [rows, cols],
      data: () => encodeFrom(values, "f32"),
    })),
  );
  return path;
}

/** base + sum of `rank` outer products. */
function plus(base: Float32Array, rank: number): Float32Array {
  const out = base.slice();
  for (let r = 0; r < rank; r++) {
    const [u, v] = [normals(rows), normals(cols)];
    for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[i * cols + j]! += u[i]! * v[j]!;
  }
  return out;
}

it("finds a planted update of rank 5, and what did not change", async () => {
  const [baseQ, baseUp] = [normals(rows * cols), normals(rows * cols)];
  const base = await writeModel("base", { [q]: baseQ, [up]: baseUp });
  const tuned = await writeModel("tuned", { [q]: plus(baseQ, 5), [up]: baseUp });
  const spectra = await differenceSpectra(base, tuned, () => {});
  expect(spectra.unchanged).toEqual([up]);
  expect(spectra.modules.map(({ name }) => name)).toEqual([q]);
  expect(spectra.modules[0]!.spectrum.numericalRank).toBe(5);
  const summary = summarizeSpectra(spectra, 0.999999, 64);
  expect(summary.proposal).toMatchObject({ rank: 5, rankPattern: {} });
  expect(summary.rank8).toMatchObject({ enough: true, short: [] });
  expect(summary.heldAtRank["8"]).toBeCloseTo(1, 6);
  await expect(differenceSpectra(base, base, () => {})).rejects.toThrow("no update");
});

it("says when rank 8 is not enough, and proposes more where it is needed", async () => {
  const [baseQ, baseUp] = [normals(rows * cols), normals(rows * cols)];
  const base = await writeModel("base2", { [q]: baseQ, [up]: baseUp });
  const tuned = await writeModel("tuned2", { [q]: plus(baseQ, 3), [up]: plus(baseUp, 24) });
  const summary = summarizeSpectra(await differenceSpectra(base, tuned, () => {}), 0.99, 16);
  expect(summary.rank8.enough).toBe(false);
  expect(summary.rank8.short).toEqual([up]);
  expect(summary.proposal.capped).toEqual([up]);
  expect(Object.values({ a: summary.proposal.rank, ...summary.proposal.rankPattern }).sort()).toEqual([
    16, 3,
  ]);
});

it("reads adapters, scale included", async () => {
  const path = join(folder, "adapter");
  mkdirSync(path);
  const config = newAdapterConfig({ rank: 4, alpha: 8, targets: ["q_proj"] });
  const a = { shape: [4, cols], values: normals(4 * cols) };
  const b = { shape: [rows, 4], values: normals(rows * 4) };
  await writeAdapter(path, config, { modules: new Map([[q, { a, b }]]) });
  const { modules } = await adapterSpectra(path);
  let energy = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let sum = 0;
      for (let r = 0; r < 4; r++) sum += b.values[i * 4 + r]! * a.values[r * cols + j]!;
      energy += (2 * sum) ** 2;
    }
  }
  expect(modules[0]!.spectrum.numericalRank).toBe(4);
  expect(modules[0]!.spectrum.energy / energy).toBeCloseTo(1, 5);
});
