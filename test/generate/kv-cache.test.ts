// The cache of keys and values: what prompts begin with is computed once and answers keep their bits; a budget too small for
// all puts requests off and answers keep their bits; memory follows the tokens; types of fewer bits come close.

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openReference } from "../../src/backend/reference.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { cachedTokenBytes, chooseCacheType } from "../../src/generate/cache-type.ts";
import { type EngineOptions, GenerationEngine } from "../../src/generate/engine.ts";
import { KeyValueCache } from "../../src/generate/kv-cache.ts";
import { type AdapterSet, loadAdapterSet } from "../../src/models/adapter-set.ts";
import { type OpenedModel, openModel } from "../../src/models/open-model.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";
import { Stage } from "../conformance/stage.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
const llama = writeTinyModel(join(root, "llama"), "llama-gqa-tied-llama3");
const capacity = 340;

/** Prompts with one system part of 210 tokens, some alike to their end, some with less of it in common. */
const prompts = Array.from({ length: 12 }, (_, i) => {
  const random = new Random(i % 9, 3);
  const common = Array.from({ length: 210 }, (_, k) => 4 + ((k * 37) % 200));
  const own = Array.from({ length: 5 + 9 * (i % 9) }, () => 4 + random.nextInt(200));
  return [...common.slice(0, i % 5 === 4 ? 130 : 210), ...own];
});

async function answers(
  engine: GenerationEngine,
  adapters: readonly (AdapterSet | undefined)[],
  inTurn = false,
) {
  const one = async (promptIds: readonly number[], i: number) => {
    const values: number[] = [];
    const result = await engine.generate({
      ...{ promptIds, maxNewTokens: 20 + 5 * (i % 4), stopIds: [], adapter: adapters[i % adapters.length] },
      sampling: { temperature: i % 2, seed: i },
      logprobs: 1,
      // Those who ask for their prompts' own tokens compute all of them.
      promptLogprobs: i === 7 ? 0 : undefined,
      onPrompt: ({ logprobs }) => void values.push(...logprobs),
      onToken(id, logprobs) {
        values.push(id, logprobs!.logprob);
        return undefined;
      },
    });
    return { values, cached: result.cachedTokens ?? 0 };
  };
  if (!inTurn) return Promise.all(prompts.map(one));
  const all: Awaited<ReturnType<typeof one>>[] = [];
  for (const [i, prompt] of prompts.entries()) all.push(await one(prompt, i));
  return all;
}

async function withModel(backend: Backend, folder: string, body: (model: OpenedModel) => Promise<void>) {
  const model = await openModel(backend, folder);
  await body(model);
  await model.close();
  backend.close();
}

/** What every request answers in an engine of its own. */
async function alone(
  model: OpenedModel,
  adapters: readonly (AdapterSet | undefined)[],
  more: Partial<EngineOptions> = {},
  count = prompts.length,
) {
  const all: number[][] = [];
  for (let i = 0; i < count; i++) {
    const engine = new GenerationEngine(model.loaded.decoder, { slots: 1, capacity, ...more });
    const [result] = [await answers(only(engine, i), adapters)];
    all.push(result[i]!.values);
    await engine.close();
  }
  return all;
}

/** An engine that is asked for the i-th answer alone. */
function only(engine: GenerationEngine, i: number): GenerationEngine {
  const generate: GenerationEngine["generate"] = (request) =>
    request.promptIds === prompts[i]
      ? engine.generate(request)
      : Promise.resolve({ tokenIds: [], finishReason: "stop" });
  return Object.assign(Object.create(engine) as GenerationEngine, { generate });
}

const opened = (["fp32", "bf16"] as const).map((precision) => ({
  name: `cpu ${precision}`,
  open: () => openBackend("cpu", { threads: 1, precision }),
}));
/** As devices have it whose products' bits depend on the shape of the call: one piece, of several blocks, at a time. */
const onePiece = async () =>
  Object.assign(await openBackend("cpu", { threads: 1 }), {
    rowsAlike: { few: 16, many: false, piece: 128 },
  });

