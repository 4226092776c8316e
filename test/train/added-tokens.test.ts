// train --add-tokens: the tokenizer grows, embedding and head train with it, what is left behind loads again (in PEFT
// too), and a resumed run ends as one that was not.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { type OpenedModel, openModel } from "../../src/models/open-model.ts";
import { extendTokenizer, parseTokenList } from "../../src/text/extend-tokenizer.ts";
import { checkRun } from "../../src/train/check.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { runTraining } from "../../src/train/run.ts";
import { lossAndGradients } from "../conformance/model-case.ts";
import { scratchFolder, writeRows } from "../e2e/lowrank.ts";
import { python } from "../formats/python.ts";
import { writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
let backend: Backend;
beforeAll(() => {
  backend = openReference();
});
afterAll(() => {
  expect(backend.liveBytes).toBe(0);
  backend.close();
});

/** More than the rows to spare in the tiny models' tables: 259 tokens of 264. */
const tokens = ["<|tool|>", "zoologist", "<a>", "<b>", "<c>", "<d>", "<e>"];
const vocabulary = 259 + tokens.length;
const data = writeRows(
  join(root, "rows.jsonl"),
  [1, 2, 3, 4, 5, 6].map((i) => ({ prompt: `say <|tool|> ${i}`, completion: `zoologist <a>${i}` })),
);
const list = join(root, "tokens.txt");
writeFileSync(list, `${tokens.join("\n")}\n\n`);
const listAsJson = join(root, "tokens.json");
writeFileSync(listAsJson, JSON.stringify([...tokens, "a"]));

const optionsOf = (given: Record<string, unknown>) =>
  resolveOptions(trainDefinition, {
    ...{
      data,
      backend: "reference",
      rank: 2,
      batchSize: 2,
      learningRate: 1e-2,
      addTokens: list,
      maxSteps: 4,
    },
    ...given,
  });

async function train(given: Record<string, unknown>, stopAfter?: number): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  const signal = { interrupted: false };
  const emit = (event: TrainEvent) => {
    events.push(event);
    if (event.type === "train" && event.step === stopAfter) signal.interrupted = true;
  };
  await runTraining(optionsOf(given), emit, signal);
  return events;
}

const encoded = ({ tokenizer }: OpenedModel) =>
  tokenizer.encode("zoologist <|tool|>", { addSpecialTokens: false });

describe.each(["llama-mha", "qwen2-tied"])("--add-tokens on %s", (name) => {
  const model = writeTinyModel(join(root, name), name);
  const out = join(root, `${name}-adapter`);

  it("trains them beside an adapter, resumed as in one go, and PEFT agrees", async () => {
    const events = await train({ model, out });
    const told = events.flatMap((event) => (event.type === "info" ? [event.message] : []));
    expect(told[0]).toBe("7 tokens are added to the tokenizer");
    const adapter = await readAdapter(out);
    const shapes = [...adapter.replacements].map(([key, { shape }]) => [key, shape[0]]);
    expect(shapes).toContainEqual(["model.embed_tokens.weight", vocabulary]);
    expect(adapter.config.ensureWeightTying).toBe(name === "qwen2-tied");

    const opened = await openModel(backend, model, { adapter: out });
    expect(encoded(opened)).toEqual([260, expect.any(Number), 259]);
    const ids = opened.tokenizer.encode("say <|tool|> 1zoologist <a>1");
    const mask = ids.map((_, i) => Number(i > 0));
    const loss = await lossAndGradients(backend, opened.loaded, [{ ids, mask }]);
    await opened.close();

    const parted = join(root, `${name}-parted`);
    await train({ model, out: parted }, 2);
    await train({ model, out: parted, resume: true, addTokens: listAsJson });
    const weights = (folder: string) => readFileSync(join(folder, "adapter_model.safetensors"));
    expect(weights(parted).equals(weights(out))).toBe(true);

    if (!python.has("peft", "transformers", "torch")) return;
    const theirs = Number(python.run(peftLoss, model, out, JSON.stringify(ids)));
    expect(Math.abs(theirs - loss)).toBeLessThan(1e-4);
  });

  it("goes on training them with --init-adapter", async () => {
    const more = join(root, `${name}-more`);
    await train({ model, out: more, addTokens: undefined, initAdapter: out, maxSteps: 1 });
    const [before, after] = [await readAdapter(out), await readAdapter(more)];
    const table = ({ replacements }: typeof before) => replacements.get("model.embed_tokens.weight")!;
    expect(table(after).shape).toEqual(table(before).shape);
    expect(table(after).values).not.toEqual(table(before).values);
  });

  it("trains them in full", async () => {
    const whole = join(root, `${name}-full`);
    await train({ model, out: whole, method: "full", learningRate: 1e-4 });
    const opened = await openModel(backend, whole);
    expect(opened.config).toMatchObject({ vocabularySize: vocabulary, tied: name === "qwen2-tied" });
    expect(encoded(opened)).toEqual([260, expect.any(Number), 259]);
    await opened.close();
  });

  it("is planned for in memory", async () => {
    const { memory } = await checkRun(optionsOf({ model, out: "unused" }), () => {});
    const adapter = await readAdapter(out);
    const trained = [...adapter.modules.values()].flatMap(({ a, b }) => [a, b]);
    const tables = adapter.config.ensureWeightTying ? 1 : 2;
    const width = [...adapter.replacements.values()][0]!.shape[1]!;
    const expected = trained.reduce((sum, { values }) => sum + values.length, tables * vocabulary * width);
    expect(memory.prediction.trainableParameters).toBe(expected);
  });
});

