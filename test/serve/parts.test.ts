// The parts of serving that need no server: tool calls found in text, streams of events whose reader is slow or gone,
// and what a body may say.

import { describe, expect, it } from "vitest";
import { eventStream } from "../../src/serve/event-stream.ts";
import { jsonPieces, LazyList, streamOf } from "../../src/serve/json-pieces.ts";
import { ScoreRoom } from "../../src/serve/prompt-table.ts";
import { BodyReader, ClientGone } from "../../src/serve/read-body.ts";
import { parseRequestJson } from "../../src/serve/request-json.ts";
import { chatOf, parseChat, parseCompletion } from "../../src/serve/requests.ts";
import { ToolCallGate } from "../../src/serve/tool-calls.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";

describe("tool calls", () => {
  function through(pieces: readonly string[]) {
    let content = "";
    const gate = new ToolCallGate((text) => {
      content += text;
    });
    for (const piece of pieces) gate.push(piece);
    return { calls: gate.finish(), content };
  }
  const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>';

  it("are cut out of the text, however it is cut into pieces", () => {
    const text = `Let me look.\n${call}\n${call.replace("Bern", "Rome")}`;
    for (const size of [1, 3, 7, 1000]) {
      const pieces = text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g"))!;
      expect(through(pieces)).toEqual({
        content: "Let me look.\n",
        calls: [
          { name: "weather", arguments: '{"city": "Bern"}' },
          { name: "weather", arguments: '{"city": "Rome"}' },
        ],
      });
    }
  });

  it("stay text where they are none", () => {
    expect(through(["a < b <tool", "_x>"])).toEqual({ content: "a < b <tool_x>", calls: [] });
    expect(through(["<tool_call>not JSON</tool_call>"])).toEqual({
      content: "<tool_call>not JSON</tool_call>",
      calls: [],
    });
  });
});

describe("room for prompts' numbers", () => {
  it("is given back once, and one answer alone always has it", () => {
    const room = new ScoreRoom(10);
    const leave = room.hold(12);
    expect(() => room.hold(1)).toThrow(/12 log-probabilities/);
    leave();
    leave();
    const leaves = [room.hold(4), room.hold(6)];
    expect(() => room.hold(1)).toThrow(/later/);
    for (const each of leaves) each();
    room.hold(10)();
  });

  it("holds nothing where nothing is asked for", () => {
    const room = new ScoreRoom(10);
    room.hold(10);
    room.hold(0)();
  });
});

describe("lists that are made while they are written", () => {
  it("read as others do, in pieces and whole", () => {
    const lazy = { a: new LazyList(3, (i) => ({ i })), b: [new LazyList(0, () => 1)] };
    const plain = '{"a":[{"i":0},{"i":1},{"i":2}],"b":[[]]}';
    expect([...jsonPieces(lazy, 1)].join("")).toBe(plain);
    expect(JSON.stringify(lazy)).toBe(plain);
  });
});

describe("numbers", () => {
  const written = '{"id": 9007199254740993, "x": 1.0, "by_year": {"2024": 1e-07, "10": -0.0}}';

  it("of a tool call stay as the model wrote them", () => {
    const gate = new ToolCallGate(() => {});
    gate.push(`<tool_call>{"name": "f", "arguments": ${written}}</tool_call>`);
    expect(gate.finish()).toEqual([{ name: "f", arguments: written }]);
  });

  it("of a request are plain where they are options, and as written where templates print them", () => {
    const body = parseRequestJson(
      `{"model": "m", "temperature": 1.0, "seed": 2e3, "messages": [{"role": "user", "content": "q", "7": 1}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": ${written}}}],
        "chat_template_kwargs": {"at": 12.0}}`,
    );
    const chat = parseChat(body);
    expect(chat.temperature).toBe(1);
    const prompt = structuredClone(chatOf(chat));
    const template = "{{ tools[0].function.parameters | tojson }} {{ at }}";
    const text = new ChatTemplate(template, {}, "T").render([], prompt);
    expect(text).toBe(`${written} 12.0`);
    expect(() => parseRequestJson("{")).toThrow(SyntaxError);
    expect(parseRequestJson("[1.0]")).toEqual([1]);
  });
});

