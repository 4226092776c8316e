// Scoring over HTTP as lm-evaluation-harness does it: its requests as its `local-completions` model sends them, its way of
// reading the answers, against the model's own numbers; and the guards that hold for these requests, too.

import { describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openModel } from "../../src/models/open-model.ts";
import { tokenLogits } from "../../src/models/token-logits.ts";
import { backendName, engine, limits, model, names, post, preparers, startServer } from "./served.ts";

interface Logprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
}
interface Choice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: Logprobs | null;
  readonly finish_reason: string;
  readonly prompt_logprobs?: (Record<
    string,
    { logprob: number; rank: number; decoded_token: string }
  > | null)[];
}
interface Answer {
  readonly choices: Choice[];
  readonly usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

/** Over HTTP, in fp32. */
const tolerance = 1e-4;

/** What the harness sends for a batch of log-likelihoods; its log says so (0.4.13). */
const scoringRequest = (prompt: unknown, more: object = {}) => ({
  model: "base",
  prompt,
  temperature: 0,
  max_tokens: 1,
  logprobs: 1,
  seed: 1234,
  echo: true,
  ...more,
});

async function complete(body: object): Promise<Answer> {
  const response = await post("/v1/completions", JSON.stringify(body));
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as Answer;
}

/** How the harness reads a choice: the log-likelihood behind the context, and whether it is the likeliest text. */
function readScore({ logprobs }: Choice, contextTokens: number): [number, boolean] {
  const own = logprobs!.token_logprobs.slice(contextTokens, -1) as number[];
  const top = logprobs!.top_logprobs.slice(contextTokens, -1);
  const greedy = own.every((logprob, i) => logprob === Math.max(...Object.values(top[i]!)));
  return [own.reduce((sum, logprob) => sum + logprob, 0), greedy];
}

/** The same from the model's own logits. */
async function trueScores(
  name: (typeof names)[number],
  rows: readonly { context: number[]; continuation: number[] }[],
): Promise<[number, boolean][]> {
  const backend = await openBackend(backendName, { precision: "fp32", threads: 1 });
  const adapter = name === "base" ? undefined : limits.adapters[name];
  const opened = await openModel(backend, model, { adapter });
  const width = opened.config.vocabularySize;
  const scores: [number, boolean][] = [];
  for (const { context, continuation } of rows) {
    const ids = [...context, ...continuation];
    const logits = await tokenLogits(opened.loaded.decoder, ids);
    let [sum, greedy] = [0, true];
    for (const [i, id] of continuation.entries()) {
      const at = context.length + i - 1;
      const row = logits.subarray(at * width, (at + 1) * width);
      const largest = Math.max(...row);
      greedy &&= row[id] === largest;
      sum += row[id]! - largest - Math.log(row.reduce((all, value) => all + Math.exp(value - largest), 0));
    }
    scores.push([sum, greedy]);
  }
  await opened.close();
  backend.close();
  return scores;
}

/** Ids of the byte tokenizer: 3 specials, then bytes. */
const idsOf = (text: string) => [...text].map((letter) => 3 + letter.charCodeAt(0));
const rows = [
  { context: [0, ...idsOf("The")], continuation: idsOf("cat") },
  { context: [0, ...idsOf("The")], continuation: idsOf("dog!sat") },
  { context: [0], continuation: idsOf("A") },
  { context: [0, ...idsOf("x".repeat(90))], continuation: idsOf("yz") },
];
const promptOf = ({ context, continuation }: (typeof rows)[number]) => [...context, ...continuation];

describe("lm-evaluation-harness", () => {
  it.each(names)("scores a batch of token ids on %s as the model does", async (name) => {
    const { choices, usage } = await complete(scoringRequest(rows.map(promptOf), { model: name }));
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    const expected = await trueScores(name, rows);
    for (const [i, choice] of choices.entries()) {
      const [score, greedy] = readScore(choice, rows[i]!.context.length);
      expect(Math.abs(score - expected[i]![0])).toBeLessThan(tolerance);
      expect(greedy).toBe(expected[i]![1]);
      const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs!;
      // The prompt's tokens and the one that was drawn.
      for (const list of [tokens, token_logprobs, top_logprobs, text_offset])
        expect(list).toHaveLength(promptOf(rows[i]!).length + 1);
      expect([token_logprobs[0], top_logprobs[0], text_offset[0]]).toEqual([null, null, 0]);
      expect(text_offset[2]).toBe(tokens.slice(0, 2).join("").length);
      expect(choice.text.startsWith("<s>")).toBe(true);
    }
    expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens);
    expect(usage.prompt_tokens).toBe(rows.reduce((sum, row) => sum + promptOf(row).length, 0));
  });

  it("gets the same numbers one at a time, in a crowd and as a text", async () => {
    const whole = await complete(scoringRequest(rows.map(promptOf)));
    const single = async (row: (typeof rows)[number]) =>
      (await complete(scoringRequest([promptOf(row)]))).choices[0]!.logprobs;
    const crowd = await Promise.all([...rows, ...rows].map(single));
    expect(crowd).toEqual([...whole.choices, ...whole.choices].map(({ logprobs }) => logprobs));
    expect(await single(rows[1]!)).toEqual(whole.choices[1]!.logprobs);
    // tokenized_requests=False: a text, which the tokenizer begins with <s>.
    const text = await complete(scoringRequest("Thecat"));
    expect(text.choices[0]!.logprobs).toEqual(whole.choices[0]!.logprobs);
    expect(text.choices[0]!.text.startsWith("Thecat")).toBe(true);
    const bare = await complete(scoringRequest("Thecat", { add_special_tokens: false }));
    expect(bare.choices[0]!.logprobs!.tokens).toHaveLength(7);
  });

  it("finds a drawn token behind every prompt, the end of the text included", async () => {
    // What a model says next is the token that the harness cuts off; prompts are tried until </s> is said to one.
    let ended = 0;
    for (let i = 0; i < 40 && ended === 0; i++) {
      const prompts = Array.from({ length: 32 }, (_, k) => [0, 3 + ((i * 32 + k * 7) % 250), 3 + k]);
      const { choices, usage } = await complete(scoringRequest(prompts));
      for (const { logprobs, finish_reason: why, text } of choices) {
        expect(logprobs!.tokens).toHaveLength(4);
        if (why !== "stop") continue;
        ended++;
        expect(logprobs!.tokens[3]).toBe("</s>");
        expect(text).not.toContain("</s>");
      }
      expect(usage.completion_tokens).toBe(32);
    }
    expect(ended).toBeGreaterThan(0);
  });

  it("generates as its generate_until asks", async () => {
    const { choices } = await complete({
      prompt: [promptOf(rows[0]!), promptOf(rows[1]!)],
      model: "base",
      max_tokens: 12,
      temperature: 0,
      stop: ["\n\n", "</s>"],
      seed: 1234,
    });
    const alone = await complete({ prompt: "Thecat", model: "base", max_tokens: 12, temperature: 0 });
    expect(choices).toHaveLength(2);
    expect(choices[0]!.text).toBe(alone.choices[0]!.text);
    expect(choices[0]!.logprobs).toBeNull();
  });
});

