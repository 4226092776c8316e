// What the library's functions promise beside what the commands promise: rows in memory are a file's rows, a loop of
// one's own is `train`'s loop, runs can be left and continued, misuse is told in TypeScript's words.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compare, open, type TrainEvent, train, UsageError, UserError } from "../../dist/index.js";

const folder = mkdtempSync(join(tmpdir(), "lowrank-library-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);
const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `Say ${i}:`, completion: ` the number ${i}.` }));
const held = [{ prompt: "Say 77:", completion: " the number 77." }];
const device = { backend: "cpu", precision: "fp32" } as const;
const recipe = {
  model: "tiny",
  rank: 4,
  maxSteps: 6,
  batchSize: 2,
  schedule: "constant",
  ...device,
} as const;
const weights = (out: string) => readFileSync(join(out, "adapter_model.safetensors"));

describe("train()", () => {
  it("tells every step, and trains rows in memory as the same rows in a file", async () => {
    const events: TrainEvent[] = [];
    for await (const event of train({ ...recipe, data: rows, evalData: held, out: place("memory") }))
      events.push(event);
    const steps = events.flatMap((event) => (event.type === "train" ? [event.step] : []));
    expect(steps).toEqual([1, 2, 3, 4, 5, 6]);
    expect(events.at(-1)?.type).toBe("done");

    const file = place("rows.jsonl");
    writeFileSync(file, rows.map((row) => JSON.stringify(row)).join("\n"));
    const summary = await train({ ...recipe, data: file, evalData: held, out: place("file") }).finished;
    expect(summary.status).toBe("done");
    expect(weights(place("memory"))).toEqual(weights(place("file")));
  });

  it("takes an objective, whose rewards its steps tell", async () => {
    const pairs = rows.map(({ prompt }, i) => ({ prompt, chosen: `yes ${i}`, rejected: "no" }));
    const run = train({ ...recipe, objective: "dpo", beta: 0.2, data: pairs, out: place("preferred") });
    const margins: (number | undefined)[] = [];
    for await (const event of run) if (event.type === "train") margins.push(event.rewardMargin);
    expect(margins).toHaveLength(6);
    expect(Math.abs(margins[0]!)).toBeLessThan(1e-3);
    expect(margins.at(-1)).toBeGreaterThan(margins[0]!);
    const refused = train({ ...recipe, objective: "dpo", data: rows, out: place("no pairs") });
    await expect(refused.finished).rejects.toThrow(/"chosen", "rejected"/);
  });

  it("saves when it is aborted, and resumes to the same bytes", async () => {
    const out = place("aborted");
    const controller = new AbortController();
    const run = train({ ...recipe, maxSteps: 40, data: rows, out, signal: controller.signal });
    for await (const event of run) if (event.type === "train" && event.step === 2) controller.abort();
    const stopped = await run.finished;
    expect(stopped.status).toBe("interrupted");
    expect(stopped.steps).toBeLessThan(40);
    await train({ ...recipe, maxSteps: 40, data: rows, out, resume: true }).finished;
    await train({ ...recipe, maxSteps: 40, data: rows, out: place("whole") }).finished;
    expect(weights(out)).toEqual(weights(place("whole")));
  });

  it("mixes rows of several sources, wherever they lie", async () => {
    const file = place("mixed.jsonl");
    writeFileSync(file, rows.map((row) => JSON.stringify(row)).join("\n"));
    const asked = held.map((row) => ({ q: row.prompt, a: row.completion }));
    const columns = { prompt: "q", completion: "a" };
    const sources = (first: string | typeof rows) => [{ rows: first }, { rows: asked, columns, weight: 3 }];
    await train({ ...recipe, data: { sources: sources(rows) }, out: place("mix memory") }).finished;
    await train({ ...recipe, data: { sources: sources(file) }, out: place("mix file") }).finished;
    expect(weights(place("mix memory"))).toEqual(weights(place("mix file")));
    expect(weights(place("mix memory"))).not.toEqual(weights(place("memory")));
    expect(() => train({ ...recipe, data: { sources: [{ rows: [] }] }, out: place("none") })).toThrow(/data/);
  });

  it("trains alone in a program that a launcher of MPI started several times", async () => {
    const variables = { OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_RANK: "1" };
    Object.assign(process.env, variables);
    try {
      const summary = await train({ ...recipe, data: rows, out: place("launched") }).finished;
      expect(summary).toMatchObject({ status: "done", ranks: undefined });
      expect(weights(place("launched"))).toEqual(weights(place("memory")));
    } finally {
      for (const name of Object.keys(variables)) delete process.env[name];
    }
  });

  it("is interrupted by whoever leaves its loop", async () => {
    const out = place("left");
    const run = train({ ...recipe, maxSteps: 100_000, data: rows, out });
    for await (const event of run) if (event.type === "train") break;
    expect((await run.finished).status).toBe("interrupted");
    expect(existsSync(join(out, "checkpoints"))).toBe(true);
  });

  it("throws the run's error into the loop and from `finished`", async () => {
    const run = train({ ...recipe, data: [{ nothing: 1 }], out: place("bad") });
    await expect(async () => {
      for await (const _ of run);
    }).rejects.toThrow(UserError);
    await expect(run.finished).rejects.toThrow(/rows line 1/);
  });

  it.each([
    [{ lerningRate: 1 }, /train\(\): unknown option "lerningRate"\. Did you mean "learningRate"\?/],
    [{ data: [{ path: "a.jsonl", weight: 2 }, { path: "b.jsonl" }] }, /data: a list holds the rows.*sources/],
    [{ data: ["a.jsonl", "b.jsonl"] }, /data: a list holds the rows.*sources/],
    [{ evalData: [{ path: "a.jsonl", limit: 2 }] }, /evalData: a list holds the rows.*sources/],
    [{ learningRate: "much" }, /train\(\): learningRate: expected a number above 0; got "much"/],
    [{ method: "lroa" }, /method: expected one of lora, qlora, full; got "lroa"\. Did you mean lora\?/],
    [{ evalEvery: 3 }, /train\(\): evalEvery has nothing to evaluate: add evalData F/],
    [{ epochs: 1 }, /"epochs" and "maxSteps" exclude each other/],
    [{ data: [] }, /data: expected a path or a non-empty array of rows/],
  ])("refuses %j at once, in its own words", (wrong, message) => {
    const input = { ...recipe, data: rows, out: place("refused"), ...wrong } as Parameters<typeof train>[0];
    expect(() => train(input)).toThrow(UsageError);
    expect(() => train(input)).toThrow(message);
    expect(existsSync(place("refused"))).toBe(false);
  });

  it("tells values that are no JSON", () => {
    const around: Record<string, unknown> = {};
    around.self = around;
    for (const [rank, told] of [
      [1n, '"1n"'],
      [around, "a value that is no JSON"],
      [() => 1, "a function"],
      [Symbol("s"), "Symbol(s)"],
    ] as const) {
      const input = { ...recipe, data: rows, out: place("refused"), rank } as never;
      expect(() => train(input)).toThrow(
        `train(): rank: expected a whole number from 1 to 65536; got ${told}`,
      );
    }
  });
});

