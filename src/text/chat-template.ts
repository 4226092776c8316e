// Conversations to text through a model's Jinja chat template, and which parts of that text the assistant says
// (what training puts the loss on). Rendering here is exactly what serving does, so both see the same text.
// How turns are found in templates without {% generation %}: assistant-spans.ts. What templates are given:
// chat-messages.ts and tool-arguments.ts. What they leave out: dropped-content.ts. Token ids: data/render.ts.

import { parse, tokenize } from "@huggingface/jinja";
import { UserError } from "../util/errors.ts";
import { assignSpans, findAssistantSpans } from "./assistant-spans.ts";
import { asTemplatesSee, type ChatMessage, THOUGHT_KEYS } from "./chat-messages.ts";
import { contentHash } from "./content-hash.ts";
import { type Dropped, findDropped } from "./dropped-content.ts";
import { markGeneration, type Span, splitAtMarks } from "./generation-marks.ts";
import { strftime } from "./strftime.ts";
import { markOutputs, type Program, renderProgram } from "./template-values.ts";
import type { NamedTemplates, Tokenizer } from "./tokenizer.ts";
import { type ArgumentForms, findArgumentForms, hasArguments, withArguments } from "./tool-arguments.ts";
import { unlessRefused } from "./unless-refused.ts";

export type { ChatMessage } from "./chat-messages.ts";

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

/** One Jinja source, compiled when it is first asked for. */
interface Source {
  readonly text: string;
  readonly program: Program;
  readonly marked: ReturnType<typeof markGeneration>;
  markedProgram?: Program;
  argumentForms?: ArgumentForms;
}

export class ChatTemplate {
  /** Hex; for cache keys. */
  readonly hash: string;
  private readonly ordinary: Source | undefined;
  /** The template named tool_use, for conversations with tools. */
  private readonly forTools: Source | undefined;
  private thoughtsAreShown: boolean | undefined;
  private toolsAreShown: boolean | undefined;

  /**
   * `source` is one template, or several by name, of which "default" and, for conversations with tools, "tool_use" are
   * used. `variables` are the special tokens by name; `name` begins error messages.
   */
  constructor(
    source: string | NamedTemplates,
    private readonly variables: Readonly<Record<string, string>>,
    readonly name: string,
  ) {
    const named: NamedTemplates = typeof source === "string" ? { default: source } : source;
    const read = (key: string): Source | undefined => {
      const text = Object.hasOwn(named, key) ? named[key] : undefined;
      if (text === undefined) return undefined;
      const normalized = text.replaceAll("\r\n", "\n");
      return { text: normalized, program: compile(normalized, name), marked: markGeneration(normalized) };
    };
    this.ordinary = read("default");
    this.forTools = read("tool_use");
    if (!this.ordinary && !this.forTools) throw this.unnamed(Object.keys(named));
    const sources = [named.default?.replaceAll("\r\n", "\n"), variables];
    const tools = named.tool_use?.replaceAll("\r\n", "\n");
    this.hash = contentHash(JSON.stringify(tools === undefined ? sources : [...sources, tools]));
  }

  /** A tokenizer's own templates, or others in their place (a source is --chat-template's); undefined when there are neither. */
  static of(
    tokenizer: Tokenizer,
    instead: string | { readonly source: NamedTemplates; readonly name: string } | undefined,
  ): ChatTemplate | undefined {
    const given = typeof instead === "string" ? { source: instead, name: "--chat-template" } : instead;
    const source = given?.source ?? tokenizer.chatTemplates;
    if (typeof source !== "string" && Object.keys(source).length === 0) return undefined;
    const leadingBos = tokenizer.addsBos ? (tokenizer.specialTokens.bos_token ?? "") : "";
    const name = given?.name ?? `${tokenizer.name}: the chat template`;
    return new ChatTemplate(source, { ...tokenizer.specialTokens, leading_bos: leadingBos }, name);
  }

  /** Whether the template that conversations without tools get marks what the assistant says. */
  get hasGenerationBlock(): boolean {
    return (this.ordinary ?? this.forTools)?.marked !== undefined;
  }

