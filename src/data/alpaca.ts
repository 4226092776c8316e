// Rows {"instruction", "input"?, "output"}. With a chat template they become one user and one assistant turn; without
// one, a prompt of headings. The field's headings are a convention; the wording around them is left out on purpose,
// because a prompt must be repeated exactly wherever the model is used. render.ts chooses, and reports its choice.

import type { ChatMessage } from "../text/chat-template.ts";
import { type Example, type RowFormat, stringAt } from "./row.ts";

type Instruction = Extract<Example, { kind: "instruction" }>;

export const alpaca: RowFormat = {
  name: "alpaca",
  shape: '{"instruction", "input"?, "output"}',
  keys: ["instruction", "input", "output"],
  matches: (row) => "instruction" in row && "output" in row,
  toExample: (row, where) => ({
    kind: "instruction",
    instruction: stringAt(row, "instruction", where),
    input: row.input === undefined || row.input === null ? "" : stringAt(row, "input", where),
    output: stringAt(row, "output", where),
  }),
};

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
