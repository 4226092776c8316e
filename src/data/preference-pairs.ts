// Rows with a better and a worse completion, "chosen" and "rejected", in the forms that TRL, LLaMA-Factory and ShareGPT files
// have: behind a prompt (text, or a list of messages), an instruction, a conversation, or with no prompt at all, where the
// two begin alike. Each side is read as the row that would be learnt alone (prompt-completion.ts, alpaca.ts, sharegpt.ts,
// messages.ts), so that systems, tools, histories and marks are what they are there. Rendering: render-forks.ts.

import type { ChatMessage } from "../text/chat-template.ts";
import { parseExactJson, recordOf } from "../text/exact-json.ts";
import { UserError } from "../util/errors.ts";
import { alpaca } from "./alpaca.ts";
import { mayHoldTurns, readConversation, withSystem } from "./conversation.ts";
import { messages } from "./messages.ts";
import { promptCompletion } from "./prompt-completion.ts";
import {
  asTool,
  type Example,
  kindOf,
  type LearntExample,
  type Note,
  type RowFormat,
  type RowValue,
  toolsAt,
} from "./row.ts";
import { sharegpt } from "./sharegpt.ts";

const sides = ["chosen", "rejected"] as const;
type Side = (typeof sides)[number];

export const preferencePairs: RowFormat = {
  name: "preference-pairs",
  shape:
    '{"prompt", "chosen", "rejected"} (or "messages", "conversations" or "instruction" in place of "prompt", or none)',
  keys: [
    ...sides,
    ...["prompt", "question", "instruction", "input", "history", "messages", "conversations"],
    ...["system", "tools", "functions"],
  ],
  needs: sides,
  gives: "pairs",
  matches: (row) => sides.every((side) => isSet(row[side])),
  toExample(row, where, note): Example {
    const read = {
      ...row,
      ...Object.fromEntries(sides.map((side) => [side, completionAt(row, side, where)])),
    };
    const readSide = readerOf(read, where);
    return { kind: "alternatives", each: sides.map((side) => readSide(read, side, where, note)) };
  },
};

type ReadSide = (row: RowValue, side: Side, where: string, note: Note) => LearntExample;

/** How the row says what was asked. */
function readerOf(row: RowValue, where: string): ReadSide {
  if (isSet(row.conversations)) return ofConversation("conversations");
  if (isSet(row.messages)) return ofConversation("messages");
  if (isSet(row.instruction)) return ofInstruction;
  const prompt = ["prompt", "question", "input"].find((key) => isSet(row[key]) && row[key] !== "");
  if (prompt !== undefined) return ofPrompt(prompt, row, where);
  return typeof row.chosen === "string" && typeof row.rejected === "string"
    ? ofTexts(row, where)
    : ofTurns(row, where);
}

