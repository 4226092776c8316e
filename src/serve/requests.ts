// What clients may ask for: the bodies of OpenAI's chat and completion requests as far as we honour them. What would
// change the answer and is not supported is refused by name; unknown keys that change nothing pass. Shapes:
// platform.openai.com/docs/api-reference; top_k, min_p, repetition_penalty as vLLM names them.

import { z } from "zod";
import type { Sampling } from "../generate/sampler.ts";
import type { ChatMessage } from "../text/chat-template.ts";
import { recordOf } from "../text/exact-json.ts";
import { RequestError } from "./request-error.ts";

const text = z.string().max(2 ** 24);
const part = z.looseObject({ type: z.literal("text"), text });
const message = z.looseObject({
  role: z.string().min(1).max(64),
  content: z.union([text, z.array(part).max(4096), z.null()]).optional(),
});

const stop = z.union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(16), z.null()]);
const sampling = {
  model: z.string().min(1).max(256),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().optional() }).nullish(),
  temperature: z.number().min(0).max(10).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z
    .int()
    .min(-1)
    .max(2 ** 20)
    .nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(10).nullish(),
  seed: z
    .int()
    .min(-(2 ** 53))
    .max(2 ** 53)
    .nullish(),
  stop: stop.nullish(),
  n: z.int().min(1).max(16).nullish(),
  max_tokens: z
    .int()
    .min(1)
    .max(2 ** 24)
    .nullish(),
  // Of no effect at these values, and refused at others.
  frequency_penalty: z.literal(0).nullish(),
  presence_penalty: z.literal(0).nullish(),
  logit_bias: z.strictObject({}).nullish(),
};

const chatSettings = z.object({
  ...sampling,
  max_completion_tokens: z
    .int()
    .min(1)
    .max(2 ** 24)
    .nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
});
const chatBody = z.looseObject({
  ...chatSettings.shape,
  messages: z.array(message).min(1).max(4096),
  tools: z
    .array(z.looseObject({ type: z.literal("function") }))
    .max(512)
    .nullish(),
  tool_choice: z.enum(["auto", "none"]).nullish(),
  functions: z
    .array(z.looseObject({ name: z.string() }))
    .max(512)
    .nullish(),
  function_call: z.enum(["auto", "none"]).nullish(),
  response_format: z.looseObject({ type: z.literal("text") }).nullish(),
  // vLLM's: each would change what is answered.
  add_generation_prompt: z.literal(true).nullish(),
  continue_final_message: z.literal(false).nullish(),
  chat_template: z.null().optional(),
  echo: z.literal(false).nullish(),
  prompt_logprobs: z.null().optional(),
  chat_template_kwargs: z.record(z.string().max(64), z.unknown()).nullish(),
});

const ids = z
  .array(
    z
      .int()
      .min(0)
      .max(2 ** 31 - 1),
  )
  .min(1)
  .max(2 ** 22);
const completionSettings = z.object({
  ...sampling,
  /** None: the prompt alone is told of. */
  max_tokens: z
    .int()
    .min(0)
    .max(2 ** 24)
    .nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish(),
  // vLLM's.
  prompt_logprobs: z.int().min(0).max(20).nullish(),
  return_tokens_as_token_ids: z.boolean().nullish(),
});
const completionBody = z.looseObject({
  ...completionSettings.shape,
  prompt: z.union([text, ids, z.array(text).min(1).max(64), z.array(ids).min(1).max(64)]),
  best_of: z.literal(1).nullish(),
  suffix: z.union([z.literal(""), z.null()]).optional(),
  // vLLM's: whether a text begins with what its tokenizer puts before it.
  add_special_tokens: z.boolean().nullish(),
  truncate_prompt_tokens: z.null().optional(),
  return_token_ids: z.literal(false).nullish(),
});

export type ChatBody = z.infer<typeof chatBody>;
export type CompletionBody = z.infer<typeof completionBody>;
/** What is left of a body when its prompt has become token ids: how to answer. */
export type ChatSettings = z.infer<typeof chatSettings>;
export type CompletionSettings = z.infer<typeof completionSettings>;