describe("echo and prompt_logprobs", () => {
  it("tell of the prompt alone with max_tokens 0", async () => {
    const { choices, usage } = await complete(
      scoringRequest("Thecat", { max_tokens: 0, n: 2, prompt_logprobs: 2, logprobs: 0 }),
    );
    expect(usage.completion_tokens).toBe(0);
    expect(choices[1]).toEqual({ ...choices[0], index: 1 });
    const [{ text, logprobs, prompt_logprobs: ranked, finish_reason: why }] = choices as [Choice];
    expect([text, why]).toEqual(["Thecat", "length"]);
    expect(logprobs!.tokens).toEqual(["<s>", ..."Thecat"]);
    expect(ranked).toHaveLength(7);
    expect(ranked![0]).toBeNull();
    for (const [i, id] of idsOf("Thecat").entries()) {
      const entry = ranked![i + 1]!;
      const own = entry[id]!;
      expect(own.logprob).toBe(logprobs!.token_logprobs[i + 1]);
      expect(own.decoded_token).toBe("Thecat"[i]);
      expect(own.rank).toBeGreaterThan(0);
      const ranks = Object.values(entry).map(({ rank }) => rank);
      expect(ranks.filter((rank) => rank <= 2).sort()).toEqual([1, 2]);
      expect(ranks).toHaveLength(own.rank <= 2 ? 2 : 3);
      // Asked for none beside it, the token itself is there.
      expect(logprobs!.top_logprobs[i + 1]).toEqual({ [own.decoded_token]: own.logprob });
    }
    const plain = await complete({ model: "base", prompt: "Thecat", max_tokens: 0, echo: true });
    expect(plain.choices[0]).toMatchObject({ text: "Thecat", logprobs: null });
  });

  it("spell tokens by their ids where asked to", async () => {
    const { choices } = await complete(scoringRequest("Thecat", { return_tokens_as_token_ids: true }));
    const { tokens, top_logprobs: top } = choices[0]!.logprobs!;
    expect(tokens.slice(0, 7)).toEqual([0, ...idsOf("Thecat")].map((id) => `token_id:${id}`));
    expect(Object.keys(top[1]!).every((key) => /^token_id:\d+$/.test(key))).toBe(true);
  });

  it("keep the likeliest of tokens that are spelt alike", async () => {
    // Bytes above 127 are pieces of characters: all of them read as one replacement character.
    const { choices } = await complete(scoringRequest([[0, 140, 180, 200, 210]], { logprobs: 20 }));
    const { tokens, token_logprobs: own, top_logprobs: top } = choices[0]!.logprobs!;
    for (let i = 1; i < 5; i++) expect(top[i]![tokens[i]!]!).toBeGreaterThanOrEqual(own[i]!);
  });

  it("are streamed before the answer, for every choice", async () => {
    const request = scoringRequest("Thecat", { n: 2, max_tokens: 4, seed: 5, temperature: 1 });
    const whole = await complete(request);
    const response = await post("/v1/completions", JSON.stringify({ ...request, stream: true }));
    const events = (await response.text()).split("\n\n").filter((line) => line !== "");
    expect(events.at(-1)).toBe("data: [DONE]");
    const chunks = events.slice(0, -1).flatMap((line) => (JSON.parse(line.slice(6)) as Answer).choices);
    for (const { index, text, logprobs, finish_reason } of whole.choices) {
      const own = chunks.filter((chunk) => chunk.index === index);
      expect(own[0]!.text).toBe("Thecat");
      expect(own.map((chunk) => chunk.text).join("")).toBe(text);
      expect(own.at(-1)!.finish_reason).toBe(finish_reason);
      for (const key of ["tokens", "token_logprobs", "top_logprobs", "text_offset"] as const)
        expect(own.flatMap((chunk) => chunk.logprobs![key] as unknown[])).toEqual(logprobs![key]);
    }
  });
});