/** A completion: text, or a list of turns; one turn by itself is a list of one. */
function completionAt(row: RowValue, side: Side, where: string): unknown {
  const given = row[side];
  const value = typeof given === "string" && /^\s*[[{]/.test(given) ? (jsonOf(given) ?? given) : given;
  if (typeof value === "string" || Array.isArray(value)) return value;
  if (recordOf(value) !== undefined) return [value];
  throw new UserError(
    `${where}: ${JSON.stringify(side)} must be a string, a message or an array of messages, found ${kindOf(value)}.`,
  );
}

/** What text is in JSON, where that is turns. */
function jsonOf(text: string): unknown {
  try {
    const value = parseExactJson(text);
    const turns = (Array.isArray(value) ? value : [value]).map(recordOf);
    const spoken = turns.every((turn) => turn !== undefined && ("role" in turn || "from" in turn));
    return spoken && turns.length > 0 ? value : undefined;
  } catch {
    return undefined;
  }
}

function asTurns(value: unknown, key: "conversations" | "messages"): unknown[] {
  if (typeof value !== "string") return value as unknown[];
  return [key === "messages" ? { role: "assistant", content: value } : { from: "gpt", value }];
}

function ofConversation(key: "conversations" | "messages"): ReadSide {
  return (row, side, where, note) => {
    const format = key === "messages" ? messages : sharegpt;
    const turns =
      mayHoldTurns(row[key]) && typeof row[key] === "string" ? jsonOf(row[key] as string) : row[key];
    if (!Array.isArray(turns)) readConversation(row, key, where, note);
    const given = turns as unknown[];
    const example = format.toExample({ ...row, [key]: [...given, ...asTurns(row[side], key)] }, where, note);
    if (example.kind !== "chat") throw new UserError(`${where}: expected a conversation.`);
    const completionFrom = example.messages.length - asTurns(row[side], key).length;
    return requireAnswer({ ...example, completionFrom }, side, where);
  };
}

const ofInstruction: ReadSide = (row, side, where, note) => {
  const output = row[side];
  if (typeof output !== "string") {
    throw new UserError(
      `${where}: ${JSON.stringify(side)} must be a string beside "instruction", found ${kindOf(output)}.`,
    );
  }
  const example = alpaca.toExample({ ...row, output }, where, note) as LearntExample;
  return example.kind === "chat" ? { ...example, completionFrom: example.messages.length - 1 } : example;
};

function ofPrompt(key: string, row: RowValue, where: string): ReadSide {
  const prompt = row[key];
  const turns = typeof prompt === "string" && mayHoldTurns(prompt) ? jsonOf(prompt) : prompt;
  const chat = Array.isArray(turns) || sides.some((side) => Array.isArray(row[side])) || isText(row.system);
  if (!chat) {
    return (own, side, at, note) => {
      const { chosen: _, rejected: __, ...rest } = own;
      return promptCompletion.toExample(
        { ...rest, prompt, completion: own[side] },
        at,
        note,
      ) as LearntExample;
    };
  }
  // A prompt of text beside whole conversations says again what those begin with.
  const repeats = (side: Side) =>
    Array.isArray(row[side]) && roleOf((row[side] as unknown[])[0]) !== "assistant";
  if (typeof prompt === "string" && !Array.isArray(turns) && sides.every(repeats))
    return ofTurns(row, where, prompt);
  const asked = Array.isArray(turns) ? turns : [{ role: "user", content: prompt }];
  return (own, side, at, note) => {
    const { chosen: _, rejected: __, ...rest } = own;
    const completion = asTurns(own[side], "messages");
    const example = promptCompletion.toExample(
      { ...rest, prompt: asked, completion },
      `${at}, ${side}`,
      note,
    );
    return example as LearntExample;
  };
}

/** Two conversations without a prompt of their own: it is what they begin with alike. */
function ofTurns(row: RowValue, where: string, prompt?: string): ReadSide {
  const silent = () => {};
  const [chosen, rejected] = sides.map(
    (side) => readConversation({ [side]: asTurns(row[side], "messages") }, side, where, silent).messages,
  ) as [readonly unknown[], readonly unknown[]];
  const most = Math.min(chosen.length, rejected.length) - 1;
  let shared = 0;
  while (shared < most && same(chosen[shared], rejected[shared])) shared++;
  if (shared === 0) {
    throw new UserError(
      `${where}: "chosen" and "rejected" share no first message, so it is not known what was asked; expected conversations that begin alike, or a "prompt".`,
    );
  }
  const begins = (chosen as readonly ChatMessage[]).slice(0, shared);
  if (prompt !== undefined && !begins.some(({ content }) => content?.trim() === prompt.trim())) {
    throw new UserError(
      `${where}: "prompt" is no message of what "chosen" and "rejected" begin with; expected the same question, or no "prompt".`,
    );
  }
  return (own, side, at, note) => {
    const conversation = withSystem(readConversation(own, side, at, note, `${side} message`), own, at);
    const added = conversation.messages.length - (side === "chosen" ? chosen : rejected).length;
    const tools = toolsAt(own, "tools", at) ?? toolsAt(own, "functions", at)?.map(asTool);
    return requireAnswer({ kind: "chat", ...conversation, tools, completionFrom: shared + added }, side, at);
  };
}

/** Two texts without a prompt of their own, cut where TRL cuts them: a space before what differs goes with it. */
function ofTexts(row: RowValue, where: string): ReadSide {
  const [chosen, rejected] = [row.chosen as string, row.rejected as string];
  let shared = 0;
  while (shared < chosen.length && chosen[shared] === rejected[shared]) shared++;
  if (shared > 0 && chosen[shared - 1] === " ") shared--;
  if (shared === 0 || shared >= chosen.length || shared >= rejected.length) {
    throw new UserError(
      `${where}: "chosen" and "rejected" ${shared === 0 ? "share no beginning" : "do not go on differently behind what they share"}, so it is not known what was asked; expected a "prompt", or two texts that begin alike.`,
    );
  }
  return (own, side) => {
    const text = own[side] as string;
    return { kind: "completion", prompt: text.slice(0, shared), completion: text.slice(shared) };
  };
}

function requireAnswer(example: LearntExample, side: Side, where: string): LearntExample {
  const { messages: turns, completionFrom = 0 } = example as Extract<LearntExample, { kind: "chat" }>;
  if (turns.slice(completionFrom).some(({ role }) => role === "assistant")) return example;
  throw new UserError(
    `${where}: ${JSON.stringify(side)} holds no message of the assistant, so there is nothing to prefer.`,
  );
}

function roleOf(turn: unknown): string | undefined {
  const { role, from } = recordOf(turn) ?? {};
  const speaker = String(role ?? from ?? "").toLowerCase();
  return ["assistant", "gpt", "chatgpt", "model", "ai", "bot"].includes(speaker) ? "assistant" : speaker;
}

function same(one: unknown, other: unknown): boolean {
  const text = (value: unknown) =>
    JSON.stringify(value, (_, held: unknown) => (typeof held === "bigint" ? `${held}n` : held));
  return text(one) === text(other);
}

const isSet = (value: unknown) => value !== undefined && value !== null;
const isText = (value: unknown) => typeof value === "string" && value !== "";
