import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type DatasetOptions, loadDataset, refuseWithoutTargets } from "../../src/data/dataset.node.ts";
import { type Rendering, renderExample, renderPrompt } from "../../src/data/render.ts";
import type { LearntExample } from "../../src/data/row.ts";
import { readSampleFile, writeSampleFile } from "../../src/data/sample-file.node.ts";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { assetJson, hasAssets, WITHOUT } from "../text/assets.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-dataset-"));
afterAll(() => rmSync(folder, { recursive: true }));

const tokenizer = byteTokenizer({ generationConfig: { eos_token_id: [1, 2] } });
const chatml = ChatTemplate.of(tokenizer, builtinTemplates.chatml)!;

/** The rendered text with [] around targets, special tokens shown. */
function show(example: LearntExample, rendering: Partial<Rendering> = {}): string {
  const using = { tokenizer, ...rendering };
  const { ids, targetMask } = renderExample(example, using);
  expect(targetMask.length).toBe(ids.length);
  let text = "";
  let i = 0;
  while (i < ids.length) {
    let end = i + 1;
    while (end < ids.length && targetMask[end] === targetMask[i]) end++;
    const part = using.tokenizer.decode([...ids.slice(i, end)], { skipSpecialTokens: false });
    text += targetMask[i] === 1 ? `[${part}]` : part;
    i = end;
  }
  return text;
}

const completion: LearntExample = { kind: "completion", prompt: "ab", completion: "cd" };
const chat: LearntExample = {
  kind: "chat",
  messages: [
    { role: "user", content: "q" },
    { role: "assistant", content: "a" },
    { role: "user", content: "r" },
    { role: "assistant", content: "b" },
  ],
};

describe("numbers", () => {
  const TOOLS =
    "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}{{ m.tool_calls[0].function.name }} {{ m.tool_calls[0].function.arguments | tojson }} {{ m.tool_calls[0].function.arguments.amount }}{% else %}{{ m.content }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  const args = '{"order": 9007199254740993, "amount": 12.0, "by_year": {"2024": 1e-07, "10": -0.0}}';
  const messages = `[{"role":"user","content":"Refund"},{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"refund","arguments":${args}}}]}]`;
  const tools = '[{"type": "function", "function": {"name": "f", "minimum": 0.0}}]';
  const row = `{"id": 18446744073709551615, "messages": ${messages}, "tools": ${tools}}`;
  const asText = `{"messages": ${JSON.stringify(messages)}, "tools": ${JSON.stringify(tools)}}`;

  it.each([
    ["numbers.jsonl", row],
    ["numbers.json", `[\n${row}\n]`],
    ["text.jsonl", asText],
    [
      "numbers.csv",
      `messages,tools\n${[messages, tools].map((one) => `"${one.replaceAll('"', '""')}"`).join(",")}\n`,
    ],
  ])("of %s reach the tokens as they were written", async (name, content) => {
    const path = join(folder, name);
    writeFileSync(path, content);
    const template = ChatTemplate.of(tokenizer, TOOLS)!;
    const { samples } = await loadDataset(path, {
      tokenizer,
      template,
      sequenceLength: 1024,
      overLength: "error",
    });
    const text = tokenizer.decode([...samples.at(0)!.ids], { skipSpecialTokens: false });
    const tool = '{"type": "function", "function": {"name": "f", "minimum": 0.0}}';
    expect(text).toBe(`${tool}<user>Refund</s><assistant>refund ${args} 12.0</s>`);
  });
});

