// A conversation as chat templates see it: what transformers 5.24 does to messages before it renders them
// (utils/chat_template_utils.py), so that the same rows give the same text. Nothing here knows any template.

/** One turn, with whatever else the template knows: tool_calls, name, reasoning_content, ... */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | null;
  readonly [key: string]: unknown;
}

/** Names that a message's thought goes by; templates read the first, gpt-oss's the second. */
export const THOUGHT_KEYS = ["reasoning_content", "thinking", "reasoning"] as const;

/** Keys whose value is null are left out, and a thought under any of its names fills reasoning_content and thinking. */
export function asTemplatesSee(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map((message) => {
    const kept = Object.fromEntries(
      Object.entries(message).filter(([, value]) => value !== null && value !== undefined),
    ) as ChatMessage;
    const key = THOUGHT_KEYS.find((name) => kept[name] !== undefined);
    if (key === undefined) return kept;
    const thought = kept[key];
    return { thinking: thought, ...kept, reasoning_content: thought };
  });
}
