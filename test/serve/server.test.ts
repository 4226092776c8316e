// The server, driven by OpenAI's own client: answers equal those of the command line's path, adapters never mix, vanished
// clients free their slots. Clients that mean it harm: hostile-clients.test.ts.

import { APIError } from "openai";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/util/rng.ts";
import { client, expected, names, post, server } from "./served.ts";

describe("OpenAI's client", () => {
  it("lists models", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(["base", "red", "blue"]);
    expect((await client.models.retrieve("red")).id).toBe("red");
  });

  it("tells which tokens of a prompt were there already, for each adapter its own", async () => {
    const prompt = Array.from({ length: 100 }, (_, i) => 10 + ((i * 7) % 90));
    const ask = async (name: string) => {
      const { choices, usage } = await client.completions.create({
        ...{ model: name, prompt, max_tokens: 4, temperature: 0 },
      });
      return { text: choices[0]!.text, cached: usage!.prompt_tokens_details?.cached_tokens };
    };
    const first = await ask("base");
    expect(first.cached).toBe(0);
    expect(await ask("base")).toEqual({ text: first.text, cached: 64 });
    expect((await ask("red")).cached).toBe(0);
    expect((await ask("red")).cached).toBe(64);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    const numberOf = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(metrics)?.[1]);
    expect(numberOf("lowrank_prompt_cached_tokens_total")).toBeGreaterThanOrEqual(128);
    // Six slots of two blocks; tests that run beside this one use some.
    expect(numberOf("lowrank_kv_blocks")).toBe(12);
    expect(numberOf("lowrank_kv_blocks_cached")).toBeGreaterThanOrEqual(1);
    expect(numberOf("lowrank_kv_token_bytes")).toBeGreaterThan(0);
    expect(metrics).toContain("# TYPE lowrank_kv_blocks_evicted_total counter");
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
