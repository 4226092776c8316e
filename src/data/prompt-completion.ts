// Rows {"prompt", "completion"}. Text: the two are joined as they are, with nothing in between, and for evaluation a row
// may list several acceptable answers, {"prompt", "references"}, with or without a completion. Lists of messages (TRL):
// one conversation, learnt from the completion on.

import { UserError } from "../util/errors.ts";
import { mayHoldTurns, readConversation, withSystem } from "./conversation.ts";
import {
  type Example,
  isText,
  jsonTextAt,
  kindOf,
  type Note,
  type RowFormat,
  type RowValue,
  stringAt,
  toolsAt,
} from "./row.ts";

export const promptCompletion: RowFormat = {
  name: "prompt-completion",
  shape: '{"prompt", "completion"}',
  keys: ["prompt", "completion", "references", "system", "tools"],
  needs: ["prompt", "completion"],
  matches: ({ prompt, completion, references }) =>
    isText(prompt, completion) ||
    ([prompt, completion].some(Array.isArray) &&
      [prompt, completion].every((value) => (value ?? null) !== null)) ||
    (typeof prompt === "string" && mayHoldTurns(references)),
  toExample(row, where, note) {
    if (isConversation(row, where)) return toChat(row, where, note);
    for (const key of ["system", "tools"]) {
      if (row[key] !== undefined && row[key] !== null && row[key] !== "") note(key);
    }
    return toCompletion(row, where);
  },
};

/** Both are lists, or both are text that holds one; a prompt of text may begin with a bracket. */
function isConversation(row: RowValue, where: string): boolean {
  const { prompt, completion } = row;
  if (Array.isArray(prompt) && Array.isArray(completion)) return true;
  if (!mayHoldTurns(prompt) || !mayHoldTurns(completion)) {
    if (!Array.isArray(prompt) && !Array.isArray(completion)) return false;
    throw new UserError(
      `${where}: "prompt" is ${kindOf(prompt)} and "completion" is ${kindOf(completion)}; expected two strings or two arrays of {"role", "content"}.`,
    );
  }
  return ["prompt", "completion"].every((key) => {
    const value = row[key];
    if (Array.isArray(value)) return true;
    return /^\s*\[\s*\{\s*"(role|from|content|value)"/.test(value as string) && isJson(value as string);
  });
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function toChat(row: RowValue, where: string, note: Note): Example {
  const prompt = readConversation(row, "prompt", where, note, "prompt message");
  const completion = readConversation(row, "completion", where, note, "completion message");
  if (!completion.messages.some(({ role }) => role === "assistant")) {
    throw new UserError(
      `${where}: "completion" holds no message of the assistant, so there is nothing to learn.`,
    );
  }
  const marksOf = (part: typeof prompt) => part.marks ?? part.messages.map(() => undefined);
  const marks = prompt.marks || completion.marks ? [...marksOf(prompt), ...marksOf(completion)] : undefined;
  const joined = { messages: [...prompt.messages, ...completion.messages], ...(marks && { marks }) };
  const whole = withSystem(joined, row, where);
  return {
    kind: "chat",
    ...whole,
    tools: toolsAt(row, "tools", where),
    completionFrom: whole.messages.length - completion.messages.length,
  };
}

function toCompletion(row: RowValue, where: string): Example {
  const prompt = stringAt(row, "prompt", where);
  const listed = jsonTextAt(row, "references", where) ?? undefined;
  if (listed === undefined || listed === "") {
    return { kind: "completion", prompt, completion: stringAt(row, "completion", where) };
  }
  if (!Array.isArray(listed) || listed.length === 0) {
    throw new UserError(`${where}: "references" must be an array of strings, found ${kindOf(listed)}.`);
  }
  const references = listed.map((reference: unknown) => {
    if (typeof reference === "string") return reference;
    throw new UserError(`${where}: "references" must hold strings only, found ${kindOf(reference)}.`);
  });
  const { completion } = row;
  const answer =
    completion === undefined || completion === null ? references[0]! : stringAt(row, "completion", where);
  return { kind: "completion", prompt, completion: answer, references };
}
