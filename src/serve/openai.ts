// Answers in OpenAI's shapes: whole ones, and streams of chunks. Each takes pieces of text from the engine and sends
// objects; HTTP is server.ts's affair. Chats are here, completions in completion.ts. Shapes:
// platform.openai.com/docs/api-reference.

import { randomBytes } from "node:crypto";
import { type Answering, finishAnswer, heading, run } from "./answering.ts";
import { answerCompletion } from "./completion.ts";
import type { Job, TokenReport } from "./jobs.ts";
import type { Prepared, PreparedChat } from "./preparing.ts";
import { newTokensOf, samplingOf, stopsOf } from "./requests.ts";
import { type ToolCall, ToolCallGate } from "./tool-calls.ts";

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

function chatToken({ token, logprob, top }: TokenReport) {
  const bytes = (text: string) => [...new TextEncoder().encode(text)];
  return {
    token,
    logprob,
    bytes: bytes(token),
    top_logprobs: top.map((each) => ({
      token: each.token,
      logprob: each.logprob,
      bytes: bytes(each.token),
    })),
  };
}

function toolCall(call: ToolCall) {
  return { id: `call_${randomBytes(12).toString("hex")}`, type: "function", function: call };
}
