// Calls of tools in what a model says: Hermes' and Qwen's <tool_call>{"name", "arguments"}</tool_call>. The text before
// the first call is content; what does not parse stays text. Templates that ask for another form give plain text.

import { parseExactJson, recordOf } from "../text/exact-json.ts";
import { exactJsonText } from "../text/template-values.ts";

export interface ToolCall {
  readonly name: string;
  /** JSON text, as the API has it: numbers and the order of keys as the model wrote them, spaced as by vLLM. */
  readonly arguments: string;
}

const opening = "<tool_call>";

/** Lets content through as it comes and keeps everything from the first call on to the end. */
export class ToolCallGate {
  private held = "";
  private called = false;

  constructor(private readonly emit: (text: string) => void) {}

  push(text: string): void {
    this.held += text;
    if (this.called) return;
    const at = this.held.indexOf(opening);
    if (at >= 0) {
      this.called = true;
      this.release(at);
      return;
    }
    let doubtful = Math.min(opening.length - 1, this.held.length);
    while (doubtful > 0 && !this.held.endsWith(opening.slice(0, doubtful))) doubtful--;
    this.release(this.held.length - doubtful);
  }

  /** The calls; text that is none goes out as content. */
  finish(): ToolCall[] {
    if (!this.called) {
      this.release(this.held.length);
      return [];
    }
    const calls: ToolCall[] = [];
    const rest = this.held.replace(/<tool_call>([\s\S]*?)(?:<\/tool_call>|$)/g, (whole, inside: string) => {
      const call = parseCall(inside);
      if (!call) return whole;
      calls.push(call);
      return "";
    });
    this.held = rest.trim() === "" ? "" : rest;
    this.release(this.held.length);
    return calls;
  }

  private release(length: number): void {
    const text = this.held.slice(0, length);
    this.held = this.held.slice(length);
    if (text !== "") this.emit(text);
  }
}

function parseCall(text: string): ToolCall | undefined {
  try {
    const { name, arguments: given = {} } = recordOf(parseExactJson(text)) ?? {};
    if (typeof name !== "string") return undefined;
    return { name, arguments: typeof given === "string" ? given : exactJsonText(given) };
  } catch {
    return undefined;
  }
}