  /** UserError when the template refuses the conversation. */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const source = this.sourceFor(options);
    const seen = this.prepare(messages, source);
    return this.run(source.program, seen, options);
  }

  /** The rendered conversation cut into what the assistant says, its turn's end included, and the rest. */
  renderSegments(messages: readonly ChatMessage[], options: ChatOptions = {}): RenderedChat {
    const full = this.render(messages, options);
    const whole = { ...options, addGenerationPrompt: false };
    const source = this.sourceFor(options);
    let spans: readonly Span[];
    let promptAgrees = true;
    if (source.marked !== undefined) {
      const split = this.splitMarked(source, messages, options);
      if (split === undefined || split.text !== full)
        throw this.unmaskable("its {% generation %} marks do not add up");
      spans = assignSpans(messages, full, split.spans, (part) => this.markedTexts(source, part, whole));
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

  private splitMarked(source: Source, messages: readonly ChatMessage[], options: ChatOptions) {
    const marked = source.marked!;
    source.markedProgram ??= compile(marked.source, this.name);
    return splitAtMarks(this.run(source.markedProgram, this.prepare(messages, source), options), marked);
  }

  /** The marked texts of a beginning of a conversation; undefined where the template refuses it. */
  private markedTexts(
    source: Source,
    messages: readonly ChatMessage[],
    options: ChatOptions,
  ): string[] | undefined {
    try {
      const split = this.splitMarked(source, messages, options);
      return split?.spans.map(({ start, end }) => split.text.slice(start, end));
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
  }

  /** Whether the template's text names a key, so that messages may well hold it. */
  mentions(key: string): boolean {
    const names: readonly string[] = THOUGHT_KEYS.some((name) => name === key) ? THOUGHT_KEYS : [key];
    return [this.ordinary, this.forTools].some((source) => names.some((name) => source?.text.includes(name)));
  }

  /**
   * What of the conversation the template leaves out of `rendered`, which render() made of the same: texts, thoughts,
   * tools, tool calls. Costs one more rendering.
   */
  dropped(messages: readonly ChatMessage[], rendered: string, options: ChatOptions = {}): Dropped[] {
    const source = this.sourceFor(options);
    const conversation = { messages: this.prepare(messages, source), tools: options.tools ?? [] };
    return findDropped(conversation, rendered, (marked) =>
      unlessRefused(() => this.run(source.program, marked.messages, { ...options, tools: marked.tools })),
    );
  }

  /** Whether a thought of the last answer is shown: a template that shows it may leave out earlier ones on purpose. */
  get showsThoughts(): boolean {
    const thought = "a probed thought";
    const turn = [
      { role: "user", content: "ask" },
      { role: "assistant", content: "answer", reasoning_content: thought },
    ];
    // Some show the thoughts of the last answer, some those behind the answer before it.
    this.thoughtsAreShown ??= [turn, [...turn, ...turn]].some((talk) =>
      [undefined, [PROBED_TOOL]].some(
        (tools) => unlessRefused(() => this.render(talk, { tools }))?.includes(thought) ?? false,
      ),
    );
    return this.thoughtsAreShown;
  }

  /** Whether tools of a conversation are shown. */
  get showsTools(): boolean {
    this.toolsAreShown ??=
      unlessRefused(() =>
        this.render([{ role: "user", content: "ask" }], { tools: [PROBED_TOOL] }),
      )?.includes(PROBED_TOOL.function.name) ?? false;
    return this.toolsAreShown;
  }

  private sourceFor({ tools }: ChatOptions): Source {
    const source = tools && tools.length > 0 ? (this.forTools ?? this.ordinary) : this.ordinary;
    if (!source) throw this.unnamed(["tool_use"]);
    return source;
  }

  private unnamed(names: readonly string[]): UserError {
    return new UserError(
      `${this.name}: there are chat templates ${names.map((name) => JSON.stringify(name)).join(", ")} but none named "default", which conversations without tools need. Pass one with --chat-template.`,
    );
  }

  /** Messages as transformers hands them to a template, and arguments in the form that this one takes. */
  private prepare(messages: readonly ChatMessage[], source: Source): readonly ChatMessage[] {
    const seen = asTemplatesSee(messages);
    if (!hasArguments(seen)) return seen;
    source.argumentForms ??= findArgumentForms((talk, tools) =>
      unlessRefused(() => this.run(source.program, asTemplatesSee(talk), { tools })),
    );
    return withArguments(seen, source.argumentForms);
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

const PROBED_TOOL = {
  type: "function",
  function: { name: "probed_tool", description: "", parameters: { type: "object", properties: {} } },
};

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
    // The engine reads on behind the last token where something is still open.
    const why =
      error instanceof TypeError
        ? "it ends inside a {% for %}, {% if %} or another statement that is not closed"
        : (error as Error).message;
    throw new UserError(`${name}: not a Jinja template that can be read: ${why}`);
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
