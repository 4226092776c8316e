// The rotary embedding's frequencies, for every type and every spelling of config.json, and what tiny models make of
// them, against transformers (tools/golden/rope.py).

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import type { LayerRope } from "../../src/models/decoder-config.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { attentionFactorOf, inverseFrequencies, lengthOfOneTable } from "../../src/nn/rope-frequencies.ts";
import { exactBackends } from "../conformance/backends.ts";
import { lossAndGradients, openGolden } from "../conformance/model-case.ts";
import { type FloatArray, floatsOf, type ModelGolden, readGolden } from "../golden/load-golden.ts";

type Config = Readonly<Record<string, unknown>>;

interface RopeGolden {
  readonly cases: readonly {
    readonly config: Config;
    readonly attentionFactor: number;
    readonly frequencies: readonly (FloatArray & { readonly length: number })[];
  }[];
  readonly models: readonly (Pick<ModelGolden, "name" | "seed" | "config" | "tensors"> & {
    readonly texts: readonly { readonly ids: readonly number[]; readonly loss: number }[];
    readonly greedy: readonly number[];
  })[];
}

const golden = readGolden<RopeGolden>("rope.json");
/** torch's f32 power is within one unit in the last place, and what follows from it within two more. */
const frequencyTolerance = 3 * 2 ** -24;
const lossTolerance = 1e-4;

describe("frequencies", () => {
  it.each(golden.cases.map((each, i) => [i, each] as const))("case %i", (_, { config, ...expected }) => {
    const [{ rope, headWidth }] = readModelConfig(config).ropes as [LayerRope];
    expect(attentionFactorOf(rope)).toBeCloseTo(expected.attentionFactor, 12);
    for (const { length, ...array } of expected.frequencies) {
      const values = floatsOf(array);
      const found = inverseFrequencies(rope, headWidth, length);
      expect(found.length).toBe(values.length);
      for (const [i, value] of values.entries())
        expect(Math.abs(found[i]! - value)).toBeLessThanOrEqual(frequencyTolerance * 2 * value);
      // One table serves every text that transformers gives the same frequencies.
      expect(length <= lengthOfOneTable(rope)).toBe(length === expected.frequencies[0]!.length);
    }
  });
});

for (const { name, open, skip } of exactBackends) {
  describe.skipIf(skip)(`models on ${name}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    it.each(golden.models.map((each) => [each.name, each] as const))("%s", async (_, model) => {
      const before = backend.liveBytes;
      const loaded = await openGolden(backend, model);
      const texts = model.texts.map(({ ids }) => ({ ids, mask: ids.map((_, i) => Number(i > 0)) }));
      for (const [i, text] of texts.entries()) {
        const loss = await lossAndGradients(backend, loaded, [text]);
        expect(Math.abs(loss - model.texts[i]!.loss)).toBeLessThan(lossTolerance);
      }
      // Sharing a pass with longer and shorter texts changes nothing.
      const targets = texts.reduce((sum, { ids }) => sum + ids.length - 1, 0);
      const sum = model.texts.reduce((all, { ids, loss }) => all + (ids.length - 1) * loss, 0);
      const shared = await lossAndGradients(backend, loaded, texts);
      expect(Math.abs(shared - sum / targets)).toBeLessThan(lossTolerance);
      const [first] = await generateBatch(loaded.decoder, [
        { promptIds: texts[0]!.ids, maxNewTokens: model.greedy.length, stopIds: [], sampling: greedy },
      ]);
      expect(first!.tokenIds).toEqual(model.greedy);
      loaded.free();
      expect(backend.liveBytes).toBe(before);
    });
  });
}

describe("refusals", () => {
  const base = golden.models[0]!.config;
  const refused = (rope: Config, rest: Config = {}) => {
    return () => readModelConfig({ ...base, rope_scaling: rope, ...rest });
  };
  it("names what is missing or of the wrong kind", () => {
    expect(refused({ type: "su" })).toThrow('rope type "su" is not supported; supported are default, linear');
    expect(refused({ type: "yarn" })).toThrow('needs a "factor"');
    expect(refused({ type: "linear" })).toThrow('"factor" should be a number');
    expect(refused({ type: "linear", factor: -1 })).toThrow("above 0");
    expect(refused({ type: "longrope", short_factor: [1], long_factor: [1] })).toThrow(
      "short_factor should be a list of 8 numbers above 0",
    );
    expect(refused({ rope_theta: 0 })).toThrow("rope_theta should be above 0");
    expect(refused({ type: "linear", factor: 2, partial_rotary_factor: 1.5 })).toThrow(
      "partial_rotary_factor 1.5",
    );
    expect(refused({ full_attention: { rope_type: "yarn", factor: 2 } })).toThrow(
      "a RoPE for each layer type (full_attention)",
    );
  });

  it("says which keys change nothing", () => {
    const notes = (config: Config) => readModelConfig({ ...base, rope_scaling: undefined, ...config }).notes;
    expect(notes({})).toEqual([]);
    expect(notes({ partial_rotary_factor: 0.5 })[0]).toContain("partial_rotary_factor 0.5 is not used");
    const dynamic = { type: "dynamic", factor: 2, original_max_position_embeddings: 8 };
    expect(notes({ rope_scaling: dynamic })[0]).toContain("original_max_position_embeddings is not used");
  });

  it("rounds YaRN's ramp, with a RoPE for each layer type, as what stands beside them says", () => {
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32 };
    const read = (parameters: Config) =>
      readModelConfig({ ...base, rope_scaling: undefined, model_type: "olmo3", rope_parameters: parameters });
    const inside = read({ full_attention: { ...yarn, truncate: false } });
    expect(inside.ropes[0]!.rope).toMatchObject({ type: "yarn", truncate: true });
    expect(inside.notes[0]).toContain("truncate of the RoPE of full_attention is not used");
    const beside = read({ full_attention: yarn, truncate: false });
    expect(beside.ropes[0]!.rope).toMatchObject({ type: "yarn", truncate: false });
    expect(beside.notes).toEqual([]);
  });

  it("turns a part of each head where a scaling and partial_rotary_factor come together", () => {
    const [{ rope }] = readModelConfig({
      ...base,
      rope_scaling: { type: "linear", factor: 2 },
      partial_rotary_factor: 0.5,
    }).ropes as [LayerRope];
    expect(rope).toMatchObject({ type: "linear", rotaryWidth: 8 });
    expect(inverseFrequencies(rope, 16, 1).length).toBe(4);
  });
});
