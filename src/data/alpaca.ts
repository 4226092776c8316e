// Rows {"instruction", "input"?, "output"}, with "history"? ([[user, assistant], ...]), "system"? and "tools"? as
// LLaMA-Factory has them: those make the row a conversation, whose earlier answers are learnt too. With a chat template they become one user and one assistant turn; without
// one, a prompt of headings. The field's headings are a convention; the wording around them is left out on purpose,
// because a prompt must be repeated exactly wherever the model is used. render.ts chooses, and reports its choice.

import type { ChatMessage } from "../text/chat-template.ts";
import { UserError } from "../util/errors.ts";
import { withSystem } from "./conversation.ts";
import {
  asTool,
  type Example,
  isText,
  jsonTextAt,
  kindOf,
  type RowFormat,
  type RowValue,
  stringAt,
  toolsAt,
} from "./row.ts";

type Instruction = Extract<Example, { kind: "instruction" }>;

export const alpaca: RowFormat = {
  name: "alpaca",
  shape: '{"instruction", "input"?, "output"}',
  keys: ["instruction", "input", "output", "history", "system", "tools"],
  needs: ["instruction", "output"],
  matches: ({ instruction, output }) => isText(instruction, output),
  toExample(row, where) {
    const example: Instruction = {
      kind: "instruction",
      instruction: stringAt(row, "instruction", where),
      input: row.input === undefined || row.input === null ? "" : stringAt(row, "input", where),
      output: stringAt(row, "output", where),
    };
    const history = historyAt(row, where);
    const tools = toolsAt(row, "tools", where)?.map(asTool);
    const { messages } = withSystem({ messages: [...history, ...alpacaMessages(example)] }, row, where);
    return messages.length === 2 && tools === undefined ? example : { kind: "chat", messages, tools };
  },
};

/** Earlier turns, oldest first. */
function historyAt(row: RowValue, where: string): ChatMessage[] {
  const history = jsonTextAt(row, "history", where);
  if (history === null) return [];
  if (!Array.isArray(history)) {
    throw new UserError(
      `${where}: "history" must be an array of [user, assistant] pairs, found ${kindOf(history)}.`,
    );
  }
  return history.flatMap((pair: unknown, i) => {
    if (!Array.isArray(pair) || pair.length !== 2 || pair.some((text) => typeof text !== "string")) {
      throw new UserError(
        `${where}, "history" item ${i + 1}: expected [user, assistant], two strings, found ${kindOf(pair)}.`,
      );
    }
    return [
      { role: "user", content: pair[0] as string },
      { role: "assistant", content: pair[1] as string },
    ];
  });
}

/** The prompt for models without a chat template. Without an input, --chat-template alpaca renders the same. */
export function alpacaPrompt(example: Instruction): string {
  const input = example.input === "" ? "" : `### Input:\n${example.input}\n\n`;
  return `### Instruction:\n${example.instruction}\n\n${input}### Response:\n`;
}

/** The same row as a conversation. */
export function alpacaMessages(example: Instruction): ChatMessage[] {
  const content = example.input === "" ? example.instruction : `${example.instruction}\n\n${example.input}`;
  return [
    { role: "user", content },
    { role: "assistant", content: example.output },
  ];
}
