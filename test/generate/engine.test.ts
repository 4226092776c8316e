// The long-lived engine: requests that come, go and vanish while others run answer as they would alone, adapters in
// one batch too, and nothing stays behind.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { GenerationEngine } from "../../src/generate/engine.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy, Sampler } from "../../src/generate/sampler.ts";
import {
  type AdapterSet,
  adapterParts,
  adapterSetSteps,
  loadAdapterSet,
} from "../../src/models/adapter-set.ts";
import { type OpenedModel, openModel } from "../../src/models/open-model.ts";
import { Random } from "../../src/util/rng.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
});
afterAll(() => backend.close());

describe.each(["llama-gqa-tied-llama3", "mistral-window", "qwen2-tied", "qwen3", "qwen3-5", "lfm2"])(
  "engine: %s",
  (name) => {
    const folder = writeTinyModel(join(root, name), name);
    let model: OpenedModel;
    const adapters: AdapterSet[] = [];
    const alone: number[][] = [];
    const prompts = [[5, 6, 7], [80, 81, 82, 83, 84, 85, 86, 87, 88], [9], [70, 40, 10, 99]];
    const request = (i: number) => ({
      promptIds: prompts[i % prompts.length]!,
      maxNewTokens: 12,
      stopIds: [],
      sampling: greedy,
      adapter: [undefined, ...adapters][i % 3],
    });

    beforeAll(async () => {
      // Each answer as the command line would give it: the adapter attached, nothing else in the batch.
      const paths = [undefined];
      for (const seed of [1, 2]) {
        const given = seed === 1 ? { rslora: true } : { rank: 2, targets: ["q_proj", "down_proj"] };
        paths.push(
          (await writeRandomAdapter(join(root, `${name}-${seed}`), folder, given, 0.3, seed)) as never,
        );
      }
      for (let i = 0; i < 12; i++) {
        const attached = await openModel(backend, folder, { adapter: paths[i % 3] });
        const { adapter: _, ...plain } = request(i);
        const [result] = await generateBatch(attached.loaded.decoder, [plain]);
        alone.push(result!.tokenIds);
        await attached.close();
      }
      model = await openModel(backend, folder);
      for (const path of paths.slice(1))
        adapters.push(loadAdapterSet(model.loaded.decoder, await readAdapter(path as never)));
    });
    afterAll(async () => {
      for (const adapter of adapters) adapter.free();
      await model.close();
    });

    it("two adapters and the base at once answer as alone, prompts cut over passes", async () => {
      expect(new Set(alone.map(String)).size).toBeGreaterThan(6);
      for (const tokensPerPass of [2048, 3]) {
        const engine = new GenerationEngine(model.loaded.decoder, { slots: 5, capacity: 32, tokensPerPass });
        const results = await Promise.all(Array.from({ length: 12 }, (_, i) => engine.generate(request(i))));
        expect(results.map((result) => result.tokenIds)).toEqual(alone);
        expect([engine.running, engine.waiting]).toEqual([0, 0]);
        await engine.close();
      }
    });

    it("requests that come late, stop or vanish leave the others alone and no memory behind", async () => {
      await engineOnce(); // tables of positions stay with the decoder
      const before = backend.liveBytes;
      await engineOnce();
      expect(backend.liveBytes).toBe(before);
    });

    async function engineOnce(): Promise<void> {
      const engine = new GenerationEngine(model.loaded.decoder, { slots: 3, capacity: 32 });
      const random = new Random(7);
      const all = Array.from({ length: 40 }, async (_, i) => {
        await new Promise((resolve) => setTimeout(resolve, random.nextInt(20)));
        const vanishes = i % 4 === 3;
        const signal = { aborted: false };
        let seen = 0;
        const result = await engine.generate({
          ...request(i % 12),
          signal,
          onToken: () => {
            if (vanishes && ++seen > i % 7) signal.aborted = true;
            return undefined;
          },
        });
        const expected = alone[i % 12]!;
        expect(result.tokenIds).toEqual(vanishes ? expected.slice(0, result.tokenIds.length) : expected);
        if (vanishes) expect(result.tokenIds.length).toBeLessThan(expected.length);
      });
      await Promise.all(all);
      await engine.close();
    }
  },
);

