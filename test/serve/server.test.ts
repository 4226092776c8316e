// The server, driven by OpenAI's own client and by hand: answers equal those of the command line's path, adapters never
// mix, vanished clients free their slots, and nothing that is sent makes it fall.

import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import OpenAI, { APIError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { beginText } from "../../src/data/render.ts";
import { continueText } from "../../src/generate/continue-text.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { openModel } from "../../src/models/open-model.ts";
import type { EngineThread } from "../../src/serve/engine-thread.ts";
import type { Preparers } from "../../src/serve/preparers.ts";
import type { RunningServer, ServerOptions } from "../../src/serve/server.ts";
import { Random } from "../../src/util/rng.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

// Threads run compiled code alone.
const built = (path: string) => import(new URL(`../../dist/serve/${path}.js`, import.meta.url).href);
if (!existsSync(new URL("../../dist/serve/server.js", import.meta.url)))
  throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { EngineThread: Thread } = (await built(
  "engine-thread",
)) as typeof import("../../src/serve/engine-thread.ts");
const { Preparers: Threads } = (await built("preparers")) as typeof import("../../src/serve/preparers.ts");
const { startServer } = (await built("server")) as typeof import("../../src/serve/server.ts");

const root = scratchFolder();
const template =
  "{{ bos_token }}{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
const names = ["base", "red", "blue"] as const;
const faults: unknown[] = [];
const notes: string[] = [];
let model: string;
let engine: EngineThread;
let preparers: Preparers;
let server: RunningServer;
let client: OpenAI;
const backendName = await openBackend("cpu").then(
  (backend) => {
    backend.close();
    return "cpu";
  },
  () => "reference",
);

const limits = {
  host: "127.0.0.1",
  port: 0,
  modelName: "base",
  adapters: { red: join(root, "red"), blue: join(root, "blue") },
  maxBodyBytes: 20_000,
  maxTokens: 64,
  maxRequests: 256,
  timeoutSeconds: 60,
  onNote: (note: string) => notes.push(note),
  onFault: (error: unknown) => faults.push(error),
} satisfies ServerOptions;

beforeAll(async () => {
  model = writeTinyModel(join(root, "model"), "llama-gqa-tied-llama3");
  const config = JSON.parse(readFileSync(join(model, "tokenizer_config.json"), "utf8"));
  writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: template }));
  mkdirSync(join(root, "shelf"));
  await writeRandomAdapter(join(root, "red"), model, { rslora: true }, 0.3, 1);
  await writeRandomAdapter(join(root, "blue"), model, { targets: ["q_proj", "down_proj"] }, 0.4, 2);
  await writeRandomAdapter(join(root, "shelf", "green"), model, {}, 0.3, 3);
  symlinkSync(join(root, "red"), join(root, "shelf", "outside"));
  engine = await Thread.start(
    {
      model,
      roomFor: [],
      backend: backendName,
      precision: "fp32",
      threads: 1,
      slots: 6,
      context: 128,
    },
    (error) => faults.push(error),
  );
  ({ preparers } = await Threads.start({ model, modelName: "base" }));
  server = await startServer({ engine, preparers }, { ...limits, adapterFolder: join(root, "shelf") });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0 });
});
afterAll(async () => {
  await server.close(1000);
  await engine.close();
  await preparers.close();
  expect(faults).toEqual([]);
});

/** What the command line would say. */
async function expected(name: (typeof names)[number], prompts: readonly string[], maxNewTokens: number) {
  const backend = await openBackend(backendName, { precision: "fp32", threads: 1 });
  const opened = await openModel(backend, model, { adapter: name === "base" ? undefined : join(root, name) });
  const texts: string[] = [];
  for (const prompt of prompts) {
    const ids = beginText(opened.tokenizer, prompt);
    texts.push(
      (await continueText(opened.loaded.decoder, opened.tokenizer, ids, { maxNewTokens, sampling: greedy }))
        .text,
    );
  }
  await opened.close();
  backend.close();
  return texts;
}

const post = (path: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
  fetch(`${server.url}${path}`, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/json", ...headers },
  });

