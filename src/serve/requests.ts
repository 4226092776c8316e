// What clients may ask for: the bodies of OpenAI's chat and completion requests as far as we honour them. What would
// change the answer and is not supported is refused by name; unknown keys that change nothing pass. Shapes:
// platform.openai.com/docs/api-reference; top_k, min_p, repetition_penalty as vLLM names them.

import { z } from "zod";
import type { Sampling } from "../generate/sampler.ts";
import { UserError } from "../util/errors.ts";
import type { Job } from "./jobs.ts";

/** A request that cannot be honoured; `param` is the key at fault. */
export class RequestError extends UserError {
  constructor(
    message: string,
    readonly param: string | null = null,
    readonly status: 400 | 403 | 404 | 409 = 400,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

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

const chatBody = z.looseObject({
  ...sampling,
  messages: z.array(message).min(1).max(4096),
  max_completion_tokens: z
    .int()
    .min(1)
    .max(2 ** 24)
    .nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  tools: z
    .array(z.looseObject({ type: z.literal("function") }))
    .max(512)
    .nullish(),
  tool_choice: z.enum(["auto", "none"]).nullish(),
  response_format: z.looseObject({ type: z.literal("text") }).nullish(),
  chat_template_kwargs: z.record(z.string().max(64), z.unknown()).nullish(),
});

const ids = z
  .array(
    z
      .int()
      .min(0)
      .max(2 ** 31),
  )
  .min(1)
  .max(2 ** 22);
const completionBody = z.looseObject({
  ...sampling,
  prompt: z.union([text, ids, z.array(text).min(1).max(64), z.array(ids).min(1).max(64)]),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.literal(false).nullish(),
  best_of: z.literal(1).nullish(),
  suffix: z.union([z.literal(""), z.null()]).optional(),
});

export type ChatBody = z.infer<typeof chatBody>;
export type CompletionBody = z.infer<typeof completionBody>;

export const parseChat = (json: unknown): ChatBody => parse(chatBody, json);
export const parseCompletion = (json: unknown): CompletionBody => parse(completionBody, json);

function parse<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const param = issue.path.map(String).join(".") || null;
  throw new RequestError(`${param ?? "the body"}: ${issue.message}`, param);
}

type Body = ChatBody | CompletionBody;

/** What both kinds of request say about drawing tokens. `index` tells the choices of one request apart. */
export function samplingOf(body: Body, index: number): Sampling {
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

export function stopsOf({ stop: given }: Body): readonly string[] {
  if (given === null || given === undefined) return [];
  return typeof given === "string" ? [given] : given;
}

/** Content parts joined; everything else of a message goes to the template as it is. */
export function chatPrompt(body: ChatBody): Extract<Job["prompt"], { kind: "chat" }> {
  const messages = body.messages.map(({ content, ...rest }) => ({
    ...rest,
    content: Array.isArray(content) ? content.map((each) => each.text).join("") : (content ?? null),
  }));
  const tools = body.tools && body.tool_choice !== "none" ? body.tools : undefined;
  return { kind: "chat", messages, tools, variables: body.chat_template_kwargs ?? undefined };
}

export function completionPrompts({ prompt }: CompletionBody): Job["prompt"][] {
  if (typeof prompt === "string") return [{ kind: "text", text: prompt }];
  if (typeof prompt[0] === "number") return [{ kind: "ids", ids: prompt as number[] }];
  return (prompt as (string | number[])[]).map((each) =>
    typeof each === "string" ? { kind: "text", text: each } : { kind: "ids", ids: each },
  );
}