describe("rendering", () => {
  it("adds BOS and EOS, and trains on the completion", () => {
    expect(show(completion)).toBe("<s>ab[cd</s>]");
    expect(show(completion, { trainOn: "assistant" })).toBe("<s>ab[cd</s>]");
    expect(show(completion, { trainOn: "all" })).toBe("<s>[ab][cd</s>]".replace("][", ""));
    expect(show({ kind: "text", text: "xy" }, { trainOn: "completions" })).toBe("<s>[xy</s>]");
  });

  it("does not double what the data already spell", () => {
    expect(show({ kind: "text", text: "<s>x</s>" })).toBe("<s>[x</s>]");
    expect(show({ kind: "completion", prompt: "<s>a", completion: "b<|im_end|>" })).toBe("<s>a[b<|im_end|>]");
  });

  it("never makes the first token a target", () => {
    const bare = byteTokenizer();
    const without = new Proxy(bare, { get: (t, key) => (key === "prefixIds" ? [] : Reflect.get(t, key)) });
    expect(show({ kind: "text", text: "xy" }, { tokenizer: without })).toBe("x[y</s>]");
    expect(show({ kind: "completion", prompt: "", completion: "xy" }, { tokenizer: without })).toBe(
      "x[y</s>]",
    );
  });

  it("trains on every turn, the last, or all; a turn ends with its EOS", () => {
    const frame = (a: string, b: string) =>
      `<s><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n${a}\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n${b}\n`;
    expect(show(chat, { template: chatml })).toBe(frame("[a<|im_end|>]", "[b<|im_end|>]"));
    expect(show(chat, { template: chatml, trainOn: "completions" })).toBe(
      frame("a<|im_end|>", "[b<|im_end|>]"),
    );
    const all = frame("a<|im_end|>", "b<|im_end|>");
    expect(show(chat, { template: chatml, trainOn: "all" })).toBe(`<s>[${all.slice(3)}]`);
  });

  it("cuts what an unmarked template puts behind the EOS of a turn", () => {
    const source =
      "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}{{ 'assistant:' if add_generation_prompt }}";
    const template = ChatTemplate.of(tokenizer, source)!;
    expect(show(chat, { template })).toBe(
      "user:q<|im_end|>\nassistant:[a<|im_end|>]\nuser:r<|im_end|>\nassistant:[b<|im_end|>]\n",
    );
  });

  it("gives instructions headings without a template and turns with one", () => {
    const example: LearntExample = { kind: "instruction", instruction: "I", input: "X", output: "O" };
    expect(show(example)).toBe("<s>### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n[O</s>]");
    expect(show(example, { template: chatml })).toBe(
      "<s><|im_start|>user\nI\n\nX<|im_end|>\n<|im_start|>assistant\n[O<|im_end|>]\n",
    );
  });

  it("refuses conversations without a template, naming the flag", () => {
    expect(() => show(chat)).toThrow(/no chat template. Pass --chat-template chatml, alpaca/);
  });

  it.each<[string, LearntExample, Partial<Rendering>]>([
    ["completion", completion, {}],
    [
      "chat",
      { kind: "chat", messages: chat.kind === "chat" ? chat.messages.slice(0, 2) : [] },
      { template: chatml },
    ],
    ["instruction", { kind: "instruction", instruction: "I", input: "", output: "O" }, {}],
  ])("prompts evaluation with what precedes the answer in training: %s", (_, example, options) => {
    const using = { tokenizer, ...options };
    const { ids, targetMask } = renderExample(example, using);
    expect(renderPrompt(example, using)!.ids).toEqual([...ids.slice(0, targetMask.indexOf(1))]);
  });

  it("has references for metrics", () => {
    const many: LearntExample = { kind: "completion", prompt: "p", completion: "a", references: ["a", "b"] };
    expect(renderPrompt(many, { tokenizer })!.references).toEqual(["a", "b"]);
    expect(renderPrompt(chat, { tokenizer, template: chatml })!.references).toEqual(["b"]);
    expect(renderPrompt({ kind: "text", text: "a" }, { tokenizer })).toBeUndefined();
  });

  it.skipIf(!hasAssets)(
    `keeps a SentencePiece tokenizer's ids across turns (${WITHOUT} when skipped)`,
    () => {
      const llama = new Tokenizer({
        name: "llama2",
        tokenizer: assetJson("tokenizers/llama2/derived/tokenizer.json"),
        tokenizerConfig: { bos_token: "<s>", eos_token: "</s>" },
      });
      const source =
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}";
      const template = ChatTemplate.of(llama, source)!;
      const example: LearntExample = {
        kind: "chat",
        messages: [
          { role: "user", content: "What is it?" },
          { role: "assistant", content: "It is late." },
        ],
      };
      const { ids, targetMask } = renderExample(example, { tokenizer: llama, template });
      const whole = template.render(example.messages);
      expect([...ids]).toEqual(llama.encode(whole, { addSpecialTokens: false }));
      const targets = [...ids].filter((_, i) => targetMask[i] === 1);
      expect(llama.decode(targets, { skipSpecialTokens: false })).toBe("It is late. </s>");
    },
  );
});

