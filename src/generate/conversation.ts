// A conversation with one model and its adapters: history, which adapter answers, and answers streamed through an
// engine. When the history outgrows the context its oldest turns go, and that is told. The terminal is cli/chat.ts.

import type { AdapterSet } from "../models/adapter-set.ts";
import type { ChatMessage, ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { type Continuation, continueWith } from "./continue-text.ts";
import type { GenerationEngine } from "./engine.ts";
import type { Sampling } from "./sampler.ts";

export interface ConversationOptions {
  readonly engine: GenerationEngine;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** By the names that select() takes. */
  readonly adapters: ReadonlyMap<string, AdapterSet>;
  readonly sampling: Sampling;
  readonly maxNewTokens: number;
  /** The engine's capacity. */
  readonly context: number;
  readonly system?: string;
}

export interface AnswerHooks {
  readonly onText?: (piece: string) => void;
  readonly signal?: { readonly aborted: boolean };
}

export class Conversation {
  /** The adapter that answers; undefined for the base. */
  adapter: string | undefined;
  private messages: ChatMessage[] = [];
  private dropped = 0;

  constructor(private readonly options: ConversationOptions) {
    this.adapter = [...options.adapters.keys()][0];
    this.reset(options.system);
  }

  /** Turns that no longer fit the context. */
  get forgotten(): number {
    return this.dropped;
  }

  reset(system = this.options.system): void {
    this.messages = system === undefined ? [] : [{ role: "system", content: system }];
    this.dropped = 0;
  }

  /** UserError when there is no such adapter; "base" is none. */
  select(name: string): void {
    const { adapters } = this.options;
    if (name !== "base" && !adapters.has(name)) {
      throw new UserError(
        `there is no adapter "${name}"; there are base, ${[...adapters.keys()].join(", ")}`,
      );
    }
    this.adapter = name === "base" ? undefined : name;
  }

  /** The selected model's answer, which becomes history unless it was cut off before its first word. */
  async say(text: string, hooks: AnswerHooks = {}): Promise<Continuation> {
    const ids = this.promptFor(text);
    const answer = await this.answer(this.adapter, ids, hooks);
    this.remember(text, answer);
    return answer;
  }

  /** Base and selected adapter on the same history, at once; the adapter's answer becomes history. */
  async sayBoth(
    text: string,
    hooks: AnswerHooks = {},
  ): Promise<{ readonly base: Continuation; readonly tuned: Continuation }> {
    const ids = this.promptFor(text);
    const [base, tuned] = await Promise.all([
      this.answer(undefined, ids, hooks),
      this.answer(this.adapter, ids, hooks),
    ]);
    this.remember(text, tuned);
    return { base, tuned };
  }

  private remember(question: string, { text }: Continuation): void {
    if (text === "") return;
    this.messages.push({ role: "user", content: question }, { role: "assistant", content: text });
  }

  private answer(
    name: string | undefined,
    ids: readonly number[],
    hooks: AnswerHooks,
  ): Promise<Continuation> {
    const { engine, tokenizer, adapters, sampling, maxNewTokens, context } = this.options;
    return continueWith((request) => engine.generate(request), tokenizer, ids, {
      maxNewTokens: Math.min(maxNewTokens, context - ids.length),
      sampling,
      adapter: name === undefined ? undefined : adapters.get(name),
      onText: hooks.onText,
      signal: hooks.signal,
    });
  }

  private promptFor(text: string): number[] {
    const { tokenizer, template, context, maxNewTokens } = this.options;
    // Half the context at least stays for the conversation, however long answers may be.
    const room = context - Math.min(maxNewTokens, Math.floor(context / 2));
    while (true) {
      const messages = [...this.messages, { role: "user", content: text }];
      const rendered = template.render(messages, { addGenerationPrompt: true });
      const ids = tokenizer.encode(rendered, { addSpecialTokens: false });
      if (ids.length <= room) return ids;
      const first = this.messages[0]?.role === "system" ? 1 : 0;
      if (this.messages.length - first < 2)
        throw new UserError(`this message has ${ids.length} tokens; at most ${room} fit the context`);
      this.messages.splice(first, 2);
      this.dropped++;
    }
  }
}