describe("event streams", () => {
  it("end with [DONE] and come whole", async () => {
    const stream = eventStream({ leave() {}, stallMs: 1000 });
    stream.send({ a: 1 });
    stream.end();
    stream.send("late");
    expect(await new Response(stream.readable).text()).toBe('data: {"a":1}\n\ndata: [DONE]\n\n');
  });

  it("abort the work of a reader that goes, or that does not read", async () => {
    const left: string[] = [];
    const first = eventStream({ leave: () => left.push("gone"), stallMs: 1000 });
    await first.readable.cancel();
    expect(left).toEqual(["gone"]);

    const second = eventStream({ leave: () => left.push("stalled"), stallMs: 30 });
    second.send("x".repeat(100_000));
    await expect.poll(() => left).toEqual(["gone", "stalled"]);
  });
});

describe("large answers", () => {
  it("are the same JSON in pieces", () => {
    const token = (i: number) => ({
      token: `t${i}`,
      logprob: -i / 3,
      top_logprobs: [{ token: '\u2028"', bytes: [1] }],
    });
    const whole = {
      id: "x",
      left: undefined,
      empty: {},
      none: [],
      choices: [0, 1].map((index) => ({
        index,
        text: null,
        logprobs: { content: Array.from({ length: 300 }, (_, i) => token(i)), refusal: null },
      })),
      usage: { total_tokens: 3 },
    };
    for (const length of [1, 100, 10_000, 10_000_000]) {
      const pieces = [...jsonPieces(whole, length)];
      expect(pieces.join("")).toBe(JSON.stringify(whole));
      if (length === 100) expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThan(300);
    }
    for (const value of [null, 1, "x", [], {}, [[]], { a: undefined }])
      expect([...jsonPieces(value)].join("")).toBe(JSON.stringify(value));
  });

  it("leave as a body that lets others take their turn", async () => {
    let turns = 0;
    let going = true;
    const turn = () => {
      turns++;
      if (going) setImmediate(turn);
    };
    turn();
    const value = Array.from({ length: 50 }, (_, i) => i);
    const text = await new Response(streamOf(jsonPieces(value, 1))).text();
    going = false;
    expect(JSON.parse(text)).toEqual(value);
    expect(turns).toBeGreaterThan(40);
  });
});

describe("bodies", () => {
  const chat = { model: "m", messages: [{ role: "user", content: "hi" }] };
  it("take what clients send and refuse what would be ignored in silence", () => {
    expect(parseChat({ ...chat, user: "u", store: false, presence_penalty: 0 }).model).toBe("m");
    for (const [key, value] of Object.entries({
      presence_penalty: 1,
      logit_bias: { 5: 1 },
      response_format: { type: "json_object" },
      tool_choice: "required",
      temperature: -1,
      top_p: 0,
      n: 0,
      messages: [],
      stop: ["", "x"],
      add_generation_prompt: false,
      continue_final_message: true,
      chat_template: "{{ messages }}",
      functions: [{}],
    })) {
      expect(() => parseChat({ ...chat, [key]: value }), key).toThrow(new RegExp(key));
    }
    expect(() => parseChat([])).toThrow(/the body/);
    for (const [key, value] of Object.entries({
      suffix: "x",
      best_of: 2,
      max_tokens: 0,
      logprobs: 21,
      prompt_logprobs: -1,
      truncate_prompt_tokens: 3,
      return_token_ids: true,
    })) {
      const body = { model: "m", prompt: "x", [key]: value };
      expect(() => parseCompletion(body), key).toThrow(new RegExp(key));
    }
    const scoring = { model: "m", prompt: "x", prompt_logprobs: 0 };
    expect(parseCompletion({ ...scoring, max_tokens: 0 }).max_tokens).toBe(0);
    expect(() => parseCompletion({ ...scoring, stream: true })).toThrow(/prompt_logprobs/);
    expect(() => parseChat({ ...chat, prompt_logprobs: 1 })).toThrow(/prompt_logprobs/);
    expect(() => parseCompletion({ model: "m", prompt: [] })).toThrow(/prompt/);
    expect(() => parseCompletion({ model: "m", prompt: [1, "x"] })).toThrow(/prompt/);
  });

  it("keep OpenAI's older functions, a refusal's words and the order of keys", () => {
    const described = { name: "f", parameters: {} };
    const spoken = chatOf(
      parseChat({
        model: "m",
        functions: [described],
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "h" },
              { type: "text", text: "i" },
            ],
            name: "n",
          },
          { role: "assistant", content: null, function_call: { name: "f", arguments: "{}" } },
          { role: "function", name: "f", content: "r" },
          { role: "assistant", content: null, refusal: "I do not." },
        ],
      }),
    );
    expect(spoken.tools).toEqual([{ type: "function", function: described }]);
    const [first, call, result, refused] = spoken.messages;
    expect(Object.keys(first!)).toEqual(["role", "content", "name"]);
    expect(first!.content).toBe("hi");
    expect(call).toEqual({
      role: "assistant",
      content: null,
      tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }],
    });
    expect(result).toEqual({ role: "tool", name: "f", content: "r" });
    expect(refused!.content).toBe("I do not.");
    const none = parseChat({ ...chat, functions: [described], function_call: "none" });
    expect(chatOf(none).tools).toBeUndefined();
    for (const message of [
      { role: "assistant", function_call: "f" },
      { role: "assistant", function_call: { name: "f" }, tool_calls: [{ function: { name: "f" } }] },
    ]) {
      expect(() => chatOf(parseChat({ ...chat, messages: [message] }))).toThrow(/messages\.0\.function_call/);
    }
  });
});

