// Rows whose one completion is rated good or bad, by "label" (TRL) or "kto_tag" (LLaMA-Factory): {"prompt", "completion"},
// {"messages"}, {"conversations"} or {"instruction", "output"}. What is learnt without the rating is those formats' to read;
// here it is always the completion, of a conversation the assistant's last turn.

import { UserError } from "../util/errors.ts";
import { alpaca } from "./alpaca.ts";
import { messages } from "./messages.ts";
import { promptCompletion } from "./prompt-completion.ts";
import { questionAnswer } from "./question-answer.ts";
import { type Example, kindOf, type LearntExample, type RowFormat, type RowValue } from "./row.ts";
import { sharegpt } from "./sharegpt.ts";

const formats = [messages, sharegpt, promptCompletion, alpaca, questionAnswer];
const labels = ["label", "kto_tag"];

export const ratedAnswers: RowFormat = {
  name: "rated-answers",
  shape: '{"prompt", "completion", "label"} (or "messages", "conversations" or "instruction" and "output")',
  keys: [...new Set([...labels, ...formats.flatMap(({ keys }) => keys)])],
  needs: [],
  gives: "ratings",
  matches: (row) => labelOf(row) !== undefined && formats.some((format) => format.matches(row)),
  toExample(row, where, note): Example {
    const label = labelAt(row, where);
    const format =
      formats.find((candidate) => candidate.matches(row)) ??
      formats.find(({ needs }) => needs.every((key) => key in row));
    if (!format) {
      const keys = Object.keys(row)
        .slice(0, 12)
        .map((key) => JSON.stringify(key.slice(0, 40)));
      throw new UserError(`${where}: expected ${ratedAnswers.shape}; found keys {${keys.join(", ")}}`);
    }
    const example = format.toExample(row, where, note) as LearntExample;
    return { kind: "alternatives", each: [lastAnswer(example, where)], label };
  },
};

function lastAnswer(example: LearntExample, where: string): LearntExample {
  if (example.kind !== "chat" || example.completionFrom !== undefined) return example;
  const last = example.messages.findLastIndex(({ role }) => role === "assistant");
  if (last > 0) return { ...example, completionFrom: last };
  throw new UserError(
    `${where}: no message of the assistant follows another one, so there is nothing to rate.`,
  );
}

function labelOf(row: RowValue): unknown {
  return labels.map((key) => row[key]).find((value) => value !== undefined && value !== null);
}

/** True and false, as JSON has them and as files of text do. */
function labelAt(row: RowValue, where: string): boolean {
  const value = labelOf(row);
  const given = value instanceof Number ? value.valueOf() : typeof value === "bigint" ? Number(value) : value;
  if (given === true || given === 1) return true;
  if (given === false || given === 0) return false;
  if (typeof given === "string" && /^\s*(true|false)\s*$/i.test(given)) return /true/i.test(given);
  const found = typeof given === "string" ? JSON.stringify(given.slice(0, 40)) : kindOf(value);
  throw new UserError(`${where}: "label" must be true (a good answer) or false, found ${found}.`);
}
