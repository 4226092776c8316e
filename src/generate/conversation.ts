// A conversation with one model and its adapters: history, which adapter answers, and answers streamed through an
// engine. When the history outgrows the context its oldest turns go, and that is told. The terminal is cli/chat.ts.

import type { AdapterSet } from "../models/adapter-set.ts";
import type { ChatMessage, ChatTemplate } from "../text/chat-template.ts";
import { renderRequest } from "../text/render-request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { type Continuation, continueWith } from "./continue-text.ts";
import type { GenerationEngine } from "./engine.ts";
import type { Sampling } from "./sampler.ts";

/** How a conversation becomes a prompt. */
export interface ConversationText {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate | undefined;
}

export interface ConversationOptions extends ConversationText {
  readonly engine: GenerationEngine;
  /** What adapters were trained with, by name, where that is not the base's. */
  readonly texts?: ReadonlyMap<string, ConversationText>;
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
    const [voice] = this.voices([this.adapter]);
    const [ids] = this.promptsFor(text, [voice!]);
    const answer = await this.answer(this.adapter, voice!.tokenizer, ids!, hooks);
    this.remember(text, answer);
    return answer;
  }

  /** Base and selected adapter on the same history, at once; the adapter's answer becomes history. */
  async sayBoth(
    text: string,
    hooks: AnswerHooks = {},
  ): Promise<{ readonly base: Continuation; readonly tuned: Continuation }> {
    const [ofBase, ofAdapter] = this.voices([undefined, this.adapter]);
    const [baseIds, tunedIds] = this.promptsFor(text, [ofBase!, ofAdapter!]);
    const [base, tuned] = await Promise.all([
      this.answer(undefined, ofBase!.tokenizer, baseIds!, hooks),
      this.answer(this.adapter, ofAdapter!.tokenizer, tunedIds!, hooks),
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
    tokenizer: Tokenizer,
    ids: readonly number[],
    hooks: AnswerHooks,
  ): Promise<Continuation> {
    const { engine, adapters, sampling, maxNewTokens, context } = this.options;
    return continueWith((request) => engine.generate(request), tokenizer, ids, {
      maxNewTokens: Math.min(maxNewTokens, context - ids.length),
      sampling,
      adapter: name === undefined ? undefined : adapters.get(name),
      onText: hooks.onText,
      signal: hooks.signal,
    });
  }

  /** How each of them is spoken to. A base without a chat template is shown the adapter's, beside the adapter. */
  private voices(names: readonly (string | undefined)[]): { tokenizer: Tokenizer; template: ChatTemplate }[] {
    const { texts, tokenizer, template } = this.options;
    const base = { tokenizer, template };
    const found = names.map((name) => (name === undefined ? undefined : texts?.get(name)) ?? base);
    const other = found.find((text) => text.template !== undefined);
    return found.map((text) => {
      const chosen = text.template === undefined ? other : text;
      if (chosen?.template) return { tokenizer: chosen.tokenizer, template: chosen.template };
      throw new UserError(
        `${tokenizer.name}: chat needs a chat template, and this model has none; pass the one it was trained with as --chat-template chatml, alpaca or a Jinja file`,
      );
    });
  }

  /** A prompt for each; the oldest turns go until all of them fit. */
  private promptsFor(
    text: string,
    voices: readonly { tokenizer: Tokenizer; template: ChatTemplate }[],
  ): number[][] {
    const { context, maxNewTokens } = this.options;
    // Half the context at least stays for the conversation, however long answers may be.
    const room = context - Math.min(maxNewTokens, Math.floor(context / 2));
    while (true) {
      const messages = [...this.messages, { role: "user", content: text }];
      const prompts = voices.map(({ tokenizer, template }) =>
        tokenizer.encode(renderRequest(template, messages), { addSpecialTokens: false }),
      );
      const longest = Math.max(...prompts.map((ids) => ids.length));
      if (longest <= room) return prompts;
      const first = this.messages[0]?.role === "system" ? 1 : 0;
      if (this.messages.length - first < 2)
        throw new UserError(`this message has ${longest} tokens; at most ${room} fit the context`);
      this.messages.splice(first, 2);
      this.dropped++;
    }
  }
}
