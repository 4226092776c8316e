// Answers in OpenAI's shapes: whole ones, and streams of chunks. Each takes pieces of text from the engine and sends
// objects; HTTP is server.ts's affair. Shapes: platform.openai.com/docs/api-reference.

import { randomBytes } from "node:crypto";
import type { EngineThread } from "./engine-thread.ts";
import type { Job, JobResult, Piece, TokenReport } from "./jobs.ts";
import {
  type ChatBody,
  type CompletionBody,
  chatPrompt,
  completionPrompts,
  RequestError,
  samplingOf,
  stopsOf,
} from "./requests.ts";
import { type ToolCall, ToolCallGate } from "./tool-calls.ts";

export interface Answering {
  readonly engine: EngineThread;
  /** Undefined for the base. */
  readonly adapter: string | undefined;
  readonly signal: AbortSignal;
  /** Most new tokens of a choice. */
  readonly maxTokens: number;
  /** Told of every piece and every end, for metrics. */
  readonly onPiece: () => void;
  readonly onDone: (result: JobResult) => void;
  /** Present for a stream: sends one chunk. */
  readonly send?: (chunk: unknown) => void;
}

/** Most choices of one request, prompts times n. */
const mostChoices = 64;

export async function answerChat(body: ChatBody, answering: Answering): Promise<unknown> {
  const { engine, send } = answering;
  if (!engine.facts.hasChatTemplate) {
    throw new RequestError(
      "this model has no chat template, so it takes no messages; use /v1/completions, or start the server with --chat-template",
      "messages",
    );
  }
  const prompt = chatPrompt(body);
  if (prompt.tools && !engine.facts.takesTools)
    throw new RequestError("this model's chat template shows the model no tools", "tools");
  const head = heading("chatcmpl", body, send ? "chat.completion.chunk" : "chat.completion");
  const wanted = body.max_completion_tokens ?? body.max_tokens ?? undefined;
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
      const tokens: TokenReport[] = [];
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
      const gate = prompt.tools ? new ToolCallGate(emit) : undefined;
      const job: Job = {
        adapter: answering.adapter,
        prompt,
        maxNewTokens: limit(wanted, answering.maxTokens),
        mostNewTokens: answering.maxTokens,
        sampling: samplingOf(body, index),
        stop: stopsOf(body),
        logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
      };
      const result = await run(answering, job, (piece) => {
        tokens.push(...piece.tokens);
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
          logprobs: body.logprobs ? { content: tokens.map(chatToken), refusal: null } : null,
          finish_reason: finish,
        },
      };
    }),
  );
  return finishAnswer(head, choices, body, send);
}

export async function answerCompletion(body: CompletionBody, answering: Answering): Promise<unknown> {
  const { send } = answering;
  const head = heading("cmpl", body, "text_completion");
  const prompts = completionPrompts(body);
  const n = body.n ?? 1;
  if (prompts.length * n > mostChoices)
    throw new RequestError(`${prompts.length} prompts with n ${n} are more than ${mostChoices} choices`, "n");
  // OpenAI's default for this endpoint.
  const wanted = body.max_tokens ?? 16;
  const choices = await Promise.all(
    Array.from({ length: prompts.length * n }, async (_, index) => {
      const wantsLogprobs = typeof body.logprobs === "number";
      let offset = 0;
      const report = (tokens: readonly TokenReport[]) => {
        if (!wantsLogprobs) return null;
        const offsets = tokens.map(({ token }) => {
          const start = offset;
          offset += token.length;
          return start;
        });
        return {
          tokens: tokens.map(({ token }) => token),
          token_logprobs: tokens.map(({ logprob }) => logprob),
          top_logprobs: tokens.map(({ top }) =>
            Object.fromEntries(top.map((each) => [each.token, each.logprob])),
          ),
          text_offset: offsets,
        };
      };
      const chunk = (text: string, finish: string | null, tokens: readonly TokenReport[]) =>
        send?.({ ...head, choices: [{ index, text, logprobs: report(tokens), finish_reason: finish }] });
      let text = "";
      const tokens: TokenReport[] = [];
      const job: Job = {
        adapter: answering.adapter,
        prompt: prompts[Math.floor(index / n)]!,
        maxNewTokens: limit(wanted, answering.maxTokens),
        mostNewTokens: answering.maxTokens,
        sampling: samplingOf(body, index % n),
        stop: stopsOf(body),
        logprobs: body.logprobs ?? undefined,
      };
      const result = await run(answering, job, (piece) => {
        text += piece.text;
        tokens.push(...piece.tokens);
        chunk(piece.text, null, piece.tokens);
      });
      chunk("", result.finishReason, []);
      const logprobs = send ? null : report(tokens);
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
  body: ChatBody | CompletionBody,
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

/** What was asked for, which must be within the server's limit. */
function limit(wanted: number | undefined, most: number): number | undefined {
  if (wanted !== undefined && wanted > most)
    throw new RequestError(`max_tokens ${wanted} is above this server's limit of ${most}`, "max_tokens");
  return wanted;
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
