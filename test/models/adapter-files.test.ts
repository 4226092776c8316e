// Adapters that do more than adapt the blocks' linear layers, as PEFT's own folders: attached, beside others in a batch,
// merged, trained on and written again, all against PEFT's losses (tools/golden/adapter_files.py).

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { type LoadedAdapter, readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { GenerationEngine } from "../../src/generate/engine.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { attachLoadedAdapter } from "../../src/models/adapter.ts";
import { vocabularyOf } from "../../src/models/adapter-plan.ts";
import { loadAdapterSet } from "../../src/models/adapter-set.ts";
import type { DecoderConfig } from "../../src/models/decoder-config.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { type LoadedDecoder, loadDecoder, type WeightSource } from "../../src/models/load-model.ts";
import { resizedSource } from "../../src/models/resized-source.ts";
import { ggufAdapter } from "../../src/publish/gguf-adapter.ts";
import { mergedSource } from "../../src/publish/merged-source.ts";
import { goldenSource, logitsOf, lossAndGradients, relativeDifference } from "../conformance/model-case.ts";
import { loadModelGolden, type NamedShape, readGolden, writeAdapterFolder } from "../golden/load-golden.ts";
import { scratchFolder } from "../publish/tiny-model.ts";

interface Case {
  readonly base: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly adapter: readonly NamedShape[];
  readonly texts: readonly (readonly number[])[];
  readonly losses: readonly number[];
}
const golden = readGolden<{ seed: number; cases: Readonly<Record<string, Case>> }>("adapter-files.json");
const cases = Object.entries(golden.cases);
const lossTolerance = 2e-5;

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("reference");
});
afterAll(() => backend.close());

/** The case's folder, read. */
const adapterOf = (name: string, { config, adapter }: Case) =>
  readAdapter(writeAdapterFolder(join(root, name.replaceAll(" ", "-")), config, golden.seed, adapter));

function baseOf({ base }: Case): { config: DecoderConfig; source: WeightSource } {
  const model = loadModelGolden(base);
  return { config: readModelConfig(model.config), source: goldenSource(model) };
}

async function loadFor(each: Case, vocabularySize: number): Promise<LoadedDecoder> {
  const { config, source } = baseOf(each);
  return loadDecoder(
    backend,
    { ...config, vocabularySize },
    resizedSource(source, config.vocabularySize, vocabularySize),
  );
}

const maskOf = (ids: readonly number[]) => ids.map((_, i) => Number(i > 0));

async function expectLosses(loaded: LoadedDecoder, { texts, losses }: Case): Promise<void> {
  for (const [i, ids] of texts.entries()) {
    const loss = await lossAndGradients(backend, loaded, [{ ids, mask: maskOf(ids) }]);
    expect(Math.abs(loss - losses[i]!)).toBeLessThan(lossTolerance);
  }
}

async function withAdapter<T>(
  each: Case,
  adapter: LoadedAdapter,
  trains: boolean,
  use: (loaded: LoadedDecoder, attached: ReturnType<typeof attachLoadedAdapter>) => Promise<T>,
): Promise<T> {
  const before = backend.liveBytes;
  const loaded = await loadFor(each, vocabularyOf(baseOf(each).config, adapter));
  const attached = attachLoadedAdapter(loaded, adapter, { trains });
  try {
    return await use(loaded, attached);
  } finally {
    attached.free();
    loaded.free();
    expect(backend.liveBytes).toBe(before);
  }
}

