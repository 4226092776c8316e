// Folders whose experts are in MXFP4, as gpt-oss is published: what a run on one needs is counted before there is one, its
// experts stay as they are under every method, --method qlora quantises the rest, and training every weight is refused.

import { writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { assemble } from "../../src/data/assemble.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { predictMemory } from "../../src/memory/predict-memory.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { loadDecoder } from "../../src/models/load-model.ts";
import { deviceSource } from "../../src/models/open-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { readShape } from "../../src/plan/shape.ts";
import { Session } from "../../src/session/session.ts";
import { sampleOf } from "../conformance/model-case.ts";
import { scratchFolder } from "../e2e/lowrank.ts";
import { mixtureGoldens, writeMixture } from "../golden/mixtures.ts";

const golden = mixtureGoldens["gpt-oss-mxfp4"]!;
const folder = await writeMixture(golden, path.join(scratchFolder(), "model"));
const ids = golden.ids.slice(0, 12);

describe("experts in MXFP4", () => {
  it.each(["lora", "qlora"] as const)("--method %s: the ledger is counted before the run", async (method) => {
    const recipe = { method, rank: 2, alpha: 4, targets: "all-linear", optimizer: "adamw", seed: 0 } as const;
    const size = {
      precision: "fp32",
      batchSize: 1,
      sequenceLength: ids.length,
      checkpointing: false,
    } as const;
    const backend = openReference();
    const stored = await openModelFolder(folder);
    const loaded = await loadDecoder(backend, await readFolderConfig(stored), deviceSource(backend, stored), {
      quantize: method === "qlora" ? quantizeOnArrival(backend) : undefined,
    });
    const kinds = (name: string) => {
      const weight = loaded.decoder.weight(`model.layers.0.${name}.weight`);
      return "blockSize" in weight ? `${weight.kind} ${weight.blockSize}` : "dense";
    };
    expect(kinds("mlp.experts.down_proj")).toBe("quantizedStack 32");
    expect(kinds("self_attn.q_proj")).toBe(method === "qlora" ? "quantized 64" : "dense");
    expect(kinds("mlp.router")).toBe("dense");
    {
      using session = new Session(loaded, recipe, { checkpointing: false });
      const batch = assemble([sampleOf({ ids, mask: ids.map(() => 1) }, 0)]);
      await session.trainStep([batch], { learningRate: 1e-4 });
      const counted = backend.ledger();
      const { config, storedDType, storedForm } = await readShape(folder);
      expect(storedForm).toBe("mxfp4");
      const { ledger } = await predictMemory(config, { recipe, ...size, storedDType, storedForm });
      expect(ledger.live.weights).toBe(counted.live.weights);
      expect(ledger.live.scales).toBe(counted.live.scales);
      expect(Math.abs(ledger.peakBytes / counted.peakBytes - 1)).toBeLessThan(0.05);
    }
    await stored.close();
    backend.close();
  });

  it("every weight of them is not trained, and the sentence says what is", async () => {
    const stored = await openModelFolder(folder);
    expect(() => deviceSource(openReference(), stored, { train: true })).toThrow(
      /experts are in MXFP4, 4 bits which full fine-tuning cannot train\. --method lora .*--targets experts.*dequantize=True/,
    );
    await stored.close();
  });

  it("a configuration in another form is planned for as if it were dense", async () => {
    const file = path.join(scratchFolder(), "config.json");
    const { quantization_config: _, ...plain } = golden.config;
    writeFileSync(file, JSON.stringify({ ...plain, quantization_config: { quant_method: "awq", bits: 4 } }));
    expect((await readShape(file)).storedForm).toBeUndefined();
  });
});