describe("the server's guards", () => {
  /** As much as a request may hold. */
  const many = Array.from({ length: 32 }, (_, i) =>
    Array.from({ length: 120 }, (_, k) => 3 + ((i + k) % 250)),
  );

  it("refuse what would be too much to tell, by name", async () => {
    const status = async (body: object) => {
      const response = await post("/v1/completions", JSON.stringify(body));
      return [response.status, ((await response.json()) as { error: { message: string } }).error.message];
    };
    const long = Array.from({ length: 128 }, (_, i) => 3 + i);
    const single = Array.from({ length: 40 }, () => [5]);
    expect(await status(scoringRequest([long]))).toEqual([400, expect.stringContaining("does not fit")]);
    expect(
      (await complete(scoringRequest([long], { max_tokens: 0 }))).choices[0]!.logprobs!.tokens.length,
    ).toBe(128);
    expect(await status(scoringRequest(single, { n: 2 }))).toEqual([400, expect.stringContaining("choices")]);
    expect(await status(scoringRequest([[3, 100_000]]))).toEqual([400, expect.stringContaining("100000")]);
    expect(await status(scoringRequest([[]]))).toEqual([400, expect.anything()]);
    expect(await status(scoringRequest("x", { max_tokens: 0, echo: false }))).toEqual([
      400,
      expect.stringContaining("max_tokens 0"),
    ]);
  });

  /** The same threads behind another door, for larger bodies. */
  const open = (more: object) =>
    startServer({ engine, preparers }, { ...limits, adapters: {}, maxBodyBytes: 100_000, ...more });
  const ask = (url: string, signal?: AbortSignal) =>
    fetch(`${url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify(scoringRequest(many, { logprobs: 20 })),
      headers: { "Content-Type": "application/json" },
      signal,
    });

  it("end a scoring request with its client, and give its slots back", async () => {
    const door = await open({});
    const gone = new AbortController();
    const asking = ask(door.url, gone.signal).catch(() => "gone");
    while (door.inFlight === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    gone.abort();
    expect(await asking).toBe("gone");
    while (door.inFlight > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect((await complete(scoringRequest([promptOf(rows[0]!)]))).choices).toHaveLength(1);
    await door.close(1000);
  });

  it("end one that takes longer than it may", async () => {
    const door = await open({ timeoutSeconds: 0.005 });
    expect((await ask(door.url)).status).toBe(504);
    await door.close(1000);
  });
});
