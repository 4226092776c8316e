// Examples to token ids with their loss mask. {prompt, completion} are joined as they are and tokenised apart, the
// way generation will see the prompt; conversations go through the chat template, and what the assistant says is
// found in the rendered text (text/chat-template.ts). renderPrompt gives evaluation the same prompts. Runs in a
// browser; reading files and the cache are in dataset.node.ts.

import { builtinTemplates } from "../text/builtin-templates.ts";
import type { ChatMessage, ChatOptions, ChatSegment, ChatTemplate } from "../text/chat-template.ts";
import { describeDropped } from "../text/render-request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { alpacaMessages, alpacaPrompt } from "./alpaca.ts";
import { turnsWithLoss } from "./loss-marks.ts";
import type { Example, LearntExample, RowId } from "./row.ts";

/**
 * What the loss is on. completions: the completion, or the last turn of a conversation; assistant: every turn of the
 * assistant (and completions); all: every token. Undefined: assistant for conversations, completions for the rest.
 * {"text"} rows are always learnt whole.
 */
export type TrainOn = "completions" | "assistant" | "all";

export interface Rendering {
  readonly tokenizer: Tokenizer;
  readonly template?: ChatTemplate;
  readonly trainOn?: TrainOn;
  /** The day that templates with strftime_now() are told; fixed, so that a run can be repeated later. */
  readonly date?: Date;
}

/** One training sequence. */
export interface Sample {
  readonly ids: Int32Array;
  /** targetMask[i] = 1: token i is a target, predicted from the tokens before it. Token 0 never is. */
  readonly targetMask: Uint8Array;
  readonly rowId: RowId;
  /** Where `ids` are a prompt and then completions of it, each of which follows the prompt and knows of no other. */
  readonly fork?: Fork;
  /** Of a rated completion: whether it is wanted. */
  readonly label?: boolean;
}

/** Lengths in tokens; together they are all of a sample's. */
export interface Fork {
  readonly prompt: number;
  readonly completions: readonly number[];
}

export function targetTokensOf({ targetMask }: Pick<Sample, "targetMask">): number {
  return targetMask.reduce((sum, bit) => sum + bit, 0);
}

export interface RenderedExample {
  readonly ids: Int32Array;
  readonly targetMask: Uint8Array;
  readonly fork?: Fork;
  readonly label?: boolean;
  /** False when a turn of the assistant does not follow the text that generation would prompt it with. */
  readonly promptAgrees: boolean;
  /** What of the conversation the chat template leaves out, in words; undefined when nothing. */
  readonly dropped?: string;
}

/** Local date of the fixed day; a date that Llama's templates fall back to as well. */
export const TRAINING_DATE = new Date(2024, 6, 26);

/** Not of alternatives: render-forks.ts. */
export function renderExample(example: LearntExample, rendering: Rendering): RenderedExample {
  switch (example.kind) {
    case "text":
      return renderText(example.text, rendering);
    case "completion":
      return renderCompletion(example.prompt, example.completion, rendering);
    case "instruction":
      return rendering.template === undefined
        ? renderCompletion(alpacaPrompt(example), example.output, rendering)
        : renderChat({ kind: "chat", messages: alpacaMessages(example) }, rendering.template, rendering);
    case "chat":
      return renderChat(example, needTemplate(rendering), rendering);
  }
}

/** What evaluation generates from and compares with; undefined where a row has nothing to answer ({"text"} rows). */
export function renderPrompt(
  example: Example,
  rendering: Rendering,
): { readonly text: string; readonly ids: number[]; readonly references: readonly string[] } | undefined {
  const { tokenizer } = rendering;
  if (example.kind === "alternatives") return renderPrompt(example.each[0]!, rendering);
  if (example.kind === "text") return undefined;
  if (example.kind === "completion") {
    const references = example.references ?? [example.completion];
    return { text: example.prompt, ids: beginText(tokenizer, example.prompt), references };
  }
  if (example.kind === "instruction" && rendering.template === undefined) {
    const text = alpacaPrompt(example);
    return { text, ids: beginText(tokenizer, text), references: [example.output] };
  }
  const chat: Chat = example.kind === "chat" ? example : { kind: "chat", messages: alpacaMessages(example) };
  const { messages } = chat;
  const learnt = turnsWithLoss(chat, rendering.trainOn);
  const last = messages.findLastIndex(({ role }, i) => role === "assistant" && learnt[i]);
  if (last < 1) return undefined;
  const text = needTemplate(rendering).render(messages.slice(0, last), {
    tools: example.kind === "chat" ? example.tools : undefined,
    addGenerationPrompt: true,
    date: rendering.date ?? TRAINING_DATE,
  });
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  return { text, ids, references: [messages[last]!.content ?? ""] };
}

function renderText(text: string, { tokenizer }: Rendering): RenderedExample {
  const ids = endText(tokenizer, beginText(tokenizer, text));
  return finish(ids, new Uint8Array(ids.length).fill(1));
}