for (const { name, open } of [...opened, { name: "pieces of two blocks", open: onePiece }]) {
  describe(`beginnings of prompts: ${name}`, () => {
    it("are computed once, and go where memory ends, to the same bits", async () => {
      await withModel(await open(), llama, async (model) => {
        const { decoder } = model.loaded;
        const { backend } = decoder;
        const paths = await Promise.all(
          [1, 2].map((seed) =>
            writeRandomAdapter(join(root, `${name}-${seed}`), llama, { rank: 2 }, 0.3, seed),
          ),
        );
        const adapters: (AdapterSet | undefined)[] = [undefined];
        for (const path of paths) adapters.push(loadAdapterSet(decoder, await readAdapter(path as never)));
        const wanted = await alone(model, adapters);
        const bytes = cachedTokenBytes(model.config, "f32", backend);
        const { piece } = backend.rowsAlike;
        for (const { slots, cacheBytes, inTurn } of [
          { slots: 12, cacheBytes: undefined, inTurn: false },
          { slots: 3, cacheBytes: undefined, inTurn: true },
          // Ten blocks, of which each needs up to six.
          { slots: 12, cacheBytes: 640 * bytes, inTurn: false },
        ]) {
          const engine = new GenerationEngine(decoder, { slots, capacity, cacheBytes });
          const found = await answers(engine, adapters, inTurn);
          expect(found.map(({ values }) => values)).toEqual(wanted);
          const { blocks, usedBlocks, cachedBlocks, evictedBlocks } = engine.cacheUse;
          expect(usedBlocks).toBe(0);
          expect(blocks).toBe(cacheBytes ? 10 : slots * 6);
          if (piece <= 64) {
            const cached = found.map((answer) => answer.cached);
            // Three adapters' first computes three pieces; of the others, all but who asks for its prompt's tokens take them over.
            if (!cacheBytes && !inTurn) expect(cached.filter((count) => count >= 128)).toHaveLength(7);
            expect(cached[7]).toBe(0);
            expect(cachedBlocks).toBeGreaterThan(0);
            if (cacheBytes) expect(evictedBlocks).toBeGreaterThan(0);
          }
          engine.forget(adapters[1]!);
          engine.forget(adapters[2]!);
          expect(engine.cacheUse.cachedBlocks).toBeLessThanOrEqual(cachedBlocks);
          await engine.close();
        }
        for (const adapter of adapters) adapter?.free();
      });
    });
  });
}

