// Conversations to text through a model's Jinja chat template, and which parts of that text the assistant says
// (what training puts the loss on). Rendering here is exactly what serving does, so both see the same text.
// How turns are found in templates without {% generation %}: assistant-spans.ts. Token ids: data/render.ts.

import { parse, tokenize } from "@huggingface/jinja";
import { UserError } from "../util/errors.ts";
import { assignSpans, findAssistantSpans } from "./assistant-spans.ts";
import { contentHash } from "./content-hash.ts";
import { markGeneration, type Span, splitAtMarks } from "./generation-marks.ts";
import { strftime } from "./strftime.ts";
import { markOutputs, type Program, renderProgram } from "./template-values.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One turn, with whatever else the template knows: tool_calls, name, reasoning_content, ... */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | null;
  readonly [key: string]: unknown;
}

export interface ChatOptions {
  readonly tools?: readonly unknown[];
  readonly addGenerationPrompt?: boolean;
  /** What strftime_now() prints from; default the present. Training fixes it so that runs can be repeated. */
  readonly date?: Date;
  /** Further template variables such as enable_thinking. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface ChatSegment {
  readonly text: string;
  readonly assistant: boolean;
  /** Which message says it: known of the assistant's words, but for templates whose marks do not tell turns apart. */
  readonly message?: number;
}

export interface RenderedChat {
  /** Their texts joined are what render() returns. */
  readonly segments: readonly ChatSegment[];
  /** False when a turn is not preceded by exactly the text that asks for it in generation. */
  readonly promptAgrees: boolean;
}

export class ChatTemplate {
  /** Hex; for cache keys. */
  readonly hash: string;
  private readonly source: string;
  private readonly template: Program;
  private readonly marked: ReturnType<typeof markGeneration>;
  private markedTemplate: Program | undefined;

  /** `variables` are the special tokens by name; `name` begins error messages. */
  constructor(
    source: string,
    private readonly variables: Readonly<Record<string, string>>,
    readonly name: string,
  ) {
    const normalized = source.replaceAll("\r\n", "\n");
    this.source = normalized;
    this.marked = markGeneration(normalized);
    this.template = compile(normalized, name);
    this.hash = contentHash(JSON.stringify([normalized, variables]));
  }

  /** A tokenizer's own template, or `source` (--chat-template) in its place; undefined when there is neither. */
  static of(tokenizer: Tokenizer, source: string | undefined): ChatTemplate | undefined {
    const chosen = source ?? tokenizer.chatTemplate;
    if (chosen === undefined) return undefined;
    const leadingBos = tokenizer.addsBos ? (tokenizer.specialTokens.bos_token ?? "") : "";
    const name = source === undefined ? `${tokenizer.name}: the chat template` : "--chat-template";
    return new ChatTemplate(chosen, { ...tokenizer.specialTokens, leading_bos: leadingBos }, name);
  }

  get hasGenerationBlock(): boolean {
    return this.marked !== undefined;
  }

  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    return this.run(this.template, messages, options);
  }

  /** The rendered conversation cut into what the assistant says, its turn's end included, and the rest. */
  renderSegments(messages: readonly ChatMessage[], options: ChatOptions = {}): RenderedChat {
    const full = this.render(messages, options);
    const whole = { ...options, addGenerationPrompt: false };
    let spans: readonly Span[];
    let promptAgrees = true;
    if (this.marked !== undefined) {
      const split = this.splitMarked(messages, options);
      if (split === undefined || split.text !== full)
        throw this.unmaskable("its {% generation %} marks do not add up");
      spans = assignSpans(messages, full, split.spans, (part) => this.markedTexts(part, whole));
    } else {
      const found = findAssistantSpans(messages, full, {
        render: (part, addGenerationPrompt) => this.render(part, { ...whole, addGenerationPrompt }),
        eosToken: this.variables.eos_token,
      });
      if ("problem" in found) throw this.unmaskable(found.problem);
      spans = found.spans;
      promptAgrees = found.promptAgrees;
    }
    return { segments: cut(full, spans), promptAgrees };
  }

  private splitMarked(messages: readonly ChatMessage[], options: ChatOptions) {
    const marked = this.marked!;
    this.markedTemplate ??= compile(marked.source, this.name);
    return splitAtMarks(this.run(this.markedTemplate, messages, options), marked);
  }

  /** The marked texts of a beginning of a conversation; undefined where the template refuses it. */
  private markedTexts(messages: readonly ChatMessage[], options: ChatOptions): string[] | undefined {
    try {
      const split = this.splitMarked(messages, options);
      return split?.spans.map(({ start, end }) => split.text.slice(start, end));
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
  }

  /** Whether the template's text names a key, so that messages may well hold it. */
  mentions(key: string): boolean {
    return this.source.includes(key);
  }

  private unmaskable(problem: string): UserError {
    return new UserError(
      `${this.name}: cannot tell which text the assistant says: ${problem}. Pass --chat-template with {% generation %} around the assistant's text (or chatml, alpaca), or --train-on all.`,
    );
  }

  private run(template: Program, messages: readonly ChatMessage[], options: ChatOptions): string {
    const variables = {
      ...this.variables,
      ...options.variables,
      ...globals,
      messages,
      tools: options.tools && options.tools.length > 0 ? options.tools : null,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
      strftime_now: (format: string) => strftime(options.date ?? new Date(), format),
    };
    try {
      return renderProgram(template, variables);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`${this.name} refuses this conversation: ${(error as Error).message}`);
    }
  }
}

/** What transformers gives every template besides the conversation. The engine's own strftime_now cannot be replaced, hence a list of ours. */
const globals = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: string) => {
    throw new Error(message);
  },
  range: (start: number, stop?: number, step = 1) => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    const count = Math.max(0, Math.ceil((to - from) / step));
    if (!Number.isFinite(count) || count > RANGE_LIMIT) throw new Error("range() is too long");
    return Array.from({ length: count }, (_, i) => from + i * step);
  },
};

const RANGE_LIMIT = 1_000_000;

function compile(source: string, name: string): Program {
  try {
    // The two settings that transformers renders chat templates with.
    return markOutputs(parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })));
  } catch (error) {
    throw new UserError(`${name}: not a Jinja template that can be read: ${(error as Error).message}`);
  }
}

function cut(text: string, spans: readonly Span[]): ChatSegment[] {
  const segments: ChatSegment[] = [];
  let at = 0;
  for (const { start, end, message } of spans) {
    if (start > at) segments.push({ text: text.slice(at, start), assistant: false });
    if (end > start) segments.push({ text: text.slice(start, end), assistant: true, message });
    at = end;
  }
  if (at < text.length) segments.push({ text: text.slice(at), assistant: false });
  return segments;
}