describe("open()", () => {
  it("generates, chats and evaluates, with and without an adapter", async () => {
    await using base = await open("tiny", device);
    const pieces: string[] = [];
    const input = { maxNewTokens: 6, onText: (piece: string) => void pieces.push(piece) };
    const answer = await base.generate("Once upon a time", input);
    expect(answer).toMatchObject({ finishReason: "length", promptTokens: expect.any(Number) });
    expect(pieces.join("")).toBe(answer.text);
    expect(answer.tokenIds.length).toBe(6);
    const chatted = await base.chat([{ role: "user", content: "Hi" }], {
      chatTemplate: "chatml",
      maxNewTokens: 2,
    });
    expect(chatted.tokenIds.length).toBeGreaterThan(0);
    const { perplexity, loss } = await base.evaluate(rows);
    expect(perplexity).toBeCloseTo(Math.exp(loss), 6);

    await using tuned = await open("tiny", { ...device, adapter: place("memory") });
    expect((await tuned.evaluate(rows)).loss).toBeLessThan(loss);
    await expect(tuned.session()).rejects.toThrow(/session\(\{ initAdapter \}\)/);
  });

  it("holds several models at once, whose kernels never mix", async () => {
    await using alone = await open("tiny", device);
    const { loss } = await alone.evaluate(rows);
    const first = await open("tiny", device);
    const session = await first.session({ rank: 4 });
    const [batch] = session.batches(rows, { batchSize: 4 });
    const before = (await session.evaluate(rows)).loss;
    const second = await open("tiny", device);
    await session.forwardBackward(batch!);
    // What the session's update leaves waiting runs before another model's kernels.
    const updated = session.step({ learningRate: 1e-3 });
    expect((await second.evaluate(rows)).loss).toBe(loss);
    await updated;
    await second[Symbol.asyncDispose]();
    expect((await session.evaluate(rows)).loss).toBeLessThan(before);
    await session[Symbol.asyncDispose]();
    await first[Symbol.asyncDispose]();
  });

  it("refuses what it does not know, and use after it was disposed of", async () => {
    await expect(open("no/such/folder/here")).rejects.toThrow(UserError);
    await expect(open("tiny", { backend: "gpu" as "cpu" })).rejects.toThrow(
      /open\(\): backend: expected one of/,
    );
    await expect(open("tiny", { ...device, method: "qlora", quantType: "nf5" as "nf4" })).rejects.toThrow(
      /open\(\): quantType: expected one of nf4, fp4, int4; got "nf5"/,
    );
    const loss = async (quantType: "nf4" | "fp4") => {
      await using coarse = await open("tiny", { ...device, method: "qlora", quantType });
      return (await coarse.evaluate(rows)).loss;
    };
    expect(await loss("fp4")).not.toBe(await loss("nf4"));
    const model = await open("tiny", device);
    await expect(model.generate("x", { temprature: 1 } as object)).rejects.toThrow(
      /Did you mean "temperature"/,
    );
    await model[Symbol.asyncDispose]();
    await expect(model.generate("x")).rejects.toThrow(/was disposed of/);
  });
});

