// A conversation that someone wants answered, as the prompt to generate from: chat-template.ts's render, with the
// promise that nothing of the conversation is missing in it. What the template has no place for is mapped where that
// keeps the meaning (developer is the system's newer name) and refused otherwise. Used by the server and the chat;
// training refuses too, but maps nothing (data/render.ts).

import { UserError } from "../util/errors.ts";
import type { ChatMessage, ChatOptions, ChatTemplate } from "./chat-template.ts";
import type { Dropped } from "./dropped-content.ts";

/**
 * The prompt that asks for the next answer. UserError when the template refuses the conversation or leaves a part of it
 * out. Thoughts of earlier answers may go where the template shows thoughts at all, or cuts them out of the text: that
 * is what it means to do.
 */
export function renderRequest(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: Omit<ChatOptions, "addGenerationPrompt"> = {},
): string {
  const asking = { ...options, addGenerationPrompt: true };
  const { text, dropped } = renderKnownRoles(template, messages, asking);
  const missing = dropped.filter(
    ({ kind, inContent }) => kind !== "thought" || !(inContent || template.showsThoughts),
  );
  if (missing.length === 0) return text;
  throw new UserError(
    `${template.name} leaves out ${describeDropped(missing)}. Send the conversation without it, or use a template that shows it.`,
  );
}

/** The first few of what was dropped, in words. */
export function describeDropped(dropped: readonly Dropped[]): string {
  const told = dropped.slice(0, 3).map(({ description }) => description);
  return told.join("; ") + (dropped.length > told.length ? ` and ${dropped.length - told.length} more` : "");
}

/** With developer as it is where the template shows such a message, else as system. */
function renderKnownRoles(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: ChatOptions,
): { text: string; dropped: Dropped[] } {
  const render = (talk: readonly ChatMessage[]) => {
    const text = template.render(talk, options);
    return { text, dropped: template.dropped(talk, text, options) };
  };
  const isDeveloper = (message: ChatMessage | undefined) => message?.role === "developer";
  if (!messages.some(isDeveloper)) return render(messages);
  try {
    const whole = render(messages);
    const lost = whole.dropped.some(({ message }) => message !== undefined && isDeveloper(messages[message]));
    if (!lost) return whole;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
  return render(messages.map((message) => (isDeveloper(message) ? { ...message, role: "system" } : message)));
}
