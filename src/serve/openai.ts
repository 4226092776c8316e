// Answers in OpenAI's shapes: whole ones, and streams of chunks. Each takes pieces of text from the engine and sends
// objects; HTTP is server.ts's affair. Shapes: platform.openai.com/docs/api-reference.

import { randomBytes } from "node:crypto";
import type { EngineThread } from "./engine-thread.ts";
import type { Job, JobResult, Piece, TokenReport } from "./jobs.ts";
import type { Prepared, PreparedChat, PreparedCompletion } from "./preparing.ts";
import {
  type ChatSettings,
  type CompletionSettings,
  newTokensOf,
  samplingOf,
  stopsOf,
  usualNewTokens,
} from "./requests.ts";
import { type ToolCall, ToolCallGate } from "./tool-calls.ts";

export interface Answering {
  readonly engine: EngineThread;
  readonly signal: AbortSignal;
  /** Most new tokens of a choice. */
  readonly maxTokens: number;
  /** Told of every piece and every end, for metrics. */
  readonly onPiece: () => void;
  readonly onDone: (result: JobResult) => void;
  /** Present for a stream: sends one chunk. */
  readonly send?: (chunk: unknown) => void;
}

/** The whole answer; with `send`, told in chunks while it comes. */
export function answer(prepared: Prepared, answering: Answering): Promise<unknown> {
  return prepared.route === "chat" ? answerChat(prepared, answering) : answerCompletion(prepared, answering);
}

async function answerChat(prepared: PreparedChat, answering: Answering): Promise<unknown> {
  const { send } = answering;
  const { settings: body, adapter, toolsShown } = prepared;
  const head = heading("chatcmpl", body, send ? "chat.completion.chunk" : "chat.completion");
  const choices = await Promise.all(
    Array.from({ length: body.n ?? 1 }, async (_, index) => {
      const delta = (value: object, finish: string | null = null, tokens: readonly TokenReport[] = []) =>
        send?.({
          ...head,
          choices: [
            {
              index,
              delta: value,
              logprobs: body.logprobs ? { content: tokens.map(chatToken) } : null,
              finish_reason: finish,
            },
          ],
        });
      let content = "";
      const reported: ReturnType<typeof chatToken>[] = [];
      let unsent: TokenReport[] = [];
      let opened = false;
      // Not before the engine has taken the request: until then a mistake is told by the status.
      const open = () => {
        if (!opened) delta({ role: "assistant", content: "" });
        opened = true;
      };
      const emit = (text: string) => {
        open();
        content += text;
        delta({ content: text }, null, unsent);
        unsent = [];
      };
      const gate = toolsShown ? new ToolCallGate(emit) : undefined;
      const job: Job = {
        adapter,
        promptIds: prepared.prompts[0]!,
        maxNewTokens: newTokensOf(body, answering.maxTokens),
        mostNewTokens: answering.maxTokens,
        sampling: samplingOf(body, index),
        stop: stopsOf(body),
        logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
      };
      const result = await run(answering, job, (piece) => {
        if (!send) reported.push(...piece.tokens.map(chatToken));
        unsent.push(...piece.tokens);
        if (gate) gate.push(piece.text);
        else if (piece.text !== "" || piece.tokens.length > 0) emit(piece.text);
      });
      open();
      const calls = (gate?.finish() ?? []).map(toolCall);
      if (calls.length > 0) delta({ tool_calls: calls.map((call, i) => ({ index: i, ...call })) });
      const finish = calls.length > 0 ? "tool_calls" : result.finishReason;
      delta({}, finish, unsent);
      return {
        result,
        choice: {
          index,
          message: {
            role: "assistant",
            content: calls.length > 0 && content === "" ? null : content,
            refusal: null,
            ...(calls.length > 0 ? { tool_calls: calls } : {}),
          },
          logprobs: body.logprobs ? { content: reported, refusal: null } : null,
          finish_reason: finish,
        },
      };
    }),
  );
  return finishAnswer(head, choices, body, send);
}

