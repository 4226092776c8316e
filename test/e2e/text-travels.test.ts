// The chat template and the tokens that decided a training go where its result goes, by the real commands: eval,
// generate, chat, merge, export and a run that continues from the adapter need no flag to see the text as it was.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  lowrank,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const at = (name: string) => join(folder, name);
const device = ["--backend", backendName, "--precision", "fp32"];
const GIVEN = `{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}`;
const OWN = GIVEN.replaceAll("[", "<").replaceAll("]", ">").replaceAll("<|im_end|>", "</s>");
const talk = {
  messages: [
    { role: "user", content: "Capital of Peru?" },
    { role: "assistant", content: "Lima." },
  ],
};
const data = writeRows(at("rows.jsonl"), [talk]);
const training = ["--data", data, "--max-steps", "2", "--sequence-length", "64", ...device];
const file = at("given.jinja");

const read = (...path: string[]) => readFileSync(join(folder, ...path), "utf8");
const readJson = (...path: string[]) => JSON.parse(read(...path)) as Record<string, unknown>;
const evaluate = (...args: string[]) => {
  const { stdout, stderr } = succeed(
    "eval",
    "--data",
    data,
    "--sequence-length",
    "64",
    "--json",
    ...device,
    ...args,
  );
  return { loss: (JSON.parse(stdout) as { loss: number }).loss, stderr };
};

beforeAll(() => {
  writeFileSync(file, GIVEN);
  const model = writeTinyModel(at("model"));
  writeFileSync(join(model, "chat_template.jinja"), OWN);
  const given = ["--chat-template", file, "--eos-token", "<|im_end|>", "--learning-rate", "0.05"];
  succeed("train", "--model", model, ...training, ...given, "--save-every", "1", "--out", at("adapter"));
});

describe("an adapter", () => {
  const model = at("model");
  const adapter = at("adapter");

  it("has beside it what decided its text, in checkpoints too", () => {
    for (const where of ["adapter", "adapter/checkpoints/step-1"]) {
      expect(read(where, "chat_template.jinja")).toBe(GIVEN);
      expect(readJson(where, "tokenizer_config.json").eos_token).toBe("<|im_end|>");
    }
    expect(read("adapter", "tokenizer.json")).toBe(read("model", "tokenizer.json"));
  });

  it("is measured with it, unless a flag says otherwise, and that is said", () => {
    const own = evaluate("--model", model, "--adapter", adapter);
    expect(own.loss).toBe(evaluate("--model", model, "--adapter", adapter, "--chat-template", file).loss);
    expect(own.stderr.match(/chat template: the one in .*adapter/g)).toHaveLength(1);
    expect(own.stderr.match(/tokenizer: the one in .*adapter/g)).toHaveLength(1);
    const flagged = evaluate(
      "--model",
      model,
      "--adapter",
      adapter,
      "--chat-template",
      join(model, "chat_template.jinja"),
    );
    expect(flagged.loss).not.toBe(own.loss);
    expect(flagged.stderr).toMatch(/--chat-template .*, in place of the one in/);
  });

  it("answers in it", () => {
    const answer = (...args: string[]) =>
      JSON.parse(
        succeed(
          "generate",
          "--model",
          model,
          "--prompt",
          "Capital of Peru?",
          "--chat",
          "--max-new-tokens",
          "8",
          "--json",
          ...device,
          ...args,
        ).stdout,
      ) as { promptTokens: number };
    const [before, after] = ["[user] Capital of Peru?", "[assistant] "];
    expect(answer("--adapter", adapter).promptTokens).toBe(before.length + 1 + after.length);
    const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
    const args = [
      "chat",
      "--model",
      model,
      "--adapter",
      `tuned=${adapter}`,
      "--max-new-tokens",
      "4",
      ...device,
    ];
    const chat = spawnSync(process.execPath, [main, ...args], {
      encoding: "utf8",
      input: "Capital of Peru?\n/base\nAgain?\n/exit\n",
    });
    expect(chat.status, chat.stderr).toBe(0);
    expect(chat.stderr).toMatch(/tuned: chat template: the one in/);
  });

  it("is merged and exported with it", () => {
    succeed("merge", "--model", model, "--adapter", adapter, "--out", at("merged"), ...device.slice(0, 2));
    expect(read("merged", "chat_template.jinja")).toBe(GIVEN);
    expect(readJson("merged", "tokenizer_config.json").eos_token).toBe("<|im_end|>");
    expect(readJson("merged", "config.json").eos_token_id).toBe(2);
    expect(evaluate("--model", at("merged")).loss).toBeCloseTo(
      evaluate("--model", model, "--adapter", adapter).loss,
      4,
    );
    succeed(
      "export",
      "--model",
      model,
      "--adapter",
      adapter,
      "--pre-tokenizer",
      "gpt-2",
      "--out",
      at("whole.gguf"),
      ...device,
    );
    expect(readFileSync(at("whole.gguf")).includes(GIVEN)).toBe(true);
    const modelfile = read("whole.Modelfile");
    expect(modelfile).toContain(
      "[user] {{ end }}{{ .Prompt }}<|im_end|>[assistant] {{ .Response }}<|im_end|>",
    );
    expect(modelfile).toContain('PARAMETER stop "<|im_end|>"');
    succeed(
      "export",
      "--model",
      model,
      "--adapter",
      adapter,
      "--chat-template",
      join(model, "chat_template.jinja"),
      "--out",
      at("flag.gguf"),
      ...device,
    );
    expect(readFileSync(at("flag.gguf")).includes(OWN)).toBe(true);
  });

  it("hands it to a run that continues from it", () => {
    const { stderr } = succeed(
      "train",
      "--model",
      model,
      "--init-adapter",
      adapter,
      ...training,
      "--out",
      at("more"),
    );
    expect(stderr.match(/chat template: the one in .*adapter/g)).toHaveLength(1);
    expect(read("more", "chat_template.jinja")).toBe(GIVEN);
    expect(readJson("more", "tokenizer_config.json").eos_token).toBe("<|im_end|>");
  });

  it("has nothing beside it where the model's folder says it all", () => {
    succeed("train", "--model", model, ...training, "--out", at("plain"));
    for (const name of ["chat_template.jinja", "tokenizer.json"])
      expect(existsSync(join(at("plain"), name))).toBe(false);
  });
});