describe("key/value cache", () => {
  it("puts off who came last where memory ends, and everyone answers to the same bits", async () => {
    await withModel(await openBackend("cpu", { threads: 1 }), llama, async (model) => {
      const { decoder } = model.loaded;
      const ask = async (engine: GenerationEngine, i: number) => {
        const told: number[] = [];
        const random = new Random(i, 9);
        const signal = { aborted: false };
        const { tokenIds } = await engine.generate({
          promptIds: Array.from({ length: 30 + 17 * i }, () => 4 + random.nextInt(200)),
          ...{ maxNewTokens: 100, stopIds: [], sampling: { temperature: 1, seed: i }, logprobs: 0, signal },
          promptLogprobs: i % 2 === 1 ? 1 : undefined,
          onPrompt: ({ start, logprobs }) => void told.push(start, ...logprobs),
          onToken(id, logprobs) {
            told.push(id, logprobs!.logprob);
            // One goes away, most likely while it waits.
            if (i === 5 && told.length > 150) signal.aborted = true;
            return undefined;
          },
        });
        return { told, tokenIds };
      };
      const wanted: Awaited<ReturnType<typeof ask>>[] = [];
      for (let i = 0; i < 6; i++) {
        const engine = new GenerationEngine(decoder, { slots: 1, capacity: 256 });
        wanted.push(await ask(engine, i));
        await engine.close();
      }
      const cacheBytes = 6 * 64 * cachedTokenBytes(model.config, "f32", decoder.backend);
      const engine = new GenerationEngine(decoder, { slots: 6, capacity: 256, cacheBytes });
      const found = await Promise.all(wanted.map((_, i) => ask(engine, i)));
      expect(found).toEqual(wanted);
      expect(engine.putOff).toBeGreaterThan(0);
      expect([engine.running, engine.waiting, engine.cacheUse.usedBlocks]).toEqual([0, 0, 0]);
      await engine.close();
    });
  });

  it("takes memory as tokens come, and gives all of it back", async () => {
    await withModel(await openBackend("cpu", { threads: 1 }), llama, async (model) => {
      const { decoder } = model.loaded;
      const { backend } = decoder;
      const before = backend.liveBytes;
      const cache = new KeyValueCache(backend, model.config, { slots: 8, capacity: 4096 });
      expect(backend.liveBytes).toBe(before);
      const bytes = cachedTokenBytes(model.config, "f32", backend);
      expect(KeyValueCache.sizeBytes(backend, model.config, 8, 4096)).toBe(8 * 4096 * bytes);
      for (const [slot, tokens] of [60, 64, 65, 1000, 200].entries()) {
        expect(cache.reserve(slot, tokens)).toBe(true);
        const needed = [1, 2, 4, 20, 24][slot]!;
        expect(cache.use.usedBlocks).toBe(needed);
        expect(backend.liveBytes - before).toBeLessThanOrEqual(Math.ceil(needed * 1.25) * 64 * bytes);
      }
      for (let slot = 0; slot < 8; slot++) expect(cache.reserve(slot, 4096)).toBe(true);
      expect(backend.liveBytes - before).toBe(8 * 4096 * bytes);
      cache.free();
      expect(backend.liveBytes).toBe(before);
    });
  });

  it("of fewer bits comes close, in half of the memory", async () => {
    await withModel(await openBackend("cpu", { threads: 1, precision: "fp32" }), llama, async (model) => {
      const exact = await alone(model, [undefined], {}, 3);
      for (const [type, share, tolerance] of [
        ["bf16", 1 / 2, 0.03],
        ["f16", 1 / 2, 0.01],
      ] as const) {
        const found = await alone(model, [undefined], { cacheType: type }, 3);
        // The first token and its log-probability, after a prompt of several pieces.
        for (const [i, values] of found.entries()) {
          if (i % 2 === 1) continue;
          expect(Math.abs(values[1]! - exact[i]![1]!)).toBeLessThan(tolerance);
        }
        const { backend } = model.loaded.decoder;
        const [own, full] = [type, "f32"].map((each) =>
          cachedTokenBytes(model.config, each as "f32", backend),
        );
        expect(own! / full!).toBe(share);
      }
    });
  });

  it.each(["fp32", "bf16"] as const)(
    "attention over blocks has the bits of attention over rows, %s",
    async (precision) => {
      const backend = await openBackend("cpu", { threads: 1, precision });
      const stage = new Stage(backend);
      for (const [heads, kvHeads, width] of [
        [9, 3, 64],
        [4, 1, 40],
      ] as const) {
        for (const lengths of [
          [
            [1, 301],
            [1, 64],
          ],
          [
            [64, 192],
            [80, 270],
            [20, 20],
          ],
        ] as const) {
          const flat = stage.segments(lengths);
          const counts = lengths.map(([, keys]) => Math.ceil(keys / 64));
          const order = Array.from({ length: 16 }, (_, i) => (i * 5 + 3) % 16);
          const [index, table]: [number[], number[]] = [[], []];
          let [place, query] = [0, 0];
          for (const [i, [queries, keys]] of lengths.entries()) {
            table.push(query, queries, place, keys);
            for (let key = 0; key < keys; key++)
              index.push(order[place + Math.floor(key / 64)]! * 64 + (key % 64));
            place += counts[i]!;
            query += queries;
          }
          const q = stage.random([query, heads, width], 1);
          const [k, v] = [2, 3].map((seed) => stage.random([index.length, kvHeads, width], seed)) as [
            Tensor,
            Tensor,
          ];
          const places = stage.ints([index.length], index);
          const [blockK, blockV] = [k, v].map((x) => {
            const y = stage.zeros([16 * 64, kvHeads * width]);
            backend.storeRows({ x, index: places, y });
            return y;
          }) as [Tensor, Tensor];
          const call = async (run: (into: { out: Tensor; lse: Tensor }) => void) => {
            const into = { out: stage.zeros([query, heads, width]), lse: stage.zeros([query, heads]) };
            run(into);
            return [...(await stage.raw(into.out)), ...(await stage.raw(into.lse))];
          };
          const shared = { q, scale: 0.2, window: 0, softcap: 0, sinks: undefined };
          const wanted = await call((into) =>
            backend.attention({ ...shared, ...into, k, v, segments: flat }),
          );
          const found = await call((into) =>
            backend.cachedAttention({
              ...{ ...shared, ...into, k: blockK, v: blockV, kvHeads, blockTokens: 64 },
              blocks: stage.ints([16], order),
              segments: { ...flat, table: stage.ints([lengths.length, 4], table) },
            }),
          );
          expect(Buffer.from(found).equals(Buffer.from(wanted))).toBe(true);
        }
      }
      stage.free();
      backend.close();
    },
  );

  it("stores each type to the bit as the reference does", async () => {
    const backends = [await openBackend("cpu", { threads: 1 }), openReference("f32")];
    for (const type of ["bf16", "f16", "u8"] as const) {
      const stored = await Promise.all(
        backends.map(async (backend) => {
          const stage = new Stage(backend);
          const y = stage.zeros([7, type === "u8" ? 68 : 64], type);
          // Nothing, numbers of one size, and one that is far larger than those beside it.
          const random = new Random(3, 1);
          const x = Array.from({ length: 5 * 64 }, (_, i) =>
            i < 64 ? 0 : (random.nextFloat() - 0.5) * (i === 200 ? 900 : 3),
          );
          backend.storeRows({ x: stage.values([5, 64], x), index: stage.ints([5], [6, 0, 3, 1, 4]), y });
          const bytes = [...(await stage.raw(y))];
          stage.free();
          return bytes;
        }),
      );
      expect(stored[0]).toEqual(stored[1]);
    }
    for (const backend of backends) backend.close();
  });

  it("refuses a budget that holds no sequence, and types that device or model do not take", async () => {
    await withModel(await openBackend("cpu", { threads: 1 }), llama, async (model) => {
      const { backend } = model.loaded.decoder;
      const { config } = model;
      expect(
        () => new KeyValueCache(backend, config, { slots: 2, capacity: 512, memoryBytes: 10_000 }),
      ).toThrow(/--kv-memory/);
      expect(() => chooseCacheType(backend, config, "q8_0")).toThrow(/heads have 16/);
      const plain = { name: "plain", precision: "bf16", floatType: "f32" } as const;
      expect(chooseCacheType(plain, config, "auto")).toBe("f32");
      expect(() => chooseCacheType(plain, config, "bf16")).toThrow(/keeps keys and values as f32/);
      const both = { ...plain, cacheTypes: ["f32", "bf16"] } as const;
      expect(chooseCacheType(both, config, "auto")).toBe("bf16");
      // Products that are in fp32 because that is fastest do not make the cache as large; those that were asked for do.
      const exact = { ...both, precision: "fp32" } as const;
      expect(chooseCacheType(exact, config, "auto", "auto")).toBe("bf16");
      expect(chooseCacheType(exact, config, "auto", "fp32")).toBe("f32");
    });
  });

  it("holds no beginnings for a model whose layers keep states", async () => {
    const folder = writeTinyModel(join(root, "lfm2"), "lfm2");
    await withModel(await openBackend("cpu", { threads: 1, precision: "fp32" }), folder, async (model) => {
      const wanted = await alone(model, [undefined]);
      const engine = new GenerationEngine(model.loaded.decoder, { slots: 4, capacity });
      const found = await answers(engine, [undefined]);
      expect(found.map(({ values }) => values)).toEqual(wanted);
      expect(found.every(({ cached }) => cached === 0)).toBe(true);
      expect(engine.cacheUse.cachedBlocks).toBe(0);
      await engine.close();
    });
  });
});
