// The same request gives the same tokens with the same log-probabilities, its prompt's own among them, to the last bit, whatever shares its passes, on
// every backend: alone, in a crowd, with other adapters beside it, with passes of another size. Kernels one by one:
// test/conformance/rows-alike.test.ts.

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readAdapter } from "../../src/formats/peft.ts";
import { GenerationEngine } from "../../src/generate/engine.ts";
import { type AdapterSet, loadAdapterSet } from "../../src/models/adapter-set.ts";
import { openModel } from "../../src/models/open-model.ts";
import { Random } from "../../src/util/rng.ts";
import { conformanceBackends } from "../conformance/backends.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
/** Few rows, many, several pieces, and the numbers around them. */
const lengths = [1, 7, 16, 17, 40, 63, 81, 150];
const requestCount = 24;
const capacity = 170;

const models = ["llama-gqa-tied-llama3", "lfm2", "mistral-window", "qwen3-5"].map((name) => {
  const folder = writeTinyModel(join(root, name), name);
  const adapters = [1, 2].map((seed) =>
    writeRandomAdapter(
      join(root, `${name}-${seed}`),
      folder,
      seed === 1 ? { rank: 3 } : { rank: 2, targets: ["q_proj", "down_proj"] },
      0.3,
      seed,
    ),
  );
  return { name, folder, adapters };
});

/** A GPU in software compiles its kernels for most of a minute. */
const tested = conformanceBackends.filter(({ name }) => !/f64|webgpu (f16|matrix)/.test(name));

for (const { name: backendName, open, skip } of tested) {
  describe.skipIf(skip !== "")(`same answers: ${backendName}`, () => {
    it.each(backendName.startsWith("webgpu") ? models.slice(2) : models)(
      "$name",
      async ({ folder, adapters: paths }) => {
        const backend = await open();
        const model = await openModel(backend, folder);
        const adapters: AdapterSet[] = [];
        for (const path of paths) {
          adapters.push(loadAdapterSet(model.loaded.decoder, await readAdapter((await path) as never)));
        }
        const answer = async (engine: GenerationEngine, i: number) => {
          const random = new Random(i, 8);
          const values: number[] = [];
          await engine.generate({
            promptIds: Array.from({ length: lengths[i % lengths.length]! }, () => 4 + random.nextInt(200)),
            maxNewTokens: 3 + (i % 5),
            stopIds: [],
            sampling: { temperature: i % 2, seed: i },
            adapter: [undefined, ...adapters][i % 3],
            logprobs: 2,
            // Some ask for their prompts' own tokens, beside some that do not.
            promptLogprobs: i % 2 === 0 ? i % 3 : undefined,
            onPrompt: ({ start, logprobs, ranks, topIds, topLogprobs }) => {
              const each = topIds.length / logprobs.length;
              for (const [k, logprob] of logprobs.entries()) {
                const top = [topIds, topLogprobs].flatMap((list) => [
                  ...list.slice(k * each, (k + 1) * each),
                ]);
                values.push(start + k, logprob, ranks[k]!, ...top);
              }
            },
            onToken: (id, logprobs) => {
              values.push(id, logprobs!.logprob, ...logprobs!.top.map(({ logprob }) => logprob));
              return undefined;
            },
          });
          return values;
        };
        const one = new GenerationEngine(model.loaded.decoder, { slots: 1, capacity });
        const alone: number[][] = [];
        for (let i = 0; i < requestCount; i++) alone.push(await answer(one, i));
        await one.close();
        for (const options of [
          { slots: 5, capacity },
          { slots: 20, capacity, tokensPerPass: 100 },
        ]) {
          const engine = new GenerationEngine(model.loaded.decoder, options);
          const crowd = await Promise.all(alone.map((_, i) => answer(engine, i)));
          await engine.close();
          expect(crowd).toEqual(alone);
        }
        for (const adapter of adapters) adapter.free();
        await model.close();
        backend.close();
      },
    );
  });
}
