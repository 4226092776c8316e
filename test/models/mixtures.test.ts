// Mixtures of experts, and dense models whose layers are not alike, from folders as transformers 5.24 and PEFT 0.21 write
// them: logits, gradients of adapters, ten
// AdamW steps, and greedy ids with cache, mixed lengths and two adapters in one batch, on every exact backend.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { assemble } from "../../src/data/assemble.ts";
import { wrappedName } from "../../src/formats/expert-adapters.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { attachLoadedAdapter } from "../../src/models/adapter.ts";
import { loadAdapterSet } from "../../src/models/adapter-set.ts";
import { peftB } from "../../src/models/expert-factors.ts";
import { readFolderConfig } from "../../src/models/folder-config.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadDecoder } from "../../src/models/load-model.ts";
import { deviceSource } from "../../src/models/open-model.ts";
import { moduleInWhole } from "../../src/models/text-tower.ts";
import { Session } from "../../src/session/session.ts";
import { exactBackends } from "../conformance/backends.ts";
import { logitsOf, lossAndGradients, relativeDifference, sampleOf } from "../conformance/model-case.ts";
import { floatsOf } from "../golden/load-golden.ts";
import {
  type MixtureGolden,
  mixtureGoldens,
  pairGoldens,
  writeMixture,
  writeMixtureAdapter,
} from "../golden/mixtures.ts";

// Both sides compute in float32.
const logitsTolerance = 1e-4;
const gradientTolerance = 1e-3;
const lossTolerance = 1e-4;

const goldens = Object.entries({
  ...mixtureGoldens,
  ...Object.fromEntries(Object.entries(pairGoldens).map(([name, golden]) => [`dense ${name}`, golden])),
});

