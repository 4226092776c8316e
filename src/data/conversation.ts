// A list of turns, as chat APIs ({"role", "content"}) and ShareGPT ({"from", "value"}) write it, under whichever key a
// format finds it: one reader, so that every row shape knows the same roles, calls, marks and notes. Further keys of a
// message (tool_calls, name, reasoning_content) reach the chat template untouched. What marks mean: loss-marks.ts.

import type { ChatMessage } from "../text/chat-template.ts";
import { parseExactJson, recordOf } from "../text/exact-json.ts";
import { nearestName, UserError } from "../util/errors.ts";
import { markKeys, readMark } from "./loss-marks.ts";
import { jsonTextAt, kindOf, type Note, type RowValue, stringAt } from "./row.ts";

export interface Conversation {
  readonly messages: readonly ChatMessage[];
  /** By message; absent when no message is marked. */
  readonly marks?: readonly (boolean | undefined)[];
}

/** Names of speakers, and the roles that chat templates know them by. */
const ROLES: ReadonlyMap<string, string> = new Map([
  ["human", "user"],
  ["user", "user"],
  ["gpt", "assistant"],
  ["chatgpt", "assistant"],
  ["assistant", "assistant"],
  ["model", "assistant"],
  ["ai", "assistant"],
  ["bot", "assistant"],
  ["bard", "assistant"],
  ["bing", "assistant"],
  ["system", "system"],
  ["function_call", "call"],
  ["tool_call", "call"],
  ["observation", "tool"],
  ["function_response", "tool"],
  ["tool_response", "tool"],
  ["function", "tool"],
  ["tool", "tool"],
]);

/** Assistant and HUMAN are no roles of their own. */
function roleNamed(speaker: string): string | undefined {
  return ROLES.get(speaker) ?? ROLES.get(speaker.toLowerCase());
}

/** Keys that templates and lowrank know; others are noted, unless the template names them (dataset.node.ts). */
const KNOWN_KEYS = new Set([
  ..."role from content value name tool_calls tool_call_id function_call".split(" "),
  ..."reasoning_content reasoning thinking".split(" "),
  ...markKeys,
]);

/** Whether a value can hold turns: a list, or text that begins like one in JSON. */
export function mayHoldTurns(value: unknown): boolean {
  return Array.isArray(value) || (typeof value === "string" && /^\s*\[/.test(value));
}

/** The turns under `key`. UserError, beginning with `where`, when they are none. */
export function readConversation(
  row: RowValue,
  key: string,
  where: string,
  note: Note,
  turnName = "message",
): Conversation {
  const list = jsonTextAt(row, key, where);
  if (!Array.isArray(list) || list.length === 0) {
    const shape = turnName === "turn" ? '{"from", "value"}' : '{"role", "content"}';
    throw new UserError(
      `${where}: ${JSON.stringify(key)} must be a non-empty array of ${shape}, found ${Array.isArray(list) ? "an empty array" : kindOf(list)}.`,
    );
  }
  const marks: (boolean | undefined)[] = [];
  const messages = list.map((turn: unknown, i) => {
    const at = `${where}, ${turnName} ${i + 1}`;
    const record = recordOf(
      typeof turn === "string" && /^\s*\{/.test(turn) ? jsonTextAt({ turn }, "turn", at) : turn,
    );
    if (record === undefined) {
      const shape = turnName === "turn" ? '{"from", "value"}' : '{"role", "content"}';
      throw new UserError(`${at}: expected ${shape}, found ${kindOf(turn)}.`);
    }
    for (const [name, value] of Object.entries(record)) {
      if (value !== null && !KNOWN_KEYS.has(name)) note(`${key}[].${name}`);
    }
    marks.push(readMark(record, at));
    return readTurn(record, at, (name) => note(`${key}[].${name}`));
  });
  return marks.some((mark) => mark !== undefined) ? { messages, marks } : { messages };
}

/** The same with a row's own system text put first, where it has one. UserError when the turns hold another. */
export function withSystem(conversation: Conversation, row: RowValue, where: string): Conversation {
  const system = row.system === undefined || row.system === null ? "" : stringAt(row, "system", where);
  if (system === "") return conversation;
  const { messages, marks } = conversation;
  if (messages[0]?.role === "system") {
    if (messages[0].content === system) return conversation;
    throw new UserError(
      `${where}: "system" and the first message are two different system texts; expected one of them.`,
    );
  }
  const first: ChatMessage = { role: "system", content: system };
  return { messages: [first, ...messages], ...(marks && { marks: [undefined, ...marks] }) };
}

function readTurn(record: RowValue, where: string, note: Note): ChatMessage {
  const { from, value, content, role: named } = record;
  const speakerKey = isSet(from) && !isSet(named) ? "from" : "role";
  const speaker = record[speakerKey];
  if (typeof speaker !== "string") {
    throw new UserError(
      `${where}: ${JSON.stringify(speakerKey)} must be a string, found ${kindOf(speaker)}.`,
    );
  }
  // Chat templates may know further roles; ShareGPT's speakers are a closed list.
  const role = roleNamed(speaker) ?? (speakerKey === "role" ? speaker : undefined);
  if (role === undefined) throw unknownSpeaker(speaker, where);
  if (speakerKey === "role" && isSet(from) && roleNamed(String(from)) !== role)
    throw twice(where, "role", "from");
  if (isSet(content) && isSet(value) && content !== value) throw twice(where, "content", "value");
  const words = isSet(content) ? content : value;
  const calls =
    role === "call"
      ? readCalls(typeof words === "string" ? words : stringAt({ value: words }, "value", where), where)
      : callsOf(record.tool_calls, record.function_call, role, where);
  if (!isSet(words) && (calls === undefined || calls.length === 0)) throw missingWords(speakerKey, where);
  const text = role === "call" ? "" : isSet(words) ? contentText(words, speakerKey, where, note) : undefined;
  // Keys stay in their order, because some templates print whole messages.
  const message = new Map<string, unknown>();
  for (const [key, held] of Object.entries(record)) {
    if (held === null || markKeys.has(key)) continue;
    if (key === "role" || key === "from") message.set("role", role === "call" ? "assistant" : role);
    else if (key === "content" || key === "value") message.set("content", text);
    else if (key !== "tool_calls" && key !== "function_call") message.set(key, held);
    else if (calls !== undefined) message.set("tool_calls", calls);
  }
  if (calls !== undefined) message.set("tool_calls", calls);
  return Object.fromEntries(message) as unknown as ChatMessage;
}

const isSet = (value: unknown) => value !== undefined && value !== null;

function missingWords(speakerKey: string, where: string): UserError {
  if (speakerKey === "from") return new UserError(`${where}: "value" must be a string, found nothing.`);
  return new UserError(`${where}: "content" is missing, and there are no "tool_calls" either.`);
}

function twice(where: string, one: string, other: string): UserError {
  return new UserError(`${where}: "${one}" and "${other}" differ; expected one of them.`);
}

function unknownSpeaker(speaker: string, where: string): UserError {
  const near = nearestName(speaker, [...ROLES.keys()]);
  return new UserError(
    `${where}: unknown speaker ${JSON.stringify(speaker)}; expected human, gpt, system, function_call or observation.${near ? ` Did you mean ${near}?` : ""}`,
  );
}

/** Content is text, or a list of parts of which only text parts can be learnt. */
function contentText(content: unknown, speakerKey: string, where: string, note: Note): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) {
    const key = speakerKey === "from" ? "value" : "content";
    throw new UserError(`${where}: "${key}" must be a string, found ${kindOf(content)}.`);
  }
  return content
    .map((part: unknown) => {
      const { type, text, ...rest } = recordOf(part) ?? {};
      if (type === "text" && typeof text === "string") {
        refusePartMarks(rest, where);
        for (const [name, value] of Object.entries(rest)) {
          if (isSet(value) && !markKeys.has(name)) note(`content[].${name}`);
        }
        return text;
      }
      throw new UserError(
        `${where}: a part of "content" is ${JSON.stringify(typeof type === "string" ? type : null)}; only text parts are supported.`,
      );
    })
    .join("");
}