describe.each(cases)("%s", (name, each) => {
  it("gives PEFT's losses, attached and merged", async () => {
    const adapter = await adapterOf(name, each);
    const logits = await withAdapter(each, adapter, false, async (loaded) => {
      await expectLosses(loaded, each);
      return logitsOf(backend, loaded, each.texts[0]!);
    });
    const { config, source } = baseOf(each);
    const merged = mergedSource(backend, source, config, adapter);
    const loaded = await loadDecoder(backend, merged.config, merged);
    await expectLosses(loaded, each);
    const mergedLogits = await logitsOf(backend, loaded, each.texts[0]!);
    expect(relativeDifference(mergedLogits, logits)).toBeLessThan(1e-5);
    loaded.free();
  });

  it("trains on and comes back whole from a folder of ours", async () => {
    const adapter = await adapterOf(name, each);
    if (adapter.config.ensureWeightTying && adapter.modules.has("model.embed_tokens")) {
      await expect(withAdapter(each, adapter, true, async () => {})).rejects.toThrow("ensure_weight_tying");
      return;
    }
    await withAdapter(each, adapter, true, async (loaded, attached) => {
      await expectLosses(loaded, each);
      for (const parameter of attached.flat.entries) {
        const gradient = await attached.flat.read(parameter, "grad");
        expect(
          gradient.some((value) => value !== 0),
          parameter.name,
        ).toBe(true);
      }
      const again = join(root, `${name.replaceAll(" ", "-")}-again`);
      await writeAdapter(again, attached.config, await attached.read());
      const read = await readAdapter(again);
      expect(read.modules).toEqual(adapter.modules);
      if (!adapter.config.ensureWeightTying) expect(read.replacements).toEqual(adapter.replacements);
      await withAdapter(each, read, false, (other) => expectLosses(other, each));
    });
  });

  it("answers beside the base and another in one batch as alone", async () => {
    const adapter = await adapterOf(name, each);
    const { config } = baseOf(each);
    const room = Math.max(config.vocabularySize, vocabularyOf(config, adapter));
    const request = (promptIds: readonly number[]) => {
      return { promptIds: promptIds.slice(0, 6), maxNewTokens: 8, stopIds: [], sampling: greedy };
    };
    const prompts = each.texts.map((ids) => ids.map((id) => id % config.vocabularySize));
    const base = await loadFor(each, config.vocabularySize);
    const bare = await generateBatch(base.decoder, [request(prompts[1]!)]);
    base.free();
    const alone = await withAdapter(each, adapter, false, ({ decoder }) =>
      generateBatch(decoder, [request(each.texts[0]!), request(each.texts[1]!)]),
    );
    const loaded = await loadFor(each, room);
    const { vocabularySize } = config;
    const engine = new GenerationEngine(loaded.decoder, { slots: 4, capacity: 32, vocabularySize });
    const sets = [1, 2].map(() => loadAdapterSet(loaded.decoder, adapter, vocabularySize));
    const answers = await Promise.all([
      engine.generate({ ...request(each.texts[0]!), adapter: sets[0] }),
      engine.generate(request(prompts[1]!)),
      engine.generate({ ...request(each.texts[1]!), adapter: sets[1] }),
    ]);
    expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(
      [alone[0]!, bare[0]!, alone[1]!].map(({ tokenIds }) => tokenIds),
    );
    await engine.close();
    for (const set of sets) set.free();
    loaded.free();
  });
});

describe("names that wrappers leave", () => {
  const [name, each] = cases.find(([found]) => found === "saved tables of a tie")!;
  it.each(["_orig_mod.", "module.", "module._orig_mod.", "base_model.model."])("%s", async (prefix) => {
    const inside = (key: string) => key.replace(".self_attn.", "._orig_mod.self_attn.");
    // Formula weights go by the order of the names, which the prefix keeps.
    const adapter = each.adapter.map(({ name: key, shape }) => ({ name: prefix + inside(key), shape }));
    const read = await adapterOf(`${name} ${prefix}`, { ...each, adapter });
    expect([...read.modules.keys()]).toEqual([...(await adapterOf(name, each)).modules.keys()]);
    await withAdapter(each, read, false, (loaded) => expectLosses(loaded, each));
  });
});

describe("as a GGUF adapter", () => {
  const about = { name: "a", type: "f32", isUnchanged: (name: string) => name === "lm_head.weight" } as const;
  it.each(cases)("%s", async (name, each) => {
    const adapter = await adapterOf(name, each);
    const exporting = () => ggufAdapter(baseOf(each).config, adapter, about);
    if (name === "head") {
      const names = exporting().tensors.map((tensor) => tensor.name);
      expect(names).toEqual(expect.arrayContaining(["blk.0.attn_q.weight.lora_a", "output.weight.lora_b"]));
      const changed = () => ggufAdapter(baseOf(each).config, adapter, { ...about, isUnchanged: undefined });
      expect(changed).toThrow("it replaces lm_head.weight whole");
    } else expect(exporting).toThrow(/adapter: .* which a GGUF adapter cannot express/);
  });
});