const root = mkdtempSync(path.join(tmpdir(), "lowrank-mixtures-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function openMixture(backend: Backend, golden: MixtureGolden, name: string) {
  const folder = await openModelFolder(await writeMixture(golden, path.join(root, name)));
  const config = await readFolderConfig(folder);
  expect(config.notes).toEqual([]);
  const loaded = await loadDecoder(backend, config, deviceSource(backend, folder));
  const adapters = await Promise.all(
    [0, 1].map(async (which) =>
      readAdapter(await writeMixtureAdapter(golden, path.join(root, `${name}-adapter-${which}`), which)),
    ),
  );
  return { folder, config, loaded, adapters };
}

// Of the CPU's instruction sets the best and the plainest: what lies between is held by the kernels' own cases.
const ofCpu = exactBackends.filter(({ name }) => name.startsWith("cpu"));
const between = new Set(ofCpu.slice(1, -1));

for (const { name: backendName, open, skip } of exactBackends.filter((each) => !between.has(each))) {
  describe.skipIf(skip)(`mixtures on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    it.each(goldens)("%s as transformers and PEFT", async (name, golden) => {
      const backend = await open();
      const { config, loaded, adapters, folder } = await openMixture(backend, golden, name);
      const ids = golden.ids;
      expect(relativeDifference(await logitsOf(backend, loaded, ids), floatsOf(golden.logits))).toBeLessThan(
        logitsTolerance,
      );
      const [adapter] = adapters as [(typeof adapters)[number]];
      const attached = attachLoadedAdapter(loaded, adapter, { trains: true });
      expect(
        relativeDifference(await logitsOf(backend, loaded, ids), floatsOf(golden.tunedLogits)),
      ).toBeLessThan(logitsTolerance);

      const sequence = { ids, mask: ids.map(() => 1) };
      attached.flat.zeroGrad();
      for (const checkpointing of [false, true]) {
        attached.flat.zeroGrad();
        await lossAndGradients(backend, loaded, [sequence], checkpointing);
        for (const parameter of attached.flat.entries) {
          const module = parameter.name.replace(/\.lora_[ab]$/, "");
          const values = await attached.flat.read(parameter, "grad");
          const { shape } = parameter.tensor;
          const ofExperts = shape.length === 3;
          const found = ofExperts ? peftB(module, { shape, values }, config).values : values;
          const kind = parameter.name.endsWith("_a") ? "lora_A" : "lora_B";
          const saved = `base_model.model.${moduleInWhole(config.tower, wrappedName(module, adapter.modules))}.${kind}.weight`;
          const expected = golden.gradients[saved];
          expect(expected, saved).toBeDefined();
          expect(relativeDifference(found, floatsOf(expected!)), saved).toBeLessThan(gradientTolerance);
        }
      }
      expect(attached.flat.entries.length).toBe(Object.keys(golden.gradients).length);

      attached.flat.zeroGrad();
      const recipe = {
        method: "lora",
        rank: 1,
        alpha: 1,
        targets: "all-linear",
        optimizer: "adamw",
      } as const;
      const constants = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, seed: 0 };
      const losses: number[] = [];
      {
        const trainable = { parameters: attached.flat, adapter: undefined };
        using session = new Session(loaded, { ...recipe, ...constants }, {}, trainable);
        for (let step = 0; step < golden.training.losses.length; step++) {
          const { loss } = await session.forwardBackward(assemble([sampleOf(sequence, 0)]));
          await session.step({ learningRate: golden.training.learningRate, maxGradNorm: 0 });
          losses.push(loss);
        }
      }
      for (const [step, loss] of golden.training.losses.entries())
        expect(Math.abs(losses[step]! - loss) / loss, `step ${step}`).toBeLessThan(lossTolerance);
      attached.free();
      loaded.free();
      await folder.close();
      backend.close();
    });

    const fullyTrained = goldens.filter(([, { fullGradients }]) => fullGradients);
    it.each(fullyTrained)("%s: gradients of full fine-tuning", async (name, golden) => {
      const backend = await open();
      const folder = await openModelFolder(await writeMixture(golden, path.join(root, `${name}-full`)));
      const config = await readFolderConfig(folder);
      const loaded = await loadDecoder(backend, config, deviceSource(backend, folder), { train: true });
      const flat = loaded.trained!;
      for (const checkpointing of [false, true]) {
        flat.zeroGrad();
        await lossAndGradients(
          backend,
          loaded,
          [{ ids: golden.ids, mask: golden.ids.map(() => 1) }],
          checkpointing,
        );
        for (const [theirs, expected] of Object.entries(golden.fullGradients!)) {
          const ours = theirs
            .replace(/^model\.language_model\./, "model.")
            .replace(/(?<=\.experts\.\w+)_bias$/, ".bias");
          const parameter = flat.get(ours) ?? flat.get(`${ours}.weight`);
          expect(parameter, theirs).toBeDefined();
          const found = await flat.read(parameter!, "grad");
          const norm = Math.sqrt(found.reduce((sum, value) => sum + value * value, 0));
          const sum = found.reduce((total, value) => total + value, 0);
          expect(Math.abs(norm / expected.norm - 1), theirs).toBeLessThan(gradientTolerance);
          expect(Math.abs(sum - expected.sum) / expected.norm, theirs).toBeLessThan(gradientTolerance);
          // gpt-oss has its experts in another order in memory.
          if (config.mixture?.files === "interleaved" && theirs.includes(".experts.")) continue;
          for (const [i, entry] of expected.entries.entries())
            expect(Math.abs(found[i * expected.stride]! - entry) / expected.max, theirs).toBeLessThan(
              gradientTolerance,
            );
        }
        const known = Object.keys(golden.fullGradients!).length;
        expect(flat.entries.length - (config.layerScalars ? config.layers.length : 0)).toBe(known);
      }
      loaded.free();
      await folder.close();
      backend.close();
    });

    it.each(goldens)("%s generates, two adapters in a batch", async (name, golden) => {
      const backend = await open();
      const { loaded, adapters, folder } = await openMixture(backend, golden, name);
      const sets = adapters.map((adapter) => loadAdapterSet(loaded.decoder, adapter));
      const request = ({ prompt, ids }: { prompt: readonly number[]; ids: readonly number[] }) => ({
        ...{ promptIds: prompt, maxNewTokens: ids.length, stopIds: [], sampling: greedy },
      });
      const wanted = [
        ...golden.greedy.map((each) => ({ each, adapter: undefined })),
        ...golden.greedyTuned.flatMap((list, i) => list.map((each) => ({ each, adapter: sets[i] }))),
      ];
      for (const slots of [1, 4]) {
        const results = await generateBatch(
          loaded.decoder,
          wanted.map(({ each, adapter }) => ({ ...request(each), adapter })),
          { slots },
        );
        expect(results.map(({ tokenIds }) => tokenIds)).toEqual(wanted.map(({ each }) => each.ids));
      }
      for (const set of sets) set.free();
      loaded.free();
      await folder.close();
      backend.close();
    });
  });
}

describe("adapters of experts", () => {
  it.each(goldens)("%s: a folder written is the folder read", async (name, golden) => {
    const folder = await writeMixtureAdapter(golden, path.join(root, `${name}-written`));
    const adapter = await readAdapter(folder);
    const again = path.join(root, `${name}-again`);
    const { tower } = readModelConfig(golden.config);
    const moduleName = (module: string) => moduleInWhole(tower, module);
    await writeAdapter(again, adapter.config, adapter, { moduleName });
    const copy = await readAdapter(again);
    expect([...copy.modules.keys()].sort()).toEqual([...adapter.modules.keys()].sort());
    for (const [module, pair] of adapter.modules) {
      expect(copy.modules.get(module)!.b.values, module).toEqual(pair.b.values);
      expect(copy.settings.get(module), module).toEqual(adapter.settings.get(module));
    }
  });
});
