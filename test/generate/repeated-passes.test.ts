// Passes whose calls are made again answer to the bit as passes that are written anew: while requests come and go, with
// adapters, drawn tokens and texts that outgrow their blocks; and most passes of a long answer are repeated.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { GenerationEngine } from "../../src/generate/engine.ts";
import { type AdapterSet, loadAdapterSet } from "../../src/models/adapter-set.ts";
import { type OpenedModel, openModel } from "../../src/models/open-model.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
const opened = await openBackend("cpu", { threads: 2 }).catch(() => undefined);
afterAll(() => opened?.close());

/** The backend, with the passes counted that it repeats; or one that repeats none. */
function watched(backend: Backend, repeats: boolean): { backend: Backend; count: { replayed: number } } {
  const count = { replayed: 0 };
  const record: Backend["record"] = (body) => {
    const calls = backend.record!(body);
    return (
      calls && {
        replay() {
          const done = calls.replay();
          if (done) count.replayed++;
          return done;
        },
        free: () => calls.free(),
      }
    );
  };
  const own = repeats ? { record } : { record: undefined, largestOfRows: undefined };
  return { backend: Object.assign(Object.create(backend) as Backend, own), count };
}

describe.skipIf(!opened).each(["llama-gqa-tied-llama3", "mistral-window", "qwen3-5", "lfm2"])(
  "repeated passes: %s",
  (name) => {
    const folder = writeTinyModel(join(root, name), name);
    const sides = [true, false].map((repeats) => watched(opened!, repeats));
    const models: OpenedModel[] = [];
    const adapters: AdapterSet[] = [];
    beforeAll(async () => {
      const path = await writeRandomAdapter(join(root, `${name}-adapter`), folder, { rank: 2 }, 0.3, 1);
      for (const { backend } of sides) {
        const model = await openModel(backend, folder);
        models.push(model);
        adapters.push(loadAdapterSet(model.loaded.decoder, await readAdapter(path)));
      }
    });
    afterAll(async () => {
      for (const adapter of adapters) adapter.free();
      for (const model of models) await model.close();
    });

    const answers = async (side: number, given: object) => {
      const { decoder } = models[side]!.loaded;
      const engine = new GenerationEngine(decoder, { slots: 4, capacity: 160, cacheType: "auto", ...given });
      const results = await Promise.all(
        [90, 20, 60, 90, 30, 7, 70].map((maxNewTokens, i) =>
          engine.generate({
            promptIds: Array.from({ length: 3 + 5 * i }, (_, k) => 4 + ((k * 31 + i * 7) % 90)),
            maxNewTokens,
            stopIds: [],
            sampling: { temperature: i % 3 === 2 ? 0.8 : 0, seed: i },
            ...(i % 2 === 1 ? { adapter: adapters[side] } : {}),
          }),
        ),
      );
      await engine.close();
      return results.map(({ tokenIds }) => tokenIds);
    };

    it("answer as passes that are written anew, and leave no memory behind", async () => {
      const wanted = await answers(1, {});
      expect(sides[1]!.count.replayed).toBe(0);
      expect(await answers(0, {})).toEqual(wanted);
      // 90 tokens a request in 4 slots, of which each change of who runs costs two or three.
      expect(sides[0]!.count.replayed).toBeGreaterThan(60);
      const before = opened!.liveBytes;
      expect(await answers(0, {})).toEqual(wanted);
      expect(opened!.liveBytes).toBe(before);
    });

    it("take weights as they are when requests come after a pause", async () => {
      const { decoder } = models[0]!.loaded;
      const engine = new GenerationEngine(decoder, { slots: 1, capacity: 160 });
      const request = {
        promptIds: [5, 6, 7],
        maxNewTokens: 20,
        stopIds: [],
        sampling: { temperature: 0, seed: 0 },
      };
      const first = (await engine.generate(request)).tokenIds;
      const norm = decoder.config.finalNorm;
      const { shape, dtype } = decoder.weight(`${norm}.weight`) as Tensor;
      const buffer = opened!.allocate(4 * shape[0]!, "weights");
      opened!.write(
        buffer,
        encodeFrom(
          Float32Array.from({ length: shape[0]! }, (_, i) => (i % 5) - 2.5),
          "f32",
        ),
      );
      const undo = decoder.replace(`${norm}.weight`, {
        name: `${norm}.weight`,
        tensor: { buffer, byteOffset: 0, shape, dtype },
      });
      const changed = (await engine.generate(request)).tokenIds;
      undo();
      expect(changed).not.toEqual(first);
      expect((await engine.generate(request)).tokenIds).toEqual(first);
      await engine.close();
      opened!.free(buffer);
    });
  },
);