export const parseChat = (json: unknown): ChatBody => parse(chatBody, json);
export function parseCompletion(json: unknown): CompletionBody {
  const body = parse(completionBody, json);
  const asksPrompt = body.prompt_logprobs !== undefined && body.prompt_logprobs !== null;
  if (asksPrompt && body.stream)
    throw new RequestError("prompt_logprobs are not streamed: leave out stream", "prompt_logprobs");
  if (body.max_tokens === 0 && !body.echo && !asksPrompt) {
    throw new RequestError(
      "max_tokens 0 asks for nothing: expected echo or prompt_logprobs beside it, or at least 1",
      "max_tokens",
    );
  }
  return body;
}
export const chatSettingsOf = (body: ChatBody): ChatSettings => chatSettings.parse(body);
export const completionSettingsOf = (body: CompletionBody): CompletionSettings =>
  completionSettings.parse(body);

function parse<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const param = issue.path.map(String).join(".") || null;
  throw new RequestError(`${param ?? "the body"}: ${issue.message}`, param);
}

type Settings = ChatSettings | CompletionSettings;

/** OpenAI's default for completions. */
export const usualNewTokens = 16;

/** New tokens asked for, if any. RequestError above the server's own limit. */
export function newTokensOf(settings: Settings, most: number): number | undefined {
  const wanted =
    "max_completion_tokens" in settings
      ? (settings.max_completion_tokens ?? settings.max_tokens ?? undefined)
      : (settings.max_tokens ?? undefined);
  if (wanted !== undefined && wanted > most)
    throw new RequestError(`max_tokens ${wanted} is above this server's limit of ${most}`, "max_tokens");
  return wanted;
}

/** Likeliest tokens wanted beside each of the prompt's own; undefined: these are not asked for. */
export function promptLogprobsOf(settings: CompletionSettings): number | undefined {
  const { echo, logprobs, prompt_logprobs: own } = settings;
  const asked = [echo ? logprobs : undefined, own].filter((count) => typeof count === "number");
  return asked.length === 0 ? undefined : Math.max(...asked);
}

/** What both kinds of request say about drawing tokens. `index` tells the choices of one request apart. */
export function samplingOf(body: Settings, index: number): Sampling {
  const seed = body.seed ?? Math.floor(Math.random() * 2 ** 32);
  return {
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    topK: Math.max(0, body.top_k ?? 0),
    minP: body.min_p ?? 0,
    repetitionPenalty: body.repetition_penalty ?? 1,
    seed: Math.abs(seed) + index,
  };
}

export function stopsOf({ stop: given }: Settings): readonly string[] {
  if (given === null || given === undefined) return [];
  return typeof given === "string" ? [given] : given;
}

/** A conversation for a template, and what goes with it. */
export interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly unknown[];
  readonly variables?: Readonly<Record<string, unknown>>;
}

/**
 * Content parts joined, and OpenAI's older functions as the tools that they became; everything else of a message goes to
 * the template as it is, in its order.
 */
export function chatOf(body: ChatBody): Chat {
  const messages = body.messages.map(chatMessage);
  const functions = body.functions?.map((described) => ({ type: "function", function: described }));
  const given = body.tools && body.tools.length > 0 ? body.tools : functions;
  const asked = body.tool_choice ?? body.function_call;
  const tools = given && asked !== "none" ? given : undefined;
  return { messages, tools, variables: body.chat_template_kwargs ?? undefined };
}

function chatMessage({ ...sent }: ChatBody["messages"][number], index: number): ChatMessage {
  const { content, refusal, function_call: call, tool_calls: calls } = sent;
  const text = Array.isArray(content) ? content.map((each) => each.text).join("") : (content ?? null);
  // A refusal is what the assistant said in place of an answer.
  const said = text === null && typeof refusal === "string" ? refusal : text;
  const message: Record<string, unknown> = { ...sent, content: said };
  if (message.role === "function") message.role = "tool";
  if (call === undefined || call === null) return message as ChatMessage;
  const param = `messages.${index}.function_call`;
  const { name, arguments: given } = recordOf(call) ?? {};
  if (typeof name !== "string") throw new RequestError(`${param}: expected "name" and "arguments"`, param);
  if (Array.isArray(calls) && calls.length > 0)
    throw new RequestError(`${param}: the message has "tool_calls" too; expected one of them`, param);
  delete message.function_call;
  message.tool_calls = [{ type: "function", function: { name, arguments: given ?? {} } }];
  return message as ChatMessage;
}

/** The prompts of a completion: each a text or token ids. */
export function promptsOf({ prompt }: CompletionBody): readonly (string | readonly number[])[] {
  if (typeof prompt === "string") return [prompt];
  return (typeof prompt[0] === "number" ? [prompt] : prompt) as (string | number[])[];
}