describe("OpenAI's client", () => {
  it("lists models", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(["base", "red", "blue"]);
    expect((await client.models.retrieve("red")).id).toBe("red");
  });

  it("chats, whole and streamed, with usage", async () => {
    const request = {
      model: "red",
      messages: [{ role: "user" as const, content: [{ type: "text" as const, text: "Hello" }] }],
      max_completion_tokens: 10,
      temperature: 0,
    };
    const whole = await client.chat.completions.create(request);
    const [text] = await expected("red", ["user: Hello\nassistant:"], 10);
    expect(whole.choices[0]!.message.content).toBe(text);
    expect(whole.usage!.completion_tokens).toBeLessThanOrEqual(10);
    let streamed = "";
    let usage: unknown;
    let finish: unknown;
    for await (const chunk of await client.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    })) {
      streamed += chunk.choices[0]?.delta.content ?? "";
      finish ??= chunk.choices[0]?.finish_reason;
      usage = chunk.usage ?? usage;
    }
    expect(streamed).toBe(text);
    expect(finish).toBe(whole.choices[0]!.finish_reason);
    expect(usage).toEqual(whole.usage);
  });

  it("completes: several prompts, stop texts, seeds, choices, log-probabilities", async () => {
    const prompts = ["one", "two two", "three"];
    const texts = await expected("base", prompts, 12);
    const many = await client.completions.create({
      model: "base",
      prompt: prompts,
      max_tokens: 12,
      temperature: 0,
    });
    expect(many.choices.map((choice) => choice.text)).toEqual(texts);

    const stop = texts[0]!.slice(3, 5);
    const stopped = await client.completions.create({
      model: "base",
      prompt: "one",
      max_tokens: 12,
      temperature: 0,
      stop,
    });
    expect(stopped.choices[0]).toMatchObject({
      text: texts[0]!.slice(0, texts[0]!.indexOf(stop)),
      finish_reason: "stop",
    });

    const draw = async (seed: number) =>
      (
        await client.completions.create({ model: "base", prompt: "one", max_tokens: 20, seed, n: 2 })
      ).choices.map((c) => c.text);
    expect(await draw(5)).toEqual(await draw(5));
    expect((await draw(5))[0]).not.toBe((await draw(5))[1]);

    const logged = await client.chat.completions.create({
      model: "base",
      messages: [{ role: "user", content: "x" }],
      max_tokens: 5,
      temperature: 0,
      logprobs: true,
      top_logprobs: 2,
    });
    const content = logged.choices[0]!.logprobs!.content!;
    expect(content).toHaveLength(logged.usage!.completion_tokens);
    expect(content[0]!.top_logprobs).toHaveLength(2);
    expect(content[0]!.top_logprobs[0]!.logprob).toBe(content[0]!.logprob);
  });

  it("gives tools to the template", async () => {
    const tools = [{ type: "function" as const, function: { name: "weather", parameters: {} } }];
    const messages = [{ role: "user" as const, content: "Hi" }];
    const tokens = async (more: object) =>
      (await client.chat.completions.create({ model: "base", messages, max_tokens: 1, ...more })).usage!
        .prompt_tokens;
    expect(await tokens({ tools })).toBeGreaterThan(await tokens({}));
    expect(await tokens({ tools, tool_choice: "none" })).toBe(await tokens({}));
  });

  it("hears of mistakes by their codes", async () => {
    const status = async (request: Promise<unknown>) => {
      const error = await request.then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(APIError);
      return [(error as APIError).status, (error as APIError).code];
    };
    const complete = (more: object) => client.completions.create({ model: "base", prompt: "x", ...more });
    expect(await status(complete({ model: "none" }))).toEqual([404, "model_not_found"]);
    expect(await status(complete({ prompt: "x".repeat(500), max_tokens: 1 }))).toEqual([
      400,
      "context_length_exceeded",
    ]);
    expect(await status(complete({ max_tokens: 65 }))).toEqual([400, null]);
    expect(await status(complete({ prompt: [100_000] }))).toEqual([400, null]);
    expect(await status(complete({ presence_penalty: 1 }))).toEqual([400, null]);
    // Streams, too, are refused by their status.
    expect(
      await status(client.completions.create({ model: "base", prompt: "x".repeat(500), stream: true })),
    ).toEqual([400, "context_length_exceeded"]);
  });

  it("loads and drops adapters while running", async () => {
    const ask = () =>
      client.completions.create({ model: "green", prompt: "one", max_tokens: 4, temperature: 0 });
    await expect(ask()).rejects.toThrow(/no model "green"/);
    const load = (body: object) => post("/v1/load_lora_adapter", JSON.stringify(body));
    expect((await load({ lora_name: "green" })).status).toBe(200);
    expect((await ask()).choices).toHaveLength(1);
    expect((await post("/v1/unload_lora_adapter", '{"lora_name":"green"}')).status).toBe(200);
    await expect(ask()).rejects.toThrow(/no model "green"/);
    for (const path of ["../red", "/etc", "..", "a/b", "a\\b", "\0", ""])
      expect((await load({ lora_name: "x", lora_path: path })).status, path).toBe(400);
    expect((await load({ lora_name: "x", lora_path: "outside" })).status).toBe(403);
    expect((await load({ lora_name: "x" })).status).toBe(404);
    expect((await load({ lora_name: "base" })).status).toBe(409);
  });
});