describe("loadDataset", () => {
  const path = join(folder, "train.jsonl");
  const row = (prompt: string, answer: string) => `${JSON.stringify({ prompt, completion: answer })}\n`;
  const options: DatasetOptions = { tokenizer, sequenceLength: 16, overLength: "drop" };
  writeFileSync(
    path,
    row("a", "b") + row("c".repeat(20), "d") + row("e".repeat(12), "f".repeat(9)) + row("g", ""),
  );

  it("counts what it drops", async () => {
    const { samples, report } = await loadDataset(path, options);
    expect([...samples].map((sample) => sample.rowId.line)).toEqual([1, 4]);
    expect(report).toMatchObject({
      file: "train.jsonl",
      format: "prompt-completion",
      trainOn: "completions",
      rendering: "as written",
      rows: 4,
      samples: 2,
      dropped: 2,
      truncated: 0,
      withoutTargets: 0,
      withoutEos: 0,
      tokens: 7,
      targetTokens: 3,
      longestRow: { tokens: 23, row: "train.jsonl line 2" },
      lengths: [
        { upTo: 4, count: 2 },
        { upTo: 32, count: 2 },
      ],
    });
    expect(report.dataHash).toMatch(/^[0-9a-f]{64}$/);
  });

  it("counts what it cuts, and what cutting leaves without targets or EOS", async () => {
    const { samples, report } = await loadDataset(path, { ...options, overLength: "truncate" });
    expect([...samples].map((sample) => sample.ids.length)).toEqual([4, 16, 3]);
    expect(report).toMatchObject({ truncated: 2, dropped: 0, withoutTargets: 1, withoutEos: 1, samples: 3 });
  });

  it("refuses long rows unless told otherwise", async () => {
    await expect(loadDataset(path, { ...options, overLength: "error" })).rejects.toThrow(
      "train.jsonl: 2 of 4 rows are longer than --sequence-length 16; the longest is train.jsonl line 2 with 23 tokens",
    );
    await expect(loadDataset(path, { ...options, sequenceLength: 1 })).rejects.toThrow(/--sequence-length 1/);
  });

  it("refuses data that teach nothing", async () => {
    const { report } = await loadDataset(path, { ...options, sequenceLength: 2 });
    expect(report.samples).toBe(0);
    expect(() => refuseWithoutTargets(report)).toThrow(/nothing to train on: 4 rows were longer/);
    expect(() => refuseWithoutTargets({ ...report, targetTokens: 1 })).not.toThrow();
  });

  it("names the row that a template refuses", async () => {
    const chats = join(folder, "chat.jsonl");
    writeFileSync(chats, `${JSON.stringify({ messages: [{ role: "user", content: "a" }] })}\n`);
    const template = ChatTemplate.of(tokenizer, "{{ raise_exception('no') }}");
    await expect(loadDataset(chats, { ...options, template })).rejects.toThrow(/chat\.jsonl line 1: .*no$/);
    const silent = await loadDataset(chats, { ...options, template: chatml, sequenceLength: 99 });
    expect(silent.report).toMatchObject({ withoutTargets: 1, samples: 0, rendering: "--chat-template" });
  });

  it("caches by content and options, and survives a damaged cache", async () => {
    const cacheFolder = join(folder, "cache");
    const first = await loadDataset(path, { ...options, cacheFolder });
    expect(await loadDataset(path, { ...options, cacheFolder })).toEqual(first);
    expect(readdirSync(cacheFolder)).toHaveLength(1);
    await loadDataset(path, { ...options, cacheFolder, trainOn: "all" });
    await loadDataset(path, { ...options, cacheFolder, overLength: "truncate" });
    await loadDataset(path, { ...options, cacheFolder, template: chatml });
    expect(readdirSync(cacheFolder)).toHaveLength(4);
    for (const name of readdirSync(cacheFolder)) {
      const file = join(cacheFolder, name);
      writeFileSync(file, readFileSync(file).subarray(0, 40));
    }
    expect(await loadDataset(path, { ...options, cacheFolder })).toEqual(first);
  });
});

