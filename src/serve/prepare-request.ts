// From the bytes of a request's body to the token ids that the engine continues: JSON, what it may say, the template's
// text, its tokens; each step bounded before it is done. Runs on a preparing thread (preparer.ts) and touches nothing.

import { beginText } from "../data/render.ts";
import type { ChatTemplate } from "../text/chat-template.ts";
import { renderRequest } from "../text/render-request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Prepared, RequestLimits } from "./preparing.ts";
import { parseBody } from "./request-body.ts";
import { RequestError } from "./request-error.ts";
import {
  type ChatBody,
  type CompletionBody,
  chatOf,
  chatSettingsOf,
  completionSettingsOf,
  newTokensOf,
  parseChat,
  parseCompletion,
  promptLogprobsOf,
  promptsOf,
  usualNewTokens,
} from "./requests.ts";

/** How a model is spoken to: an adapter's may be its own. */
export interface Voice {
  readonly tokenizer: Tokenizer;
  readonly template?: ChatTemplate;
}

export interface Preparation {
  /** By a request's "model": the adapter's name, or undefined for the base, and its voice. */
  readonly find: (model: string) => Promise<{ readonly adapter: string | undefined; readonly voice: Voice }>;
  readonly limits: RequestLimits;
  /** Throws once nobody waits for the request any more. */
  readonly check: () => void;
}

/** Most choices of one request, prompts times n. */
const mostChoices = 64;
/** Most numbers that are told of a request's prompts: 64 prompts of 4096 tokens, each with three likeliest ones. */
const mostPromptNumbers = 2 ** 20;

/** UserError for whatever is wrong with the request. */
export async function prepareRequest(
  route: Prepared["route"],
  body: Uint8Array,
  preparation: Preparation,
): Promise<Prepared> {
  preparation.check();
  const json = parseBody(body);
  preparation.check();
  return route === "chat"
    ? prepareChat(parseChat(json), preparation)
    : prepareCompletion(parseCompletion(json), preparation);
}

async function prepareChat(body: ChatBody, { find, limits, check }: Preparation): Promise<Prepared> {
  const settings = chatSettingsOf(body);
  const { adapter, voice } = await find(body.model);
  const newTokens = newTokensOf(settings, limits.maxTokens);
  const { template, tokenizer } = voice;
  if (!template) {
    throw new RequestError(
      "this model has no chat template, so it takes no messages; use /v1/completions, or start the server with --chat-template",
      "messages",
    );
  }
  const { messages, tools, variables } = chatOf(body);
  const text = renderRequest(template, messages, { tools, variables });
  check();
  holdText(tokenizer, text, limits.context);
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  holdIds(ids.length, newTokens ?? 1, limits.context);
  return {
    route: "chat",
    adapter,
    prompts: [Int32Array.from(ids)],
    settings,
    toolsShown: tools !== undefined,
  };
}

async function prepareCompletion(
  body: CompletionBody,
  { find, limits, check }: Preparation,
): Promise<Prepared> {
  const settings = completionSettingsOf(body);
  const { adapter, voice } = await find(body.model);
  const newTokens = newTokensOf(settings, limits.maxTokens) ?? Math.min(usualNewTokens, limits.maxTokens);
  const { tokenizer } = voice;
  const given = promptsOf(body);
  const n = settings.n ?? 1;
  if (given.length * n > mostChoices)
    throw new RequestError(`${given.length} prompts with n ${n} are more than ${mostChoices} choices`, "n");
  const begin = (text: string) =>
    body.add_special_tokens === false
      ? tokenizer.encode(text, { addSpecialTokens: false })
      : beginText(tokenizer, text);
  const prompts: Int32Array[] = [];
  const texts: string[] = [];
  for (const prompt of given) {
    check();
    if (typeof prompt === "string") holdText(tokenizer, prompt, limits.context);
    else holdIds(prompt.length, newTokens, limits.context);
    const ids = typeof prompt === "string" ? begin(prompt) : prompt;
    holdIds(ids.length, newTokens, limits.context);
    prompts.push(Int32Array.from(ids));
    if (!settings.echo) continue;
    texts.push(typeof prompt === "string" ? prompt : tokenizer.decode(prompt, { skipSpecialTokens: false }));
  }
  const told = promptLogprobsOf(settings);
  const tokens = prompts.reduce((sum, ids) => sum + ids.length, 0);
  const promptNumbers = told === undefined ? 0 : tokens * (1 + told);
  if (promptNumbers > mostPromptNumbers) {
    throw new RequestError(
      `prompts of ${tokens} tokens with ${told} likeliest ones each make ${promptNumbers} log-probabilities, more than ${mostPromptNumbers}; send fewer prompts at a time, or ask for fewer`,
      "logprobs",
    );
  }
  return { route: "completion", adapter, prompts, settings, texts, promptNumbers };
}

/** Before its tokens are made: refuses a text that cannot fit whatever they are. */
function holdText(tokenizer: Tokenizer, text: string, context: number): void {
  const fewest = tokenizer.fewestTokens(text);
  if (fewest <= context) return;
  throw tooLong(
    `the prompt of ${text.length} characters has ${fewest} tokens at least, which do not fit the context of ${context} tokens`,
  );
}

function holdIds(count: number, newTokens: number, context: number): void {
  if (count + newTokens <= context) return;
  throw tooLong(
    `the prompt has ${count} tokens; with ${newTokens} new ones it does not fit the context of ${context} tokens`,
  );
}

function tooLong(message: string): RequestError {
  return new RequestError(message, null, 400, "context_length_exceeded");
}