/** A part that is not to be learnt would be learnt with its message. */
function refusePartMarks(part: RowValue, where: string): void {
  if (readMark(part, `${where}, a part of "content"`) !== false) return;
  const key = Object.keys(part).find((name) => markKeys.has(name));
  throw new UserError(
    `${where}: ${JSON.stringify(key)} marks a part of "content", which is not supported; mark the whole message, or split it.`,
  );
}

/** tool_calls, or OpenAI's older function_call as one of them; undefined when there are none. */
function callsOf(given: unknown, legacy: unknown, role: string, where: string): unknown[] | undefined {
  const calls = jsonTextAt({ tool_calls: given }, "tool_calls", where);
  if (isSet(calls) && !Array.isArray(calls)) {
    throw new UserError(`${where}: "tool_calls" must be an array, found ${kindOf(calls)}.`);
  }
  const listed = Array.isArray(calls) ? (calls as unknown[]) : undefined;
  if (!isSet(legacy)) return listed;
  if (listed !== undefined && listed.length > 0) throw twice(where, "tool_calls", "function_call");
  if (role !== "assistant") {
    throw new UserError(
      `${where}: a "function_call" is the assistant's, and this message's role is ${JSON.stringify(role)}.`,
    );
  }
  const call = recordOf(jsonTextAt({ function_call: legacy }, "function_call", where));
  if (typeof call?.name !== "string") {
    throw new UserError(`${where}: a "function_call" needs "name", a string, and "arguments".`);
  }
  return [{ type: "function", function: { name: call.name, arguments: call.arguments ?? {} } }];
}

/** ShareGPT's calls, which are JSON in a turn's text. */
function readCalls(value: string, where: string): unknown[] {
  let parsed: unknown;
  try {
    parsed = parseExactJson(value);
  } catch {
    throw new UserError(
      `${where}: a function_call must be JSON {"name", "arguments"}; this is not valid JSON.`,
    );
  }
  return (Array.isArray(parsed) ? parsed : [parsed]).map((call: unknown) => {
    const { name, arguments: args } = recordOf(call) ?? {};
    if (typeof name !== "string") {
      throw new UserError(`${where}: a function_call needs "name", a string, and "arguments".`);
    }
    return { type: "function", function: { name, arguments: args ?? {} } };
  });
}