describe("200 requests at once", () => {
  it("answer as they would alone, whoever vanishes, and leave nothing behind", async () => {
    const prompts = Array.from({ length: 8 }, (_, i) => `${"word ".repeat(1 + (i % 5))}${i}`);
    const serial = new Map<string, string[]>();
    for (const name of names) serial.set(name, await expected(name, prompts, 16));
    const random = new Random(11);
    const plans = Array.from({ length: 200 }, (_, i) => ({
      name: names[i % 3]!,
      prompt: i % prompts.length,
      stream: random.nextFloat() < 0.7,
      vanishAfterMs: random.nextFloat() < 0.35 ? random.nextInt(400) : undefined,
      delayMs: random.nextInt(300),
    }));
    let vanished = 0;
    await Promise.all(
      plans.map(async ({ name, prompt, stream, vanishAfterMs, delayMs }) => {
        await new Promise((resolve) => setTimeout(resolve, delayMs));
        const abort = new AbortController();
        if (vanishAfterMs !== undefined) setTimeout(() => abort.abort(), vanishAfterMs);
        const request = { model: name, prompt: prompts[prompt]!, max_tokens: 16, temperature: 0 };
        const options = { signal: abort.signal };
        const right = serial.get(name)![prompt]!;
        try {
          if (!stream) {
            const answer = await client.completions.create(request, options);
            expect(answer.choices[0]!.text).toBe(right);
            return;
          }
          let text = "";
          for await (const chunk of await client.completions.create({ ...request, stream: true }, options)) {
            text += chunk.choices[0]?.text ?? "";
            expect(right.startsWith(text)).toBe(true);
          }
          if (!abort.signal.aborted) expect(text).toBe(right);
        } catch (error) {
          if (!abort.signal.aborted) throw error;
          vanished++;
        }
      }),
    );
    expect(vanished).toBeGreaterThan(5);
    await expect.poll(() => server.inFlight, { timeout: 10_000 }).toBe(0);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toContain("lowrank_requests_in_flight 0");
    expect(Number(/lowrank_cancelled_total (\d+)/.exec(metrics)![1])).toBeGreaterThan(0);
    // The slots are free again: as many as there are run side by side.
    const again = await Promise.all(
      Array.from({ length: 6 }, () =>
        client.completions.create({ model: "red", prompt: prompts[0]!, max_tokens: 16, temperature: 0 }),
      ),
    );
    for (const answer of again) expect(answer.choices[0]!.text).toBe(serial.get("red")![0]);
  });
});