describe("engine", () => {
  it("refuses what cannot run and gives log-probabilities where asked", async () => {
    const folder = writeTinyModel(join(root, "plain"));
    const model = await openModel(backend, folder);
    const engine = new GenerationEngine(model.loaded.decoder, { slots: 2, capacity: 16 });
    const base = { maxNewTokens: 4, stopIds: [], sampling: greedy };
    await expect(engine.generate({ ...base, promptIds: [] })).rejects.toThrow(/empty prompt/);
    await expect(engine.generate({ ...base, promptIds: [5000] })).rejects.toThrow(
      /outside the model's vocabulary/,
    );
    await expect(engine.generate({ ...base, promptIds: Array(14).fill(5) })).rejects.toThrow(
      /do not fit the context/,
    );
    const seen: number[] = [];
    const { tokenIds } = await engine.generate({
      ...base,
      promptIds: [5, 6],
      logprobs: 3,
      onToken: (id, logprobs) => {
        expect(logprobs!.top).toHaveLength(3);
        expect(logprobs!.top[0]).toEqual({ id, logprob: logprobs!.logprob });
        expect(logprobs!.logprob).toBeLessThan(0);
        seen.push(id);
        return undefined;
      },
    });
    expect(seen).toEqual(tokenIds);
    await engine.close();
    await expect(engine.generate({ ...base, promptIds: [5] })).rejects.toThrow(/closed/);
    await model.close();
  });
});

describe("while others are answered", () => {
  const base = { stopIds: [], sampling: greedy };
  const prompt = (length: number) => Array.from({ length }, (_, i) => 3 + (i % 90));

  it("long prompts enter in pieces that the time of a pass allows, and answer as alone", async () => {
    const folder = writeTinyModel(join(root, "pieces"));
    const model = await openModel(backend, folder);
    const { decoder } = model.loaded;
    const sizes: number[] = [];
    const watched = Object.assign(Object.create(decoder) as typeof decoder, {
      forward(...given: Parameters<typeof decoder.forward>) {
        sizes.push(given[1].ids.shape[0]!);
        return decoder.forward(...given);
      },
    });
    const alone = await generateBatch(decoder, [{ ...base, promptIds: prompt(600), maxNewTokens: 5 }]);
    // A clock that counts tokens: a pass takes a millisecond for each.
    const clock = () => sizes.reduce((sum, size) => sum + size, 0);
    const engine = new GenerationEngine(watched, { slots: 3, capacity: 700, passMs: 200, clock });
    let late: Promise<unknown> | undefined;
    const long = async () => {
      const result = await engine.generate({ ...base, promptIds: prompt(600), maxNewTokens: 5 });
      expect(result.tokenIds).toEqual(alone[0]!.tokenIds);
    };
    await engine.generate({
      ...base,
      promptIds: [5],
      maxNewTokens: 40,
      onToken() {
        late ??= long();
        return undefined;
      },
    });
    await late;
    // The first prompt tells how long a token takes; from then on as many pieces of 64 as 200 ms allow.
    // Passes of answers, and of a prompt of a few tokens, have at most 64 rows; of a piece alone it is filled up to 65.
    expect(sizes.filter((size) => size > 64)).toEqual([192, 192, 192, 65]);
    // With nobody to wait, a prompt enters at once; one that was there before, but for its last piece.
    sizes.length = 0;
    await engine.generate({ ...base, promptIds: prompt(601).slice(1), maxNewTokens: 1 });
    await engine.generate({ ...base, promptIds: prompt(600), maxNewTokens: 1 });
    expect(sizes).toEqual([600, 65]);
    await engine.close();
    await model.close();
  });

  it("an adapter goes to the device in pieces, and passes run between them", async () => {
    const folder = writeTinyModel(join(root, "steps"));
    const path = await writeRandomAdapter(join(root, "steps-adapter"), folder, {}, 0.3, 4);
    const model = await openModel(backend, folder);
    const read = await readAdapter(path);
    const engine = new GenerationEngine(model.loaded.decoder, { slots: 2, capacity: 200 });
    let tokens = 0;
    const bystander = engine.generate({
      ...base,
      promptIds: [5],
      maxNewTokens: 190,
      onToken() {
        tokens++;
        return undefined;
      },
    });
    const steps = adapterSetSteps(model.loaded.decoder, adapterParts(model, read), 256);
    const tokensAt: number[] = [];
    let set: AdapterSet | undefined;
    while (!set) {
      const step = steps.next();
      if (step.done) set = step.value;
      else await new Promise((resolve) => setImmediate(resolve));
      tokensAt.push(tokens);
    }
    const values = [...read.modules.values()].reduce(
      (sum, { a, b }) => sum + a.values.length + b.values.length,
      0,
    );
    expect(tokensAt.length).toBeGreaterThanOrEqual(Math.floor(values / 512));
    // No two steps without a pass between them, but for the first that found the engine starting.
    for (let i = 3; i < tokensAt.length - 1; i++) expect(tokensAt[i]).toBeGreaterThan(tokensAt[i - 2]!);
    await bystander;
    const whole = loadAdapterSet(model.loaded.decoder, read);
    const [stepped, atOnce] = await Promise.all(
      [set, whole].map((adapter) =>
        engine.generate({ ...base, promptIds: [5, 6, 7], maxNewTokens: 20, adapter }),
      ),
    );
    expect(stepped!.tokenIds).toEqual(atOnce!.tokenIds);
    set.free();
    whole.free();
    // Given up half-way, it leaves nothing.
    const held = backend.liveBytes;
    const given = adapterSetSteps(model.loaded.decoder, adapterParts(model, read), 256);
    given.next();
    expect(backend.liveBytes).toBeGreaterThan(held);
    given.return(undefined as never);
    expect(backend.liveBytes).toBe(held);
    await engine.close();
    await model.close();
  });
});

