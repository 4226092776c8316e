// Two small trained models: logits, greedy ids and the loss of a prompt equal transformers' on every backend, and the
// commands `generate` and `eval` say the same. The models are not ours to copy, so the tests skip where they are absent.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { openModel } from "../../src/models/open-model.ts";
import { evaluate } from "../../src/session/evaluate.ts";
import { conformanceBackends } from "../conformance/backends.ts";
import { logitsOf, relativeDifference } from "../conformance/model-case.ts";
import { asset, assetJson, hasAssets, WITHOUT } from "../text/assets.ts";
import { backendName, scratchFolder, succeed, writeRows } from "./lowrank.ts";

interface Golden {
  readonly prompt: string;
  readonly ids: readonly number[];
  /** The ids of a prompt, then the new ones, the end-of-text token included where it came. */
  readonly greedy: readonly number[];
  readonly last_logits_first16: readonly number[];
  readonly last_argmax: number;
  readonly last_logsumexp: number;
  /** Of the prompt. */
  readonly nll_mean: number;
  readonly llama2c_expected_stdout?: string;
}

const folder = scratchFolder();
const models = [
  {
    name: "stories260k",
    path: "stories260k/hf",
    greedyPrompt: "Once upon a time, there was a little girl named Lily.",
  },
  { name: "tinystories-656k", path: "tinystories-656k", greedyPrompt: "Once upon a time" },
];
const tolerance = { exact: 1e-4, bf16: 5e-2 };

for (const { path, name, greedyPrompt } of models) {
  const present = hasAssets && existsSync(asset(`models/${path}/config.json`));
  describe.skipIf(!present)(`${name}${present ? "" : ` (skipped: ${WITHOUT})`}`, () => {
    const golden = present ? (assetJson(`models/${name}/golden.json`) as Golden) : undefined!;
    for (const { name: backendName, exact, open, skip } of conformanceBackends) {
      it.skipIf(skip)(`on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, async () => {
        const bound = exact ? tolerance.exact : tolerance.bf16;
        const backend = await open();
        const model = await openModel(backend, asset(`models/${path}`));
        const { decoder } = model.loaded;
        expect(model.tokenizer.encode(golden.prompt)).toEqual(golden.ids);

        const all = await logitsOf(backend, model.loaded, golden.ids);
        const last = all.subarray(-model.config.vocabularySize);
        const scale = last.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        for (const [i, value] of golden.last_logits_first16.entries())
          expect(Math.abs(last[i]! - value) / scale).toBeLessThan(bound);
        const logSumExp = Math.log(last.reduce((sum, value) => sum + Math.exp(value), 0));
        expect(Math.abs(logSumExp / golden.last_logsumexp - 1)).toBeLessThan(bound);
        expect(last.indexOf(Math.max(...last))).toBe(golden.last_argmax);

        const ids = Int32Array.from(golden.ids);
        const targetMask = new Uint8Array(ids.length).fill(1, 1);
        const sample = { ids, targetMask, rowId: { file: name, line: 1, unit: "row" as const } };
        const { loss } = await evaluate(decoder, [sample, sample], { tokensPerPass: 512 });
        expect(Math.abs(loss - golden.nll_mean)).toBeLessThan(bound);

        // In half precision a near-tie may fall the other way, after which texts differ.
        if (exact) {
          const promptIds = model.tokenizer.encode(greedyPrompt);
          const maxNewTokens = golden.greedy.length - promptIds.length;
          const request = { promptIds, maxNewTokens, stopIds: model.tokenizer.eosIds, sampling: greedy };
          const [result] = await generateBatch(decoder, [request]);
          const stopped = result!.finishReason === "stop" ? [model.tokenizer.eosId] : [];
          expect([...promptIds, ...result!.tokenIds, ...stopped]).toEqual(golden.greedy);
        }
        await model.close();
        expect(backend.liveBytes).toBe(0);
        backend.close();
      });
    }

    it("the commands say the same", async () => {
      const common = [
        "--model",
        asset(`models/${path}`),
        "--backend",
        backendName,
        "--precision",
        "fp32",
        "--json",
      ];
      const backend = await openBackend(backendName, { precision: "fp32" });
      const model = await openModel(backend, asset(`models/${path}`));
      const given = model.tokenizer.encode(greedyPrompt).length;
      const more = String(golden.greedy.length - given);
      const generated = JSON.parse(
        succeed("generate", ...common, "--prompt", greedyPrompt, "--max-new-tokens", more).stdout,
      );
      const ended = generated.finishReason === "stop";
      expect(generated.tokenIds).toEqual(golden.greedy.slice(given, ended ? -1 : undefined));
      const expectedText = golden.llama2c_expected_stdout;
      if (expectedText) expect((greedyPrompt + generated.text).startsWith(expectedText)).toBe(true);

      const data = writeRows(join(folder, `${name}.jsonl`), [{ prompt: "", completion: golden.prompt }]);
      const measured = JSON.parse(succeed("eval", ...common, "--data", data, "--train-on", "all").stdout);
      // The row ends with EOS, which the golden's loss leaves out: measure it apart.
      const ids = [...golden.ids, model.tokenizer.eosId];
      const logits = (await logitsOf(backend, model.loaded, golden.ids)).subarray(
        -model.config.vocabularySize,
      );
      const logSumExp = Math.log(logits.reduce((sum, value) => sum + Math.exp(value), 0));
      const endLoss = logSumExp - logits[model.tokenizer.eosId]!;
      const loss = (golden.nll_mean * (golden.ids.length - 1) + endLoss) / (ids.length - 1);
      expect(relativeDifference([measured.perplexity], [Math.exp(loss)])).toBeLessThan(1e-4);
      expect(measured).toMatchObject({ rows: 1, tokens: ids.length - 1 });
      await model.close();
      backend.close();
    });
  });
}