async function answerCompletion(prepared: PreparedCompletion, answering: Answering): Promise<unknown> {
  const { send, maxTokens } = answering;
  const { settings: body, adapter, prompts } = prepared;
  const head = heading("cmpl", body, "text_completion");
  const n = body.n ?? 1;
  const choices = await Promise.all(
    Array.from({ length: prompts.length * n }, async (_, index) => {
      const wantsLogprobs = typeof body.logprobs === "number";
      let offset = 0;
      const report = (tokens: readonly TokenReport[]) => {
        if (!wantsLogprobs) return null;
        const told = completionTokens(tokens, offset);
        for (const { token } of tokens) offset += token.length;
        return told;
      };
      const chunk = (text: string, finish: string | null, tokens: readonly TokenReport[]) =>
        send?.({ ...head, choices: [{ index, text, logprobs: report(tokens), finish_reason: finish }] });
      let text = "";
      const reported = completionTokens([], 0);
      const job: Job = {
        adapter,
        promptIds: prompts[Math.floor(index / n)]!,
        maxNewTokens: newTokensOf(body, maxTokens) ?? Math.min(usualNewTokens, maxTokens),
        mostNewTokens: answering.maxTokens,
        sampling: samplingOf(body, index % n),
        stop: stopsOf(body),
        logprobs: body.logprobs ?? undefined,
      };
      const result = await run(answering, job, (piece) => {
        text += piece.text;
        if (send) chunk(piece.text, null, piece.tokens);
        else append(reported, report(piece.tokens));
      });
      chunk("", result.finishReason, []);
      const logprobs = wantsLogprobs ? reported : null;
      return { result, choice: { index, text, logprobs, finish_reason: result.finishReason } };
    }),
  );
  return finishAnswer(head, choices, body, send, n);
}

async function run(answering: Answering, job: Job, onPiece: (piece: Piece) => void): Promise<JobResult> {
  const told = (piece: Piece) => {
    answering.onPiece();
    onPiece(piece);
  };
  const result = await answering.engine.run(job, told, answering.signal);
  answering.onDone(result);
  return result;
}

function heading(prefix: string, body: { readonly model: string }, object: string) {
  const id = `${prefix}-${randomBytes(12).toString("hex")}`;
  return { id, object, created: Math.floor(Date.now() / 1000), model: body.model };
}

function finishAnswer(
  head: object,
  choices: readonly { readonly result: JobResult; readonly choice: object }[],
  body: ChatSettings | CompletionSettings,
  send: Answering["send"],
  /** Choices that share a prompt, which is counted once. */
  share = choices.length,
): unknown {
  const prompt = choices.reduce((sum, { result }, i) => sum + (i % share === 0 ? result.promptTokens : 0), 0);
  const completion = choices.reduce((sum, { result }) => sum + result.completionTokens, 0);
  const usage = { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
  if (send && body.stream_options?.include_usage) send({ ...head, choices: [], usage });
  return { ...head, choices: choices.map(({ choice }) => choice), usage };
}

/** Tokens as completions tell of them; `offset` is where the first begins in the text. */
function completionTokens(tokens: readonly TokenReport[], offset: number) {
  let end = offset;
  return {
    tokens: tokens.map(({ token }) => token),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top }) => Object.fromEntries(top.map((each) => [each.token, each.logprob]))),
    text_offset: tokens.map(({ token }) => {
      const start = end;
      end += token.length;
      return start;
    }),
  };
}

function append<T extends ReturnType<typeof completionTokens>>(to: T, more: T | null): void {
  if (!more) return;
  to.tokens.push(...more.tokens);
  to.token_logprobs.push(...more.token_logprobs);
  to.top_logprobs.push(...more.top_logprobs);
  to.text_offset.push(...more.text_offset);
}

function chatToken({ token, logprob, top }: TokenReport) {
  const bytes = (text: string) => [...new TextEncoder().encode(text)];
  return {
    token,
    logprob,
    bytes: bytes(token),
    top_logprobs: top.map((each) => ({ ...each, bytes: bytes(each.token) })),
  };
}

function toolCall(call: ToolCall) {
  return { id: `call_${randomBytes(12).toString("hex")}`, type: "function", function: call };
}
