// Log-probabilities of a prompt's own tokens: those of transformers on golden models, of the base's vocabulary alone where
// the decoder has more rows, and without a new token. That nothing beside them changes a bit: same-answers.test.ts.

import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { GenerationEngine, type GenerationRequest } from "../../src/generate/engine.ts";
import type { PromptLogprobs } from "../../src/generate/prompt-logprobs.ts";
import { conformanceBackends } from "../conformance/backends.ts";
import { openGolden } from "../conformance/model-case.ts";
import { floatsOf, loadModelGolden } from "../golden/load-golden.ts";

/** fp32 against transformers. */
const tolerance = 1e-4;
const greedy = { temperature: 0, seed: 0 };
const models = ["llama-gqa-tied-llama3", "qwen2-tied", "gemma2", "lfm2", "qwen3-5"];

function logSoftmax(row: Float32Array): number[] {
  const largest = Math.max(...row);
  const norm = largest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  return [...row].map((value) => value - norm);
}

interface Told {
  readonly logprobs: number[];
  readonly ranks: number[];
  readonly top: [id: number, logprob: number][][];
  readonly pieces: number;
}

/** All pieces of a request, joined. */
function listener(): { told: Told; onPrompt: (piece: PromptLogprobs) => void } {
  const told = { logprobs: [] as number[], ranks: [] as number[], top: [] as Told["top"], pieces: 0 };
  const onPrompt = ({ start, logprobs, ranks, topIds, topLogprobs }: PromptLogprobs) => {
    expect(start).toBe(1 + told.logprobs.length);
    told.logprobs.push(...logprobs);
    told.ranks.push(...ranks);
    const each = topIds.length / logprobs.length;
    for (let i = 0; i < logprobs.length; i++) {
      const at = (k: number) => i * each + k;
      told.top.push(
        Array.from({ length: each }, (_, k) => [topIds[at(k)]!, topLogprobs[at(k)]!] as [number, number]),
      );
    }
    told.pieces++;
  };
  return { told, onPrompt };
}

const tested = conformanceBackends.filter(
  ({ exact, name }) => exact && !/f64|webgpu (f16|matrix)/.test(name),
);

for (const { name: backendName, open, skip } of tested) {
  describe.skipIf(skip !== "")(`a prompt's own tokens: ${backendName}`, () => {
    it.each(backendName.startsWith("webgpu") ? models.slice(0, 1) : models)("%s", async (name) => {
      const golden = loadModelGolden(name);
      const backend = await open();
      const { decoder, free } = await openGolden(backend, golden);
      const { ids, logits } = golden.sequence;
      const [, width] = logits.shape as [number, number];
      const values = floatsOf(logits);
      // Passes of 17 tokens: a prompt enters in pieces.
      const engine = new GenerationEngine(decoder, { slots: 2, capacity: 200, tokensPerPass: 17 });
      const { told, onPrompt } = listener();
      const request = { promptIds: ids, stopIds: [], sampling: greedy, promptLogprobs: 3, onPrompt };
      expect(await engine.generate({ ...request, maxNewTokens: 0 })).toEqual({
        tokenIds: [],
        finishReason: "length",
      });
      expect(told.logprobs).toHaveLength(ids.length - 1);
      for (let i = 1; i < ids.length; i++) {
        const expected = logSoftmax(values.subarray((i - 1) * width, i * width));
        const own = expected[ids[i]!]!;
        expect(Math.abs(told.logprobs[i - 1]! - own)).toBeLessThan(tolerance);
        const best = [...expected].sort((a, b) => b - a).slice(0, 3);
        for (const [k, [id, logprob]] of told.top[i - 1]!.entries()) {
          expect(Math.abs(logprob - best[k]!)).toBeLessThan(tolerance);
          expect(Math.abs(expected[id]! - logprob)).toBeLessThan(tolerance);
          // The same number, so that a client can see that a token was the likeliest.
          if (id === ids[i]) expect(logprob).toBe(told.logprobs[i - 1]);
        }
        const sure = expected.filter((logprob) => logprob > own + 2 * tolerance).length;
        expect(told.ranks[i - 1]).toBeGreaterThan(sure);
        expect(told.ranks[i - 1]).toBeLessThanOrEqual(
          1 + expected.filter((logprob) => logprob > own - 2 * tolerance).length,
        );
      }
      await engine.close();
      free();
      backend.close();
    });
  });
}

describe("a prompt's own tokens", () => {
  const golden = loadModelGolden("llama-gqa-tied-llama3");
  const { ids, logits } = golden.sequence;
  const [, width] = logits.shape as [number, number];

  async function scored(vocabularySize: number | undefined, more: Partial<GenerationRequest> = {}) {
    const backend = openReference();
    const { decoder, free } = await openGolden(backend, golden);
    const engine = new GenerationEngine(decoder, { slots: 1, capacity: 60, vocabularySize });
    const { told, onPrompt } = listener();
    const result = await engine.generate({
      ...{ promptIds: ids, stopIds: [], sampling: greedy, maxNewTokens: 2, promptLogprobs: 0, onPrompt },
      ...more,
    });
    await engine.close();
    free();
    backend.close();
    return { told, result };
  }

  it("share their probability with the base's tokens alone", async () => {
    const values = floatsOf(logits);
    const promptIds = ids.slice(0, 10);
    const known = Math.max(...promptIds) + 1;
    expect(known).toBeLessThan(width);
    const { told } = await scored(known, { promptIds });
    for (let i = 1; i < promptIds.length; i++) {
      const expected = logSoftmax(values.subarray((i - 1) * width, (i - 1) * width + known));
      expect(Math.abs(told.logprobs[i - 1]! - expected[ids[i]!]!)).toBeLessThan(tolerance);
    }
  });

  it("change nothing of the answer, and are not told of a prompt of one token", async () => {
    const plain = await scored(undefined, { promptLogprobs: undefined });
    expect(plain.told.pieces).toBe(0);
    expect((await scored(undefined)).result).toEqual(plain.result);
    const one = await scored(undefined, { promptIds: [5], maxNewTokens: 0 });
    expect([one.told.pieces, one.result.tokenIds]).toEqual([0, []]);
  });

  it("end with who asked", async () => {
    const signal = { aborted: false };
    const { onPrompt, told } = listener();
    const { result } = await scored(undefined, {
      signal,
      onPrompt(piece) {
        onPrompt(piece);
        signal.aborted = true;
      },
    });
    expect(told.pieces).toBe(1);
    expect(result.finishReason).toBe("stop");
  });

  it("tell of the stop token that ends an answer", async () => {
    const [first] = (await scored(undefined)).result.tokenIds;
    const stops: unknown[] = [];
    const { result } = await scored(undefined, {
      stopIds: [first!],
      logprobs: 1,
      onStop: (id, logprobs) => stops.push([id, logprobs!.top[0]!.id, logprobs!.logprob < 0]),
    });
    expect(result).toEqual({ tokenIds: [], finishReason: "stop" });
    expect(stops).toEqual([[first, first, true]]);
  });
});