describe("sampler", () => {
  const logits = () => Float32Array.from([0, 3, 1, 2.5, -4, 2]);
  /** How often each token comes in many draws. */
  function frequencies(sampling: Partial<ConstructorParameters<typeof Sampler>[0]>): number[] {
    const sampler = new Sampler({ temperature: 1, seed: 3, ...sampling });
    const counts = Array<number>(6).fill(0);
    for (let i = 0; i < 4000; i++) counts[sampler.next(logits(), () => [])]! += 1 / 4000;
    return counts;
  }
  function expected(kept: readonly number[], temperature = 1): number[] {
    const weights = [...logits()].map((value, i) => (kept.includes(i) ? Math.exp(value / temperature) : 0));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  }
  it.each([
    [{}, [0, 1, 2, 3, 4, 5]],
    [{ topK: 2 }, [1, 3]],
    [{ topP: 0.7 }, [1, 3]],
    [{ topP: 0.01 }, [1]],
    [{ minP: 0.3 }, [1, 3, 5]],
    [{ topK: 3, topP: 0.9, minP: 0.5 }, [1, 3]],
  ] as const)("%j keeps what it should, as often as it should", (sampling, kept) => {
    const found = frequencies(sampling);
    for (const [i, value] of expected(kept).entries()) expect(Math.abs(found[i]! - value)).toBeLessThan(0.03);
  });
  it("repeats with its seed, and penalises what was seen", () => {
    const draw = (seed: number) => {
      const sampler = new Sampler({ temperature: 1, seed });
      return Array.from({ length: 20 }, () => sampler.next(logits(), () => []));
    };
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
    const sampler = new Sampler({ temperature: 0, seed: 0, repetitionPenalty: 2 });
    expect(sampler.next(logits(), () => [1])).toBe(3);
  });
});
