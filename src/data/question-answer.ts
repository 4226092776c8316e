// Rows {"question", "answer"}, as GSM8K and many question sets have them: rendered like an instruction without input.

import { isText, type RowFormat, stringAt } from "./row.ts";

export const questionAnswer: RowFormat = {
  name: "question-answer",
  shape: '{"question", "answer"}',
  keys: ["question", "answer"],
  needs: ["question", "answer"],
  matches: ({ question, answer }) => isText(question, answer),
  toExample: (row, where) => ({
    kind: "instruction",
    instruction: stringAt(row, "question", where),
    input: "",
    output: stringAt(row, "answer", where),
  }),
};
