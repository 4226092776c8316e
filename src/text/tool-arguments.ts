// Whether a template wants the arguments of tool calls as an object or as JSON text: found by rendering a call of ours
// both ways. `arguments | tojson` and loops over arguments want an object, and get the text of a row or a request
// parsed, as vLLM and SGLang do; `'...' + arguments` wants the text as it is. Used by chat-template.ts.

import type { ChatMessage } from "./chat-messages.ts";
import { argumentsText, parseArguments } from "./parse-arguments.ts";

/** What arrives in the rendered text whole: arguments given as an object, and given as JSON text. */
export interface ArgumentForms {
  readonly object: boolean;
  readonly text: boolean;
}

/** Renders a conversation with these tools; undefined when the template refuses it. */
export type TryRender = (
  messages: readonly ChatMessage[],
  tools: readonly unknown[] | undefined,
) => string | undefined;

const [KEY, VALUE] = ["probed_key", "probed value"];
const TEXT = `{"${KEY}": "${VALUE}"}`;
const NAME = "probed_tool";
const TOOL = {
  type: "function",
  function: { name: NAME, description: NAME, parameters: { type: "object", properties: {} } },
};

/** Both false where the template shows no call of ours in either form. */
export function findArgumentForms(render: TryRender): ArgumentForms {
  for (const tools of [[TOOL], undefined]) {
    for (const answered of [true, false]) {
      const given = (args: unknown) => render(conversation(args, answered), tools);
      const text = given(TEXT)?.includes(TEXT) ?? false;
      const rendered = given({ [KEY]: VALUE });
      const object = (rendered?.includes(KEY) && rendered.includes(VALUE)) ?? false;
      if (text || object) return { object, text };
    }
  }
  return { object: false, text: false };
}

/** Nine letters and digits: some templates insist on such ids. */
const ID = "probed001";

function conversation(args: unknown, answered: boolean): ChatMessage[] {
  const call = { id: ID, type: "function", function: { name: NAME, arguments: args } };
  const messages: ChatMessage[] = [
    { role: "user", content: "ask" },
    { role: "assistant", content: "", tool_calls: [call] },
  ];
  return answered ? [...messages, { role: "tool", tool_call_id: ID, name: NAME, content: "told" }] : messages;
}

export function hasArguments(messages: readonly ChatMessage[]): boolean {
  return messages.some(
    ({ role, tool_calls: calls }) => role === "assistant" && Array.isArray(calls) && calls.length > 0,
  );
}

/**
 * The conversation with arguments in a form that arrives, as an object where neither did; text that is no JSON object
 * stays as it is.
 */
export function withArguments(
  messages: readonly ChatMessage[],
  forms: ArgumentForms,
): readonly ChatMessage[] {
  const convert = (args: unknown): unknown => {
    if (typeof args === "string") return forms.text ? args : (parseArguments(args) ?? args);
    if (typeof args !== "object" || args === null) return args;
    return forms.object || !forms.text ? args : argumentsText(args);
  };
  return messages.map((message) => {
    const { role, tool_calls: calls } = message;
    if (role !== "assistant" || !Array.isArray(calls)) return message;
    return { ...message, tool_calls: calls.map((call: unknown) => convertCall(call, convert)) };
  });
}

/** Calls are {"function": {"name", "arguments"}}, or in some rows {"name", "arguments"}. */
function convertCall(call: unknown, convert: (args: unknown) => unknown): unknown {
  if (typeof call !== "object" || call === null) return call;
  const record = call as Readonly<Record<string, unknown>>;
  const inner = record.function;
  if (typeof inner === "object" && inner !== null && "arguments" in inner) {
    return { ...record, function: { ...inner, arguments: convert(inner.arguments) } };
  }
  return "arguments" in record ? { ...record, arguments: convert(record.arguments) } : call;
}