describe("bodies on their way", () => {
  const limits = { maxBodyBytes: 100_000, maxBodies: 20, stallMs: 20_000 };
  /** A body of pieces that come when asked to; ends when told to. */
  function sender(declared?: number) {
    const pieces: Uint8Array[] = [];
    let wake = () => {};
    let over: Error | true | undefined;
    let asked = 0;
    const chunks = (async function* () {
      for (;;) {
        asked++;
        while (pieces.length === 0 && !over)
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        if (pieces.length > 0) yield pieces.shift()!;
        else if (over === true) return;
        else throw over;
      }
    })();
    return {
      body: { declared: declared === undefined ? undefined : String(declared), open: () => chunks },
      get asked() {
        return asked;
      },
      send(size: number) {
        pieces.push(new Uint8Array(size).fill(7));
        wake();
      },
      end(how: Error | true = true) {
        over = how;
        wake();
      },
    };
  }

  it("come whole", async () => {
    const reader = new BodyReader(limits);
    const one = sender();
    const reading = reader.read(one.body);
    for (const size of [3, 70_000, 1]) one.send(size);
    one.end();
    const { bytes } = await reading;
    expect(bytes).toHaveLength(70_004);
    expect(bytes.every((byte) => byte === 7)).toBe(true);
  });

  it("are refused before a byte is taken: too large, too many, too much together", async () => {
    const reader = new BodyReader(limits);
    const huge = sender(100_001);
    await expect(reader.read(huge.body)).rejects.toMatchObject({ status: 413 });
    await expect(reader.read(sender(Number.NaN).body)).rejects.toMatchObject({ status: 413 });
    const senders = Array.from({ length: 16 }, () => sender(100_000));
    const reading = senders.map(({ body }) => reader.read(body));
    const late = sender(70_000);
    await expect(reader.read(late.body)).rejects.toMatchObject({ status: 429 });
    expect([huge.asked, late.asked]).toEqual([0, 0]);
    // Short ones still come in, up to the number of all.
    const short = Array.from({ length: 4 }, () => sender(100));
    const others = short.map(({ body }) => reader.read(body));
    const last = sender(100);
    await expect(reader.read(last.body)).rejects.toMatchObject({ status: 429 });
    expect(last.asked).toBe(0);
    for (const each of [...senders, ...short]) each.end();
    const read = await Promise.all([...reading, ...others]);
    // Their bytes count until they are let go of.
    await expect(reader.read(sender(70_000).body)).rejects.toMatchObject({ status: 429 });
    for (const { release } of read) release();
    const again = sender(70_000);
    again.end();
    expect((await reader.read(again.body)).bytes).toHaveLength(0);
  });

  it("that say nothing of their size are held to the same while they come", async () => {
    const reader = new BodyReader(limits);
    const one = sender();
    const reading = reader.read(one.body);
    one.send(60_000);
    one.send(60_000);
    await expect(reading).rejects.toMatchObject({ status: 413 });
  });

  it("whose sender goes away or falls asleep are no faults, and leave nothing counted", async () => {
    const reader = new BodyReader({ ...limits, maxBodies: 1, stallMs: 20 });
    const gone = sender(90_000);
    gone.end(new Error("aborted"));
    await expect(reader.read(gone.body)).rejects.toBeInstanceOf(ClientGone);
    await expect(reader.read(sender(90_000).body)).rejects.toMatchObject({ status: 408 });
    const next = sender(90_000);
    next.end();
    await reader.read(next.body);
  });
});