describe("lists of tokens", () => {
  it("are lines or a JSON list", () => {
    expect(parseTokenList("a b\r\n\n <c>\n", "f")).toEqual(["a b", " <c>"]);
    expect(parseTokenList('["x", "y", "x"]', "f")).toEqual(["x", "y"]);
    expect(() => parseTokenList("\n", "f")).toThrow("f: expected tokens");
    expect(() => parseTokenList('{"<a>": 300}', "f")).toThrow("f: a JSON object; expected tokens");
    expect(parseTokenList("{name}\n{\n", "f")).toEqual(["{name}", "{"]);
    expect(() => parseTokenList("[1]", "f")).toThrow("each a text");
    expect(() => parseTokenList("[", "f")).toThrow("not a JSON list");
    expect(() => parseTokenList("x".repeat(300), "f")).toThrow("300 characters");
  });

  it("get ids after every other token, wherever that is listed", () => {
    const tokenizer = { model: { vocab: { a: 0, b: 7 } }, added_tokens: [{ id: 9, content: "<s>" }] };
    const config = { added_tokens_decoder: { "12": { content: "<x>" } } };
    const { added, ...extended } = extendTokenizer(tokenizer, config, ["a", "<x>", "new", "<s>"]);
    expect(added).toEqual(["new"]);
    expect(extended.tokenizer.added_tokens).toContainEqual(
      expect.objectContaining({ id: 13, content: "new", normalized: true, special: false }),
    );
    expect(Object.keys(extended.config.added_tokens_decoder as object)).toEqual(["12", "13"]);
  });

  it("that hold nothing new are refused", async () => {
    const model = writeTinyModel(join(root, "refused"));
    writeFileSync(list.replace("tokens.txt", "old.txt"), "a\nb\n");
    const out = join(root, "refused-out");
    await expect(train({ model, out, addTokens: join(root, "old.txt") })).rejects.toThrow(
      "has every one of these 2 tokens already",
    );
    expect(() => optionsOf({ model, out, initAdapter: "x" })).toThrow("does not go with --init-adapter");
  });
});

const peftLoss = `
import json, sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
model, adapter, ids = sys.argv[1], sys.argv[2], torch.tensor([json.loads(sys.argv[3])])
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
base.resize_token_embeddings(${vocabulary})
logits = PeftModel.from_pretrained(base, adapter).eval()(input_ids=ids).logits[0, :-1]
print(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
`;
