// Answers of /v1/completions: OpenAI's shapes, with the prompt told again (`echo`) and its own tokens' log-probabilities as
// vLLM tells of them, which is what lm-evaluation-harness scores by. Several choices of a prompt share its numbers.

import { type Answering, finishAnswer, heading, run } from "./answering.ts";
import type { Job, TokenReport } from "./jobs.ts";
import { LazyList } from "./json-pieces.ts";
import type { PreparedCompletion } from "./preparing.ts";
import { finite, PromptTable, type Spelling } from "./prompt-table.ts";
import { newTokensOf, promptLogprobsOf, samplingOf, stopsOf, usualNewTokens } from "./requests.ts";

export async function answerCompletion(prepared: PreparedCompletion, answering: Answering): Promise<unknown> {
  const { send, maxTokens } = answering;
  const { settings: body, adapter, prompts, texts } = prepared;
  const head = heading("cmpl", body, "text_completion");
  const n = body.n ?? 1;
  const count = promptLogprobsOf(body);
  const tables = count === undefined ? [] : prompts.map((ids) => new PromptTable(ids.length));
  const spelling: Spelling = body.return_tokens_as_token_ids
    ? ({ id }) => `token_id:${id}`
    : ({ token }) => token;
  const choices = await Promise.all(
    Array.from({ length: prompts.length * n }, async (_, index) => {
      const place = Math.floor(index / n);
      const table = tables[place];
      const echoed = body.echo ? (texts[place] ?? "") : "";
      const reported = new CompletionLogprobs(
        typeof body.logprobs === "number",
        body.logprobs ?? 0,
        spelling,
      );
      const chunk = (text: string, finish: string | null, logprobs: unknown) =>
        send?.({ ...head, choices: [{ index, text, logprobs, finish_reason: finish }] });
      let text = echoed;
      // Chunks wait for the prompt's, whose numbers may come with another choice.
      let sent: Promise<void> | undefined;
      if (send && body.echo) {
        sent = (table?.whole ?? Promise.resolve()).then(() =>
          chunk(echoed, null, reported.lists(reported.add(table))),
        );
      }
      const tell = (piece: string, finish: string | null, tokens: readonly TokenReport[]) => {
        if (!sent) chunk(piece, finish, reported.lists(reported.add(undefined, tokens)));
        else sent = sent.then(() => chunk(piece, finish, reported.lists(reported.add(undefined, tokens))));
      };
      const drawn: TokenReport[] = [];
      const job: Job = {
        adapter,
        promptIds: prompts[place]!,
        maxNewTokens: newTokensOf(body, maxTokens) ?? Math.min(usualNewTokens, maxTokens),
        mostNewTokens: answering.maxTokens,
        sampling: samplingOf(body, index % n),
        stop: stopsOf(body),
        logprobs: body.logprobs ?? undefined,
        tellStop: body.echo === true,
        promptLogprobs: index % n === 0 ? count : undefined,
      };
      const running = run(answering, job, (piece) => {
        if (piece.prompt) {
          table?.add(piece.prompt);
          return;
        }
        text += piece.text;
        if (send) tell(piece.text, null, piece.tokens);
        else drawn.push(...piece.tokens);
      });
      const result = await (index % n === 0 ? running.finally(() => table?.finish()) : running);
      if (send) {
        tell("", result.finishReason, []);
        await sent;
        return { result, choice: {} };
      }
      await table?.whole;
      const choice = {
        index,
        text,
        logprobs: reported.lists(reported.add(body.echo ? table : undefined, drawn)),
        finish_reason: result.finishReason,
        ...rankedLists(table, body.prompt_logprobs),
      };
      return { result, choice };
    }),
  );
  return finishAnswer(head, choices, body, send, n);
}

/** vLLM's: only where it was asked for. */
function rankedLists(table: PromptTable | undefined, count: number | null | undefined): object {
  if (!table || count === undefined || count === null) return {};
  return { prompt_logprobs: new LazyList(table.length, (i) => table.ranked(i, count)) };
}

/** Tokens as completions tell of them, and where each begins in the text of all. */
class CompletionLogprobs {
  private end = 0;

  constructor(
    private readonly wanted: boolean,
    private readonly count: number,
    private readonly spelling: Spelling,
  ) {}

  /** The prompt's tokens, where there is a table, and those drawn after it. */
  add(table: PromptTable | undefined, drawn: readonly TokenReport[] = []): LogprobLists | undefined {
    if (!this.wanted) return undefined;
    const before = table?.length ?? 0;
    const report = (i: number) => (i < before ? table!.report(i, this.count) : drawn[i - before]);
    const token = (i: number) => this.spelling(i < before ? table!.token(i) : drawn[i - before]!);
    const length = before + drawn.length;
    const offsets = new Int32Array(length);
    for (let i = 0; i < length; i++) {
      offsets[i] = this.end;
      this.end += token(i).length;
    }
    return { length, report, token, offsets };
  }

  lists(told: LogprobLists | undefined): object | null {
    if (!told) return null;
    const { length, report, token, offsets } = told;
    const list = (at: (i: number) => unknown) => new LazyList(length, at);
    const logprob = (i: number) => {
      const found = report(i);
      return found ? finite(found.logprob) : null;
    };
    return {
      tokens: list(token),
      token_logprobs: list(logprob),
      top_logprobs: list((i) => this.top(report(i))),
      text_offset: list((i) => offsets[i]),
    };
  }

  /**
   * The likeliest tokens by their spelling, and the token itself if it is none of them. Of tokens that are spelt alike, such
   * as pieces of characters, the likeliest counts.
   */
  private top(report: TokenReport | undefined): object | null {
    if (!report) return null;
    const found = new Map<string, number>();
    for (const each of [...report.top, report]) {
      const key = this.spelling(each);
      if (!found.has(key)) found.set(key, finite(each.logprob));
    }
    return Object.fromEntries(found);
  }
}

interface LogprobLists {
  readonly length: number;
  /** Undefined of a prompt's first token. */
  readonly report: (index: number) => TokenReport | undefined;
  readonly token: (index: number) => string;
  readonly offsets: Int32Array;
}