describe("full fine-tuning", () => {
  it("leaves a folder with the template and tokens it was given", () => {
    const model = at("model-list");
    writeTinyModel(model);
    const config = readJson("model-list", "tokenizer_config.json");
    const list = [
      { name: "default", template: OWN },
      { name: "tool_use", template: OWN },
    ];
    writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: list }));
    mkdirSync(join(model, "additional_chat_templates"));
    writeFileSync(join(model, "additional_chat_templates", "rag.jinja"), OWN);
    const given = ["--chat-template", file, "--eos-token", "<|im_end|>", "--pad-token", "<s>"];
    succeed("train", "--method", "full", "--model", model, ...training, ...given, "--out", at("full"));
    expect(read("full", "chat_template.jinja")).toBe(GIVEN);
    expect(existsSync(at("full/additional_chat_templates"))).toBe(false);
    const written = readJson("full", "tokenizer_config.json");
    expect(written).toMatchObject({ bos_token: "<s>", eos_token: "<|im_end|>", pad_token: "<s>" });
    expect(written).not.toHaveProperty("chat_template");
    expect(readJson("full", "config.json")).toMatchObject({ eos_token_id: 2, pad_token_id: 0 });
    expect(readJson("full", "generation_config.json")).toMatchObject({
      bos_token_id: 0,
      eos_token_id: 2,
      pad_token_id: 0,
    });
    expect(evaluate("--model", at("full")).loss).toBe(
      evaluate("--model", at("full"), "--chat-template", file).loss,
    );
  });
});

describe("train and check", () => {
  const check = (rows: unknown[], ...args: string[]) =>
    lowrank(
      "check",
      "--model",
      at("model"),
      "--data",
      writeRows(at("checked.jsonl"), rows),
      "--json",
      ...device,
      ...args,
    );

  it("refuse what the template drops, by row and message, and train in spite of it when told to", () => {
    const thought = { role: "assistant", reasoning_content: "The capital is Lima.", content: "Lima." };
    const rows = [talk, { messages: [talk.messages[0], thought] }];
    const checked = check(rows);
    expect(checked.status).toBe(1);
    const { refused, droppedContent } = JSON.parse(checked.stdout) as {
      refused: { code: string; message: string }[];
      droppedContent: number;
    };
    expect(droppedContent).toBe(1);
    expect(refused.map(({ code }) => code)).toEqual(["dropped-content"]);
    expect(refused[0]!.message).toContain(
      'checked.jsonl line 2, message 2 (assistant): its thought "The capital is Lima."',
    );
    const train = (...args: string[]) =>
      lowrank(
        "train",
        "--model",
        at("model"),
        "--data",
        at("checked.jsonl"),
        "--max-steps",
        "1",
        "--sequence-length",
        "64",
        ...device,
        ...args,
      );
    expectRefusal(train("--out", at("dropped")), 1, ["checked.jsonl line 2", "--allow dropped-content"]);
    expect(train("--out", at("allowed"), "--allow", "dropped-content").status).toBe(0);
    expectRefusal(train("--out", at("evaluated"), "--eval-data", at("checked.jsonl"), "--data", data), 1, [
      "dropped-content",
    ]);
  });

  it("name the token that ends a template's turns", () => {
    const given = ["--chat-template", file];
    const before = check([talk], ...given);
    expect(before.status).toBe(1);
    expect(before.stdout).toContain('pass --eos-token \\"<|im_end|>\\"');
    expect(check([talk], ...given, "--eos-token", "<|im_end|>").status).toBe(0);
    expectRefusal(check([talk], "--eos-token", "<|end|>"), 1, ['--eos-token "<|end|>"', "no token"]);
  });
});