describe("a file of samples", () => {
  const samplePath = join(folder, "kept.samples");
  const load = (memoryBytes?: number, vocabSize = tokenizer.vocabSize) =>
    readSampleFile(samplePath, vocabSize, memoryBytes);

  it("believes nothing that does not add up, in memory and on disk", async () => {
    const path = join(folder, "cached.jsonl");
    writeFileSync(path, '{"text":"hello"}\n{"text":"you"}\n');
    const dataset = await loadDataset(path, { tokenizer, sequenceLength: 16, overLength: "error" });
    const { problem } = await writeSampleFile(samplePath, async (writer) => {
      for (const sample of dataset.samples) writer.add(sample);
      return dataset.report;
    });
    expect(problem).toBeUndefined();
    expect(load()).toEqual(dataset);
    expect(load(0)!.report).toEqual(dataset.report);
    expect([...load(0)!.samples]).toEqual([...dataset.samples]);
    const bytes = readFileSync(samplePath);
    for (const memoryBytes of [2 ** 20, 0]) {
      expect(load(memoryBytes, 50)).toBeUndefined();
      for (let i = 0; i < bytes.length; i++) {
        const damaged = Uint8Array.from(bytes);
        damaged[i]! ^= 0x41;
        writeFileSync(samplePath, damaged);
        expect(load(memoryBytes), `byte ${i}`).toBeUndefined();
        writeFileSync(samplePath, bytes.subarray(0, i));
        expect(load(memoryBytes), `cut at ${i}`).toBeUndefined();
      }
      writeFileSync(samplePath, bytes);
    }
  });

  it("gives any sample at any time, with its file and line, as it is in memory", async () => {
    const rows = join(folder, "several");
    mkdirSync(rows);
    for (const name of ["b.jsonl", "a.jsonl"]) {
      const texts = Array.from({ length: 300 }, (_, i) =>
        JSON.stringify({ text: `${name} ${"x".repeat(i % 7)}${i}` }),
      );
      writeFileSync(join(rows, name), texts.join("\n\n"));
    }
    const options: DatasetOptions = { tokenizer, sequenceLength: 64, overLength: "error" };
    const whole = [...(await loadDataset(rows, options)).samples];
    expect(whole.map(({ rowId }) => rowId.file)).toEqual([
      ...new Array(300).fill("a.jsonl"),
      ...new Array(300).fill("b.jsonl"),
    ]);
    const cacheFolder = join(folder, "streams");
    for (let time = 0; time < 2; time++) {
      const { samples } = await loadDataset(rows, { ...options, cacheFolder, memoryBytes: 0 });
      expect(Array.isArray(samples)).toBe(false);
      expect([...samples]).toEqual(whole);
      expect(Array.from(samples.lengths!)).toEqual(whole.map(({ ids }) => ids.length));
      for (const index of [0, 63, 64, 599, 127, 300]) expect(samples.at(index)).toEqual(whole[index]);
      expect(samples.at(600)).toBeUndefined();
    }
  });

  it("is not kept where no place for it is, and the data are in memory", async () => {
    const path = join(folder, "kept-not.jsonl");
    writeFileSync(path, '{"text":"hello"}\n');
    const blocked = join(folder, "blocked");
    writeFileSync(blocked, "");
    const problems: string[] = [];
    const { samples } = await loadDataset(path, {
      ...{
        tokenizer,
        sequenceLength: 16,
        overLength: "error",
        cacheFolder: join(blocked, "x"),
        memoryBytes: 0,
      },
      onCacheProblem: (problem) => problems.push(problem),
    });
    expect(samples.length).toBe(1);
    expect(problems).toHaveLength(1);
  });
});