function renderCompletion(prompt: string, completion: string, rendering: Rendering): RenderedExample {
  const { tokenizer } = rendering;
  const promptIds = beginText(tokenizer, prompt);
  const answerIds = endText(tokenizer, tokenizer.encode(completion, { addSpecialTokens: false }));
  const mask = new Uint8Array(promptIds.length + answerIds.length).fill(1);
  if (rendering.trainOn !== "all") mask.fill(0, 0, promptIds.length);
  return finish([...promptIds, ...answerIds], mask);
}

function renderChat(chat: Chat, template: ChatTemplate, rendering: Rendering): RenderedExample {
  const { tokenizer, trainOn } = rendering;
  const { messages, tools } = chat;
  const options = { tools, date: rendering.date ?? TRAINING_DATE };
  const all = trainOn === "all";
  const learnt = turnsWithLoss(chat, trainOn);
  if (all && learnt.every(Boolean)) {
    const text = template.render(messages, options);
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    return {
      ...finish(ids, new Uint8Array(ids.length).fill(1)),
      ...droppedFrom(text, template, messages, options),
    };
  }
  const { segments, promptAgrees } = template.renderSegments(messages, options);
  const text = segments.map((segment) => segment.text).join("");
  const { ids, ends } = encodeSegments(
    tokenizer,
    segments.map((segment) => segment.text),
  );
  const mask = new Uint8Array(ids.length).fill(all ? 1 : 0);
  for (const [k, segment] of segments.entries()) {
    if (!segment.assistant || hasLoss(segment, chat, learnt, template) === all) continue;
    const start = k === 0 ? 0 : ends[k - 1]!;
    mask.fill(all ? 0 : 1, start, lastEos(ids, start, ends[k]!, tokenizer.eosIds));
  }
  return { ...finish(ids, mask, promptAgrees), ...droppedFrom(text, template, messages, options) };
}

function droppedFrom(
  text: string,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: ChatOptions,
): Pick<RenderedExample, "dropped"> {
  const dropped = template.dropped(messages, text, options);
  return dropped.length > 0 ? { dropped: describeDropped(dropped) } : {};
}

type Chat = Extract<Example, { kind: "chat" }>;

function hasLoss(
  segment: ChatSegment,
  { messages }: Chat,
  learnt: boolean[],
  { name }: ChatTemplate,
): boolean {
  if (segment.message !== undefined) return learnt[segment.message]!;
  const turns = learnt.filter((_, i) => messages[i]!.role === "assistant");
  if (turns.every((turn) => turn === turns[0])) return turns[0]!;
  throw new UserError(
    `${name}: its {% generation %} marks do not tell which message says what, and only some of the assistant's turns are to be learnt. Pass --chat-template with one pair of marks around each turn.`,
  );
}

/** The end of a turn: just behind its last EOS, since a model never says the line break after it; else its own end. */
function lastEos(ids: readonly number[], start: number, end: number, eosIds: readonly number[]): number {
  for (let i = end - 1; i >= start; i--) if (eosIds.includes(ids[i]!)) return i + 1;
  return end;
}

/**
 * Ids of the joined texts, and behind which id each text ends. Tokenised apart when that gives the same ids; where it
 * does not (a SentencePiece tokenizer puts a space before each part), the border is where the ids of the beginning
 * part from the ids of the whole, so that a token reaching over a border belongs to the text behind it.
 */
function encodeSegments(tokenizer: Tokenizer, texts: readonly string[]): { ids: number[]; ends: number[] } {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const ids = encode(texts.join(""));
  const ends: number[] = [];
  let at = 0;
  let same = true;
  for (const text of texts) {
    const part = encode(text);
    same &&= part.every((id, i) => ids[at + i] === id);
    if (!same) break;
    at += part.length;
    ends.push(at);
  }
  if (same && at === ids.length) return { ids, ends };
  ends.length = 0;
  let beginning = "";
  for (const text of texts.slice(0, -1)) {
    beginning += text;
    const part = encode(beginning);
    let shared = 0;
    while (shared < part.length && part[shared] === ids[shared]) shared++;
    ends.push(Math.max(shared, ends.at(-1) ?? 0));
  }
  ends.push(ids.length);
  return { ids, ends };
}

/** Ids of a text that begins a sequence: BOS where the tokenizer adds one and the text does not already spell it. */
export function beginText(tokenizer: Tokenizer, text: string): number[] {
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  const spelled = tokenizer.prefixIds.every((id, i) => ids[i] === id);
  return spelled ? ids : [...tokenizer.prefixIds, ...ids];
}

function endText(tokenizer: Tokenizer, ids: readonly number[]): number[] {
  const ended = ids.length > 0 && tokenizer.eosIds.includes(ids.at(-1)!);
  return ended ? [...ids] : [...ids, tokenizer.eosId];
}

function finish(ids: readonly number[], mask: Uint8Array, promptAgrees = true): RenderedExample {
  // Nothing stands before token 0 to predict it from.
  if (mask.length > 0) mask[0] = 0;
  return { ids: Int32Array.from(ids), targetMask: mask, promptAgrees };
}

function needTemplate(rendering: Rendering): ChatTemplate {
  if (rendering.template !== undefined) return rendering.template;
  throw new UserError(
    `${rendering.tokenizer.name}: the data are conversations, and this model has no chat template. Pass --chat-template ${Object.keys(builtinTemplates).join(", ")} or a Jinja file, and use the same one to serve the model.`,
  );
}
