// From a body's bytes to token ids: bounded before each step, encoded once whatever n is.

import { describe, expect, it, vi } from "vitest";
import { type Preparation, prepareRequest, type Voice } from "../../src/serve/prepare-request.ts";
import { RequestError, readableMessage, withoutFolders } from "../../src/serve/request-error.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const tokenizer = byteTokenizer();
const template = new ChatTemplate(
  "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}",
  {},
  "the test's template",
);
const voice: Voice = { tokenizer, template };
const preparation = (more: Partial<Preparation> = {}): Preparation => ({
  find: async (model) => ({ adapter: model === "base" ? undefined : model, voice }),
  limits: { context: 200, maxTokens: 50 },
  check: () => {},
  ...more,
});
const bytes = (body: unknown) =>
  new TextEncoder().encode(typeof body === "string" ? body : JSON.stringify(body));
const prepare = (route: "chat" | "completion", body: unknown, more: Partial<Preparation> = {}) =>
  prepareRequest(route, bytes(body), preparation(more));
const user = (content: string) => [{ role: "user", content }];

describe("preparing a request", () => {
  it("gives the ids of its prompts and how to answer, and nothing else of the body", async () => {
    const chat = await prepare("chat", { model: "red", messages: user("hi"), n: 3, unknown: "x" });
    expect(chat).toMatchObject({ route: "chat", adapter: "red", toolsShown: false });
    expect(tokenizer.decode([...chat.prompts[0]!])).toBe("user: hi\n");
    expect(chat.settings).toEqual({ model: "red", n: 3 });
    const many = await prepare("completion", { model: "base", prompt: ["a", "bc"], max_tokens: 2 });
    expect(many.prompts.map((ids) => tokenizer.decode([...ids]))).toEqual(["a", "bc"]);
    expect(many).toMatchObject({ route: "completion", adapter: undefined });
    const ids = await prepare("completion", { model: "base", prompt: [5, 6] });
    expect(ids.prompts.map((each) => [...each])).toEqual([[5, 6]]);
  });

  it("shows the template numbers as they were written", async () => {
    const tool =
      '{"type":"function","function":{"name":"refund","parameters":{"amount":12.0,"order":9007199254740993,"10":1,"2":1e-07}}}';
    const body = `{"model":"base","messages":[{"role":"user","content":"hi"}],"max_tokens":2,"tools":[${tool}]}`;
    const limits = { context: 1000, maxTokens: 50 };
    const { prompts, settings } = await prepare("chat", body, { limits });
    expect(tokenizer.decode([...prompts[0]!])).toContain(
      '{"amount": 12.0, "order": 9007199254740993, "10": 1, "2": 1e-07}',
    );
    expect(settings.max_tokens).toBe(2);
  });

  it("counts the log-probabilities asked for of prompts, and refuses too many", async () => {
    const limits = { context: 40_000, maxTokens: 50 };
    const prompt = [Array.from({ length: 30_000 }, () => 5), [5, 6]];
    const body = { model: "base", prompt, max_tokens: 0, echo: true };
    const counted = async (more: object) => prepare("completion", { ...body, ...more }, { limits });
    expect(await counted({})).toMatchObject({ promptNumbers: 0 });
    expect(await counted({ logprobs: 1 })).toMatchObject({ promptNumbers: 2 * 30_002 });
    expect(await counted({ logprobs: 1, prompt_logprobs: 3 })).toMatchObject({ promptNumbers: 4 * 30_002 });
    await expect(counted({ prompt: [...prompt, prompt[0]!.slice(0, 20_000)], logprobs: 20 })).rejects.toThrow(
      /50002 tokens.*1050042.*fewer/,
    );
  });

  it("tells the prompts again where they are to be echoed", async () => {
    const texts = async (prompt: unknown, echo: boolean) =>
      (await prepare("completion", { model: "base", prompt, echo })) as { texts?: readonly string[] };
    expect((await texts(["a", "bc"], true)).texts).toEqual(["a", "bc"]);
    expect((await texts([0, 100, 1], true)).texts).toEqual(["<s>a</s>"]);
    expect((await texts("a", false)).texts).toEqual([]);
  });

  it("encodes once for all n", async () => {
    const encode = vi.spyOn(tokenizer, "encode");
    try {
      await prepare("chat", { model: "base", messages: user("hi"), n: 8 });
      expect(encode).toHaveBeenCalledTimes(1);
      await prepare("completion", { model: "base", prompt: "hi", n: 8 });
      expect(encode).toHaveBeenCalledTimes(2);
    } finally {
      encode.mockRestore();
    }
  });

  it("refuses by bytes what cannot fit, before any token is made", async () => {
    const encode = vi.spyOn(tokenizer, "encode");
    const text = "x".repeat(100_000);
    try {
      for (const attempt of [
        prepare("completion", { model: "base", prompt: text }),
        prepare("completion", { model: "base", prompt: ["ok", text].reverse() }),
        prepare("chat", { model: "base", messages: user(text) }),
        prepare("completion", { model: "base", prompt: Array(1000).fill(5) }),
      ])
        await expect(attempt).rejects.toMatchObject({ code: "context_length_exceeded", status: 400 });
      expect(encode).not.toHaveBeenCalled();
    } finally {
      encode.mockRestore();
    }
    // What may fit is counted in tokens: 200 of them with the BOS and 16 new ones.
    await expect(prepare("completion", { model: "base", prompt: "x".repeat(184) })).rejects.toThrow(
      /185 tokens; with 16 new ones/,
    );
    await prepare("completion", { model: "base", prompt: "x".repeat(183) });
  });

  it("refuses more choices than a request may have, and more tokens than the server gives, before encoding", async () => {
    const encode = vi.spyOn(tokenizer, "encode");
    try {
      await expect(
        prepare("completion", { model: "base", prompt: Array(10).fill("a"), n: 7 }),
      ).rejects.toThrow(/more than 64 choices/);
      await expect(
        prepare("chat", { model: "base", messages: user("a"), max_completion_tokens: 51 }),
      ).rejects.toThrow(/limit of 50/);
      expect(encode).not.toHaveBeenCalled();
    } finally {
      encode.mockRestore();
    }
  });

  it("stops as soon as nobody waits", async () => {
    const encode = vi.spyOn(tokenizer, "encode");
    let checks = 0;
    const check = () => {
      if (++checks > 2) throw new Error("gone");
    };
    try {
      await expect(prepare("chat", { model: "base", messages: user("a") }, { check })).rejects.toThrow(
        "gone",
      );
      expect(encode).not.toHaveBeenCalled();
    } finally {
      encode.mockRestore();
    }
  });

  it("refuses what is nested too deep, wherever it is, and nothing that only looks so", async () => {
    const deep = (n: number) => "[".repeat(n) + "]".repeat(n);
    for (const body of [
      deep(100_000),
      "[".repeat(100_000),
      `{"model":"base","prompt":"a","x":${deep(3000)}}`,
      `{"model":"base","messages":[{"role":"user","content":"a","x":${'{"a":'.repeat(200)}1${"}".repeat(200)}}]}`,
    ]) {
      const refused = await prepare("chat", body).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(RequestError);
      expect((refused as RequestError).message).toMatch(/nested deeper/);
    }
    const text = '[{"\\'.repeat(300);
    const kept = await prepare(
      "completion",
      { model: "base", prompt: text.slice(0, 100), x: text },
      { limits: { context: 400, maxTokens: 50 } },
    );
    expect(tokenizer.decode([...kept.prompts[0]!])).toBe(text.slice(0, 100));
    for (const body of ["", "{", "\ud800{", Uint8Array.from([0x22, 0xff, 0x22])])
      await expect(
        prepareRequest("chat", typeof body === "string" ? bytes(body) : body, preparation()),
      ).rejects.toThrow(/not valid JSON/);
  });
});

describe("what a refusal says", () => {
  it("is of readable length and names no folder of the machine", () => {
    expect(readableMessage("x".repeat(10_000))).toHaveLength(600);
    for (const [given, shown] of [
      ["/srv/models/red/adapter_config.json: not JSON", "adapter_config.json: not JSON"],
      ["cannot read '/srv/a b/c.json'", "cannot read 'a b/c.json'"],
      ["C:\\models\\red\\x.json: bad", "x.json: bad"],
      ["use /v1/completions or a/b", "use /v1/completions or a/b"],
      ['layer "model.layers.0" has [4, 5] / 2', 'layer "model.layers.0" has [4, 5] / 2'],
    ])
      expect(withoutFolders(given!)).toBe(shown);
  });
});