describe("a hostile client", () => {
  it("gets the right status and breaks nothing", async () => {
    const chat = "/v1/chat/completions";
    const status = async (response: Promise<Response>) => (await response).status;
    for (const body of [
      "",
      "{",
      "null",
      "[]",
      '"x"',
      "{}",
      '{"model":1}',
      '{"__proto__":{"a":1}}',
      "[".repeat(9000),
    ])
      expect(await status(post(chat, body)), body.slice(0, 20)).toBe(400);
    expect(await status(post(chat, Uint8Array.from([0xff, 0xfe, 0x7b])))).toBe(400);
    // Told while the body still comes, which is passed over: the next request on the connection is whole.
    for (let i = 0; i < 5; i++) {
      expect(await status(post(chat, `"${"x".repeat(30_000 + 900_000 * i)}"`))).toBe(413);
      expect(await status(fetch(`${server.url}/v1/models`))).toBe(200);
    }
    expect(await status(post(chat, "{}", { "Content-Type": "text/plain" }))).toBe(415);
    for (const name of [
      "../../etc/passwd",
      "..%2f..",
      "/etc",
      "red/../blue",
      "C:\\x",
      "red\0",
      "__proto__",
      "constructor",
    ]) {
      const body = JSON.stringify({ model: name, messages: [{ role: "user", content: "x" }] });
      expect(await status(post(chat, body)), name).toBe(404);
      expect(await status(fetch(`${server.url}/v1/models/${encodeURIComponent(name)}`)), name).toBe(404);
    }
    expect(await status(fetch(`${server.url}/v1/nothing`))).toBe(404);
    expect(await status(fetch(`${server.url}${chat}`))).toBe(404);
    expect(await status(fetch(`${server.url}/healthz`))).toBe(200);
  });

  it("cannot reach us under another name, nor send a body without end", async () => {
    const raw = (text: string) =>
      new Promise<string>((resolve) => {
        const socket = connect(Number(new URL(server.url).port), "127.0.0.1", () => socket.write(text));
        let answer = "";
        socket.on("data", (data) => {
          answer += data.toString();
          socket.end();
        });
        socket.on("close", () => resolve(answer));
        socket.on("error", () => resolve(answer));
      });
    expect(await raw("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")).toContain(
      " 403 ",
    );
    const head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect(await raw(`${head}${`${(5000).toString(16)}\r\n${"x".repeat(5000)}\r\n`.repeat(8)}`)).toContain(
      " 413 ",
    );
    expect(await raw("GARBAGE\r\n\r\n")).toContain("400");
  });

  it("that goes away in the middle of its body is no fault, and no 500", async () => {
    const [host, port] = ["127.0.0.1", Number(new URL(server.url).port)];
    const count = async (status: number) => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      const line = `lowrank_requests_total{route="/v1/completions",status="${status}"} `;
      return Number(
        text
          .split("\n")
          .find((each) => each.startsWith(line))
          ?.slice(line.length) ?? 0,
      );
    };
    const before = await count(499);
    for (let i = 0; i < 3; i++) {
      await new Promise<void>((resolve) => {
        const socket = connect(port, host, () => {
          socket.write(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
            () => setTimeout(() => socket.destroy(), 20),
          );
        });
        socket.on("close", () => resolve());
      });
    }
    await expect.poll(() => count(499)).toBe(before + 3);
    expect(await count(500)).toBe(0);
    expect(faults).toEqual([]);
  });

  it("hears of a broken adapter without the folders of the machine", async () => {
    mkdirSync(join(root, "shelf", "broken"));
    writeFileSync(join(root, "shelf", "broken", "adapter_config.json"), "{");
    mkdirSync(join(root, "shelf", "bare"));
    for (const name of ["broken", "bare"]) {
      const response = await post("/v1/load_lora_adapter", JSON.stringify({ lora_name: name }));
      const { message } = ((await response.json()) as { error: { message: string } }).error;
      expect(response.status).toBe(400);
      expect(message).toContain("adapter_config.json");
      expect(message).not.toContain(root);
    }
  });

  it("gets short answers to long mistakes", async () => {
    const key = "k".repeat(5000);
    const response = await post(
      "/v1/chat/completions",
      JSON.stringify({
        model: "base",
        messages: [{ role: "user", content: "x" }],
        chat_template_kwargs: { [key]: 1 },
      }),
    );
    expect(response.status).toBe(400);
    expect((await response.text()).length).toBeLessThan(1000);
  });

  it("needs the key where there is one", async () => {
    const locked = await startServer({ engine, preparers }, { ...limits, apiKey: "right" });
    const ask = (key: string) =>
      new OpenAI({ baseURL: `${locked.url}/v1`, apiKey: key, maxRetries: 0 }).models.list();
    await expect(ask("wrong")).rejects.toThrow(/401/);
    expect((await ask("right")).data).toHaveLength(3);
    for (const scheme of ["bearer", "BEARER", "Bearer "])
      expect(
        (await fetch(`${locked.url}/v1/models`, { headers: { Authorization: `${scheme} right` } })).status,
      ).toBe(200);
    expect(
      (await fetch(`${locked.url}/v1/models`, { headers: { Authorization: "Basic right" } })).status,
    ).toBe(401);
    expect((await fetch(`${locked.url}/metrics`)).status).toBe(401);
    expect((await fetch(`${locked.url}/healthz`)).status).toBe(200);
    await locked.close(100);
  });

  it("is held to the limits of requests and time, and a closing server ends in order", async () => {
    const small = await startServer({ engine, preparers }, { ...limits, maxRequests: 1, timeoutSeconds: 1 });
    const asker = new OpenAI({ baseURL: `${small.url}/v1`, apiKey: "x", maxRetries: 0 });
    const ask = () =>
      asker.completions.create({ model: "base", prompt: "one", max_tokens: 64, temperature: 0 });
    const results = await Promise.allSettled([ask(), ask(), ask()]);
    expect(results.filter((result) => result.status === "fulfilled").length).toBeGreaterThanOrEqual(1);
    const refused = results.filter((result) => result.status === "rejected");
    for (const { reason } of refused) expect((reason as APIError).status).toBe(429);
    // The limit is told before a body is read: this one never comes.
    const busy = ask();
    await expect.poll(() => small.inFlight, { interval: 1 }).toBe(1);
    const head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n";
    const unread = await new Promise<string>((resolve) => {
      const socket = connect(Number(new URL(small.url).port), "127.0.0.1", () => socket.write(head));
      socket.on("data", (data) => {
        resolve(data.toString());
        socket.destroy();
      });
    });
    expect(unread).toMatch(/^HTTP\/1.1 429 /);
    await busy;
    const last = ask();
    await expect.poll(() => small.inFlight, { interval: 1 }).toBe(1);
    const closing = small.close(10_000);
    expect((await last).choices).toHaveLength(1);
    await closing;
    await expect(ask()).rejects.toThrow();
  });
});
