// Rows {"messages": [{"role", "content"}], "tools"?}: conversations as chat APIs write them. Further keys of a
// message (tool_calls, name, reasoning_content) reach the chat template untouched.

import type { ChatMessage } from "../text/chat-template.ts";
import { UserError } from "../util/errors.ts";
import { kindOf, type RowFormat, type RowValue, toolsAt } from "./row.ts";

export const messages: RowFormat = {
  name: "messages",
  shape: '{"messages"}',
  keys: ["messages", "tools"],
  matches: (row) => "messages" in row,
  toExample(row, where) {
    const list = row.messages;
    if (!Array.isArray(list) || list.length === 0) {
      throw new UserError(
        `${where}: "messages" must be a non-empty array of {"role", "content"}, found ${Array.isArray(list) ? "an empty array" : kindOf(list)}.`,
      );
    }
    return {
      kind: "chat",
      messages: list.map((message: unknown, i) => readMessage(message, `${where}, message ${i + 1}`)),
      tools: toolsAt(row, where),
    };
  },
};

function readMessage(message: unknown, where: string): ChatMessage {
  if (typeof message !== "object" || message === null || Array.isArray(message)) {
    throw new UserError(`${where}: expected {"role", "content"}, found ${kindOf(message)}.`);
  }
  const record = message as RowValue;
  if (typeof record.role !== "string") {
    throw new UserError(`${where}: "role" must be a string, found ${kindOf(record.role)}.`);
  }
  if (record.content === undefined || record.content === null) {
    if (record.tool_calls === undefined) {
      throw new UserError(`${where}: "content" is missing, and there are no "tool_calls" either.`);
    }
    return record as ChatMessage;
  }
  return { ...record, role: record.role, content: contentText(record.content, where) };
}

/** Content is text, or a list of parts of which only text parts can be learnt. */
function contentText(content: unknown, where: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) {
    throw new UserError(`${where}: "content" must be a string, found ${kindOf(content)}.`);
  }
  return content
    .map((part: unknown) => {
      const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
      if (type === "text" && typeof text === "string") return text;
      throw new UserError(
        `${where}: a part of "content" is ${JSON.stringify(type ?? null)}; only text parts are supported.`,
      );
    })
    .join("");
}
