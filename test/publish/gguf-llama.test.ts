// GGUF files of every family in llama.cpp itself, where node-llama-cpp is there: greedy texts and log-probabilities beside
// ours, with adapters and without. What is written and refused: gguf-families.test.ts.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { families, familyShape, writeFamily } from "./families.ts";
import { llama, openLlama } from "./llama.ts";
import { withTableGelu } from "./table-gelu.ts";
import { scratchFolder, writeRandomAdapter } from "./tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => backend.close());

async function exported(model: string, options: { adapter?: string; adapterOnly?: boolean } = {}) {
  const out = `${model}${options.adapter ? "-adapted" : ""}${options.adapterOnly ? "-lora" : ""}.gguf`;
  await exportGguf(backend, { model, out, type: "f32", adapterOnly: false, modelfile: false, ...options });
  return out;
}

describe.skipIf(!llama.present)(`llama.cpp (${llama.reason})`, () => {
  const text = "Once upon a time, there was a girl named Lily.";

  /** The largest difference of log-probabilities. Greedy texts must be equal, but for a tie of two tokens within `bound`. */
  async function compare(
    model: string,
    gguf: string,
    bound: number,
    options: { adapter?: string; lora?: string } = {},
  ): Promise<number> {
    await using opened = await openModel(backend, model, { adapter: options.adapter });
    const { decoder } = opened.loaded;
    const other = await openLlama(gguf, options.lora);
    try {
      const prompt = [0, ...other.tokenize(text)];
      const [ours] = await generateBatch(decoder, [
        { promptIds: prompt, maxNewTokens: 32, stopIds: [], sampling: greedy },
      ]);
      const theirs = await other.greedy(prompt, 32);
      const whole = [...prompt, ...ours!.tokenIds];
      const logits = await tokenLogits(decoder, whole);
      const width = opened.config.vocabularySize;
      const rowAt = (t: number) => logits.subarray(t * width, (t + 1) * width);
      const first = theirs.findIndex((id, i) => id !== ours!.tokenIds[i]);
      if (first >= 0) {
        const row = rowAt(prompt.length + first - 1);
        expect(row[ours!.tokenIds[first]!]! - row[theirs[first]!]!).toBeLessThan(bound);
      }
      let worst = 0;
      for (const [t, probabilities] of (await other.probabilities(prompt)).entries()) {
        const row = rowAt(t);
        const norm = Math.log(row.reduce((sum, each) => sum + Math.exp(each), 0));
        for (const [id, p] of probabilities)
          if (p > 1e-6) worst = Math.max(worst, Math.abs(Math.log(p) - (row[id]! - norm)));
      }
      return worst;
    } finally {
      await other.close();
    }
  }

  it.each(Object.keys(families))(
    "%s: greedy text and log-probabilities, adapted and merged too",
    async (name) => {
      const bound = 1e-2;
      const model = writeFamily(root, name);
      const usesGelu = readModelConfig({ ...familyShape, ...families[name] }).activation === "geluTanh";
      const out = await exported(model);
      // Its table of f16 numbers keeps llama.cpp's GELU from ours, and nothing else does.
      if (usesGelu) expect(await compare(model, out, 1e-1)).toBeLessThan(1e-1);
      const undo = usesGelu ? withTableGelu(backend) : () => {};
      try {
        expect(await compare(model, out, bound)).toBeLessThan(bound);
        const given = {
          excludeModules: ["per_layer_model_projection"],
          // Where there are experts.
          targetParameters: ["experts.gate_up_proj", "experts.down_proj"],
        };
        const adapter = await writeRandomAdapter(join(root, `${name}-adapter`), model, given, 0.05);
        const merged = await exported(model, { adapter });
        expect(await compare(model, merged, bound, { adapter })).toBeLessThan(bound);
        const lora = await exported(model, { adapter, adapterOnly: true });
        expect(await compare(model, out, bound, { adapter, lora })).toBeLessThan(bound);
      } finally {
        undo();
      }
    },
  );
});
