// Rows {"conversations": [{"from", "value"}], "system"?, "tools"?}: ShareGPT. Its speakers are mapped to roles; a
// function_call becomes an assistant message with tool_calls, an observation a tool message.

import type { ChatMessage } from "../text/chat-template.ts";
import { nearestName, UserError } from "../util/errors.ts";
import { kindOf, type RowFormat, type RowValue, stringAt, toolsAt } from "./row.ts";

const ROLES: ReadonlyMap<string, string> = new Map([
  ["human", "user"],
  ["user", "user"],
  ["gpt", "assistant"],
  ["chatgpt", "assistant"],
  ["assistant", "assistant"],
  ["model", "assistant"],
  ["system", "system"],
  ["function_call", "call"],
  ["observation", "tool"],
  ["function_response", "tool"],
  ["tool", "tool"],
]);

export const sharegpt: RowFormat = {
  name: "sharegpt",
  shape: '{"conversations"}',
  keys: ["conversations", "system", "tools"],
  matches: (row) => "conversations" in row,
  toExample(row, where) {
    const list = row.conversations;
    if (!Array.isArray(list) || list.length === 0) {
      throw new UserError(
        `${where}: "conversations" must be a non-empty array of {"from", "value"}, found ${Array.isArray(list) ? "an empty array" : kindOf(list)}.`,
      );
    }
    const turns = list.map((turn: unknown, i) => readTurn(turn, `${where}, turn ${i + 1}`));
    const system = row.system === undefined || row.system === null ? "" : stringAt(row, "system", where);
    return {
      kind: "chat",
      messages: system === "" ? turns : [{ role: "system", content: system }, ...turns],
      tools: toolsAt(row, where)?.map(asTool),
    };
  },
};

function readTurn(turn: unknown, where: string): ChatMessage {
  if (typeof turn !== "object" || turn === null || Array.isArray(turn)) {
    throw new UserError(`${where}: expected {"from", "value"}, found ${kindOf(turn)}.`);
  }
  const from = stringAt(turn as RowValue, "from", where);
  const value = stringAt(turn as RowValue, "value", where);
  const role = ROLES.get(from);
  if (role === undefined) {
    const near = nearestName(from, [...ROLES.keys()]);
    throw new UserError(
      `${where}: unknown speaker ${JSON.stringify(from)}; expected human, gpt, system, function_call or observation.${near ? ` Did you mean ${near}?` : ""}`,
    );
  }
  if (role !== "call") return { role, content: value };
  return { role: "assistant", content: "", tool_calls: readCalls(value, where) };
}

function readCalls(value: string, where: string): unknown[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    throw new UserError(
      `${where}: a function_call must be JSON {"name", "arguments"}; this is not valid JSON.`,
    );
  }
  return (Array.isArray(parsed) ? parsed : [parsed]).map((call: unknown) => {
    const { name, arguments: args } = (call ?? {}) as { name?: unknown; arguments?: unknown };
    if (typeof name !== "string") {
      throw new UserError(`${where}: a function_call needs "name", a string, and "arguments".`);
    }
    return { type: "function", function: { name, arguments: args ?? {} } };
  });
}

/** Bare function descriptions get the wrapper that chat templates expect. */
function asTool(tool: unknown): unknown {
  if (typeof tool !== "object" || tool === null || "function" in tool) return tool;
  return { type: "function", function: tool };
}
