// Greedy generation with the key/value cache equals transformers' on every golden model, alone and in a batch of
// prompts of different lengths with fewer slots than requests.

import { describe, expect, it } from "vitest";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { goldenModelNames, loadModelGolden } from "../golden/load-golden.ts";
import { exactBackends } from "./backends.ts";
import { openGolden } from "./model-case.ts";

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`generation on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    for (const name of goldenModelNames) {
      it(name, async () => {
        const backend = await open();
        const golden = loadModelGolden(name);
        const loaded = await openGolden(backend, golden);
        const before = backend.liveBytes;
        const requests = golden.greedy.map((g) => ({
          promptIds: g.prompt,
          maxNewTokens: g.ids.length,
          stopIds: [],
          sampling: greedy,
        }));
        for (const slots of [1, 2, 3]) {
          const results = await generateBatch(loaded.decoder, [...requests, requests[0]!], { slots });
          expect(results.map((r) => r.tokenIds)).toEqual(
            [...golden.greedy, golden.greedy[0]!].map((g) => g.ids),
          );
        }
        expect(backend.liveBytes - before).toBeLessThanOrEqual(2 * 4096 * 8 * 32);
        loaded.free();
        backend.close();
      });
    }
  });
}