describe("a session", () => {
  it("makes the steps that train() makes", async () => {
    const out = place("train");
    const events: number[] = [];
    for await (const event of train({ ...recipe, learningRate: 1e-3, data: rows, out }))
      if (event.type === "train") events.push(event.loss);

    await using model = await open("tiny", device);
    await using session = await model.session({ rank: 4 });
    const losses: number[] = [];
    for (const batch of session.batches(rows, { batchSize: 2 })) {
      losses.push((await session.forwardBackward(batch)).loss);
      await session.step({ learningRate: 1e-3 });
    }
    await session.save(place("session"));
    expect(losses).toEqual(events);
    expect(weights(place("session"))).toEqual(weights(out));
  });

  it("adds up gradients until a step: eight of one are one of eight", async () => {
    await using model = await open("tiny", { ...device, backend: "reference" });
    const normAfter = async (parts: number) => {
      await using session = await model.session({ rank: 2, alpha: 2, targets: "q,v" });
      const batches = [...session.batches(rows.slice(0, 8), { batchSize: 1, shuffle: false })];
      for (let i = 0; i < 8; i += 8 / parts) await session.forwardBackward(batches.slice(i, i + 8 / parts));
      const { gradNorm } = await session.step({ learningRate: 1e-3, maxGradNorm: 0 });
      return gradNorm / parts;
    };
    // Rows have as many targets each, so the mean of means is the mean.
    expect(await normAfter(2)).toBeCloseTo(await normAfter(1), 6);
  });

  it("trains in full and in 4 bits, one at a time, and frees what it made", async () => {
    for (const method of ["full", "qlora"] as const) {
      await using model = await open("tiny", { ...device, method });
      const session = await model.session({ rank: 2 });
      await expect(model.session()).rejects.toThrow(/there is a session already/);
      const dataset = await session.dataset(rows);
      const [batch] = session.batches(dataset, { batchSize: 4 });
      const { loss } = await session.forwardBackward(batch!);
      expect((await session.step({ learningRate: 1e-4 })).updated).toBe(true);
      expect((await session.evaluate(dataset)).loss).toBeLessThan(loss + 1);
      await session[Symbol.asyncDispose]();
      await expect(session.step({ learningRate: 1e-4 })).rejects.toThrow(/disposed of/);
      if (method === "qlora") await (await model.session({ rank: 2 }))[Symbol.asyncDispose]();
    }
  });

  it("takes integers beyond 2^53 as bigint in rows, and no conversation that is none", async () => {
    const template = place("calls.jinja");
    writeFileSync(
      template,
      "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endfor %}",
    );
    const talk = (id: unknown) => ({
      messages: [
        { role: "user", content: "Hi" },
        {
          role: "assistant",
          content: null,
          tool_calls: [{ type: "function", function: { name: "find", arguments: { id } } }],
        },
      ],
    });
    await using model = await open("tiny", device);
    await using session = await model.session({ rank: 2, chatTemplate: template });
    const exact = place("exact.jsonl");
    writeFileSync(exact, JSON.stringify(talk("ID")).replace('"ID"', "9007199254740993"));
    const idsOf = async (rows: string | object[]) => [...(await session.dataset(rows)).samples[0]!.ids];
    const given = await idsOf([talk(9007199254740993n)]);
    expect(given).toEqual(await idsOf(exact));
    expect(given).not.toEqual(await idsOf([talk(Number(9007199254740993n))]));
    await expect(model.chat([])).rejects.toThrow(UsageError);
    await expect(model.chat({ messages: [] } as never)).rejects.toThrow(/chat\(\): messages: expected/);
  });

  it("refuses rows that the chat template shows in part, and saves the template that it was given", async () => {
    const template = place("given.jinja");
    writeFileSync(
      template,
      "{% for m in messages %}{% if m.role != 'developer' %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    );
    const ask = { role: "user", content: "Hi" };
    const talk = { messages: [ask, { role: "assistant", content: "Hello." }] };
    const unseen = { messages: [{ role: "developer", content: "Be brief." }, ...talk.messages] };
    const model = await open("tiny", device);
    const session = await model.session({ rank: 2, chatTemplate: template });
    expect(() => [...session.batches([talk, unseen])]).toThrow(
      /rows row 2, message 1 \(developer\): its text "Be brief\."/,
    );
    expect([...session.batches([talk])]).toHaveLength(1);
    await session.save(place("with-template"));
    expect(readFileSync(join(place("with-template"), "chat_template.jinja"), "utf8")).toBe(
      readFileSync(template, "utf8"),
    );
    await session[Symbol.asyncDispose]();
    const lenient = await model.session({ rank: 2, chatTemplate: template, allow: ["dropped-content"] });
    expect([...lenient.batches([talk, unseen])]).toHaveLength(1);
    await model[Symbol.asyncDispose]();

    await using tuned = await open("tiny", { ...device, adapter: place("with-template") });
    const [own, given] = [
      await tuned.evaluate([talk]),
      await tuned.evaluate([talk], { chatTemplate: template }),
    ];
    expect(own.loss).toBe(given.loss);
    const few = { maxNewTokens: 1 };
    expect((await tuned.chat([{ role: "developer", content: "Be brief." }, ask], few)).promptTokens).toBe(
      (await tuned.chat([{ role: "system", content: "Be brief." }, ask], few)).promptTokens,
    );
    await expect(tuned.chat([ask], { tools: [{ function: { name: "f" } }], ...few })).rejects.toThrow(
      /leaves out the tool "f"/,
    );
  });
});

it("compare() measures what QLoRA trained on the base that it was trained on", async () => {
  const out = place("compared");
  const input = { methods: ["qlora"], maxSteps: 2, gridRuns: 1, batchSize: 2, ...device } as const;
  const compared = await compare({
    ...{ ...input, model: "tiny", data: rows, evalData: held, out, quantType: "int4", validation: 0.2 },
  });
  const row = compared.rows.find(({ method }) => method === "qlora")!;
  await using model = await open("tiny", {
    ...device,
    method: "qlora",
    quantType: "int4",
    adapter: row.folder,
  });
  expect(row.scores.perplexity).toBe((await model.evaluate(held)).perplexity);
});
