// Sums of squares of what layers are multiplied with: the first projections' against the normed embedding, experts'
// against the router's, which sees each token once where they see it once for each expert that it goes to.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Tape } from "../../src/autograd/tape.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { ColumnSquares, type LayerSquares } from "../../src/models/column-squares.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { loadDecoder } from "../../src/models/load-model.ts";
import { deviceSource } from "../../src/models/open-model.ts";
import { passOf } from "../../src/models/token-logits.ts";
import { goldenWeights, loadModelGolden, writeModelFolder } from "../golden/load-golden.ts";
import { mixtureGoldens, writeMixture } from "../golden/mixtures.ts";

const root = mkdtempSync(path.join(tmpdir(), "lowrank-squares-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const texts = [
  [3, 1, 4, 1, 5],
  [9, 2, 6],
];

async function squaresOf(folderPath: string): Promise<Map<string, LayerSquares>> {
  using backend = await openBackend("reference");
  const folder = await openModelFolder(folderPath);
  const config = await readFolderConfig(folder);
  const { decoder } = await loadDecoder(backend, config, deviceSource(backend, folder));
  using squares = new ColumnSquares(backend);
  for (const ids of texts) {
    using tape = new Tape(backend, false);
    const pass = squares.pass(tape);
    await passOf(decoder, tape, ids, { observe: pass.observe }, async (hidden) => {
      tape.run([hidden, ...pass.kept()]);
      await pass.read();
    });
  }
  await folder.close();
  return new Map((await squares.layers()).map((layer) => [layer.name, layer]));
}

describe("sums of squares of columns", () => {
  it("are those of the normed embedding at the first projections", async () => {
    const golden = loadModelGolden("llama-mha");
    const folder = path.join(root, "llama");
    writeModelFolder(golden, folder, {});
    const found = await squaresOf(folder);
    const weights = goldenWeights(golden);
    const embedding = weights.get("model.embed_tokens.weight")!;
    const gain = weights.get("model.layers.0.input_layernorm.weight")!;
    const width = gain.length;
    const expected = new Float64Array(width);
    for (const id of texts.flat()) {
      const row = embedding.subarray(id * width, (id + 1) * width);
      const meanSquare = row.reduce((sum, x) => sum + x * x, 0) / width + Number(golden.config.rms_norm_eps);
      for (let i = 0; i < width; i++) expected[i]! += (row[i]! * gain[i]!) ** 2 / meanSquare;
    }
    for (const part of ["q_proj", "k_proj", "v_proj"]) {
      const { sums, counts } = found.get(`model.layers.0.self_attn.${part}`)!;
      expect([...counts]).toEqual([8]);
      for (const [i, sum] of sums.entries()) expect(sum / expected[i]!).toBeCloseTo(1, 4);
    }
    const down = found.get("model.layers.1.mlp.down_proj")!;
    expect(down.sums.length).toBe(Number(golden.config.intermediate_size));
  });

  it.each(Object.keys(mixtureGoldens))("of experts add up to the router's in %s", async (name) => {
    const found = await squaresOf(await writeMixture(mixtureGoldens[name]!, path.join(root, name)));
    const layers = [...found.keys()].filter((layer) => layer.endsWith(".experts.gate_up_proj"));
    expect(layers.length).toBeGreaterThan(0);
    for (const layer of layers) {
      const gateUp = found.get(layer)!;
      const named = (router: string) => found.get(layer.replace(/experts\.gate_up_proj$/, router));
      const down = found.get(layer.replace("gate_up_proj", "down_proj"))!;
      expect([...down.counts]).toEqual([...gateUp.counts]);
      // Gemma 4's router sees the token through a norm of its own.
      if (name.startsWith("gemma4")) continue;
      const router = (named("gate") ?? named("router"))!;
      const width = router.sums.length;
      const perToken = gateUp.counts.reduce((sum, count) => sum + count, 0) / router.counts[0]!;
      expect(Number.isInteger(perToken)).toBe(true);
      for (const [i, sum] of router.sums.entries()) {
        let all = 0;
        for (let e = 0; e < gateUp.counts.length; e++) all += gateUp.sums[e * width + i]!;
        expect(all / (perToken * sum)).toBeCloseTo(1, 4);
      }
    }
  });
});
