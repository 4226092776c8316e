// Rows {"question", "answer"}, as GSM8K and many question sets have them: rendered like an instruction without input.

import { type RowFormat, stringAt } from "./row.ts";

export const questionAnswer: RowFormat = {
  name: "question-answer",
  shape: '{"question", "answer"}',
  keys: ["question", "answer"],
  matches: (row) => "question" in row && "answer" in row,
  toExample: (row, where) => ({
    kind: "instruction",
    instruction: stringAt(row, "question", where),
    input: "",
    output: stringAt(row, "answer", where),
  }),
};
