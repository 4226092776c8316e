// Finds what the assistant says in a rendered conversation when the template does not mark it: renders ever
// longer beginnings of the conversation and compares them with the whole. Nothing about any model is assumed;
// where the comparison does not come out, it says so instead of guessing. Used by chat-template.ts.
//
//   full:     [system][user][header]answer<end>[user][header]answer<end>
//   before:   [system][user][header]                 messages so far, asked for an answer: the turn starts here
//   through:  [system][user][header]answer<end>      messages up to and with the answer: and ends here

import type { ChatMessage } from "./chat-messages.ts";
import type { Span } from "./generation-marks.ts";
import { unlessRefused } from "./unless-refused.ts";

export interface PartialRenderer {
  render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string;
  /** Some templates close every complete rendering with it, and not each turn. */
  readonly eosToken: string | undefined;
}

export type FoundSpans =
  | { readonly spans: readonly Span[]; readonly promptAgrees: boolean }
  | { readonly problem: string };

export function findAssistantSpans(
  messages: readonly ChatMessage[],
  full: string,
  renderer: PartialRenderer,
): FoundSpans {
  const spans: Span[] = [];
  let promptAgrees = true;
  let from = 0;
  for (const [i, message] of messages.entries()) {
    if (message.role !== "assistant") continue;
    const start = turnStart(messages, i, full, renderer);
    if (start === undefined || start.at < from) {
      return { problem: `turn ${i + 1} does not follow the text rendered before it` };
    }
    promptAgrees &&= start.agrees;
    const last = i === messages.length - 1;
    const end = last ? full.length : turnEnd(messages, i, full, start.at, renderer);
    if (end === undefined || end < start.at) {
      return { problem: `turn ${i + 1} is rendered differently once more turns follow` };
    }
    if (!says(full.slice(start.at, end), message)) {
      return { problem: `turn ${i + 1} loses its answer or its tool call in rendering` };
    }
    spans.push({ start: start.at, end, message: i });
    from = end;
  }
  return { spans, promptAgrees };
}

/**
 * Which message each marked span belongs to, for templates with {% generation %}: one a turn in order, where the texts
 * agree; else by the spans of ever longer beginnings of the conversation. Where they cannot be told, all stay without one.
 */
export function assignSpans(
  messages: readonly ChatMessage[],
  full: string,
  spans: readonly Span[],
  markedIn: (beginning: readonly ChatMessage[]) => readonly string[] | undefined,
): readonly Span[] {
  const texts = spans.map(({ start, end }) => full.slice(start, end));
  const turns = [...messages.keys()].filter((i) => messages[i]!.role === "assistant");
  if (turns.length === spans.length && texts.every((text, k) => says(text, messages[turns[k]!]!))) {
    return spans.map(({ start, end }, k) => ({ start, end, message: turns[k]! }));
  }
  const assigned: Span[] = [];
  for (const i of turns) {
    const known = i === messages.length - 1 ? texts : markedIn(messages.slice(0, i + 1));
    if (known === undefined || known.length < assigned.length || known.length > spans.length) return spans;
    // An earlier thought may be gone once more turns follow, but how a span ends stays.
    for (let k = assigned.length; k < known.length; k++) {
      const [part, whole] = [known[k]!, texts[k]!];
      const compared = Math.min(ENDING, part.length, whole.length);
      if (part.slice(part.length - compared) !== whole.slice(whole.length - compared)) return spans;
      assigned.push({ start: spans[k]!.start, end: spans[k]!.end, message: i });
    }
  }
  return assigned.length === spans.length ? assigned : spans;
}

/** Characters compared. */
const ENDING = 16;

/** Stands in no conversation: a private-use character. */
const MARK = "\u{f5a1c}";

function turnStart(
  messages: readonly ChatMessage[],
  i: number,
  full: string,
  renderer: PartialRenderer,
): { at: number; agrees: boolean } | undefined {
  const before = unlessRefused(() => renderer.render(messages.slice(0, i), true));
  const bare = unlessRefused(() => renderer.render(messages.slice(0, i), false));
  if (before !== undefined && full.startsWith(before)) return { at: before.length, agrees: true };
  if (before !== undefined && bare !== undefined) {
    const at = whereTheyPart(before, bare, full, renderer);
    if (at !== undefined) return { at, agrees: false };
  }
  const behind = behindThePrevious(messages, i, full, renderer);
  if (behind !== undefined) return { at: behind, agrees: false };
  // Templates that move the system prompt to the last user turn: the answer itself can still be found.
  const content = locateContent(messages, i, full, renderer);
  return content && { at: content.start, agrees: false };
}

/**
 * Reasoning models open a thought in the prompt that a finished turn does not show: the turn starts where the two part,
 * which must lie behind the messages themselves.
 */
function whereTheyPart(
  before: string,
  bare: string,
  full: string,
  renderer: PartialRenderer,
): number | undefined {
  const shared = commonPrefix(before, full);
  for (const body of withAndWithout(bare, renderer.eosToken)) {
    if (full.startsWith(body) && shared >= body.length && before.startsWith(body))
      return body.length + wholeMarkup(full.slice(body.length, shared)).length;
  }
  return undefined;
}

/**
 * Where turn i starts in a text whose beginning is another than that of the messages so far: a template may drop earlier
 * thoughts once an answer follows (gpt-oss), or show tools before the last question only (Mistral). What stands between
 * the message before and what it asks for is the same in both, and a mark says where that begins.
 */
function behindThePrevious(
  messages: readonly ChatMessage[],
  i: number,
  full: string,
  renderer: PartialRenderer,
): number | undefined {
  const previous = messages[i - 1];
  if (previous === undefined || previous.role === "assistant" || typeof previous.content !== "string")
    return undefined;
  const marked = messages.map((message, j) =>
    j === i - 1 ? { ...message, content: `${previous.content}${MARK}` } : message,
  );
  const behind = (part: readonly ChatMessage[], asks: boolean) => {
    const parts = unlessRefused(() => renderer.render(part, asks))?.split(MARK);
    return parts?.length === 2 ? parts[1]! : undefined;
  };
  const tail = behind(marked, false);
  if (tail === undefined || !full.endsWith(tail)) return undefined;
  const [before, bare] = [behind(marked.slice(0, i), true), behind(marked.slice(0, i), false)];
  if (before === undefined || bare === undefined) return undefined;
  const length = tail.startsWith(before) ? before.length : whereTheyPart(before, bare, tail, renderer);
  return length === undefined ? undefined : full.length - tail.length + length;
}

function turnEnd(
  messages: readonly ChatMessage[],
  i: number,
  full: string,
  start: number,
  renderer: PartialRenderer,
): number | undefined {
  const upTo = messages.slice(0, i + 1);
  const through = unlessRefused(() => renderer.render(upTo, false));
  if (through === undefined) return undefined;
  const candidates = withAndWithout(through, renderer.eosToken);
  for (const candidate of candidates) {
    if (candidate.length > start && full.startsWith(candidate)) return candidate.length;
  }
  // The turn may open differently while it is the last (an empty thought, say) and yet say and end the same:
  // the longest text from `start` on that ends `through`.
  for (const candidate of candidates) {
    const length = longestBorder(full.slice(start, start + candidate.length), candidate);
    if (length > 0 && says(full.slice(start, start + length), messages[i]!)) return start + length;
  }
  // Or a thought before its tool call is another once more turns follow: the longest end of `through` that stands there.
  for (const candidate of candidates) {
    const length = longestEnding(candidate, full, start);
    const ending = candidate.slice(candidate.length - length);
    const at = full.indexOf(ending, start);
    const once = full.indexOf(ending, at + 1) < 0;
    if (length > 0 && once && messages[i]!.tool_calls !== undefined && says(ending, messages[i]!))
      return at + length;
  }
  // Or it ends differently while it is the last: keep what both endings share.
  const inFull = locateContent(messages, i, full, renderer);
  const ending = probe(upTo, i, renderer)?.tail;
  if (inFull === undefined || ending === undefined || !through.endsWith(ending)) return undefined;
  const after = full.slice(inFull.end);
  return inFull.end + wholeMarkup(after.slice(0, commonPrefix(after, ending))).length;
}

/** Where message i's content stands in `text`, found by rendering another content in its place. */
function locateContent(
  messages: readonly ChatMessage[],
  i: number,
  text: string,
  renderer: PartialRenderer,
): Span | undefined {
  const around = probe(messages, i, renderer);
  if (around === undefined) return undefined;
  const { head, tail } = around;
  if (!text.startsWith(head) || !text.endsWith(tail) || head.length + tail.length > text.length)
    return undefined;
  return { start: head.length, end: text.length - tail.length };
}

/** What the template puts before and after message i's content, or undefined when it shows it not exactly once. */
function probe(
  messages: readonly ChatMessage[],
  i: number,
  renderer: PartialRenderer,
): { head: string; tail: string } | undefined {
  const probed = messages.map((message, j) => (j === i ? { ...message, content: MARK } : message));
  const parts = unlessRefused(() => renderer.render(probed, false))?.split(MARK);
  return parts?.length === 2 ? { head: parts[0]!, tail: parts[1]! } : undefined;
}

function withAndWithout(text: string, eosToken: string | undefined): string[] {
  return eosToken !== undefined && text.endsWith(eosToken) ? [text, text.slice(0, -eosToken.length)] : [text];
}

/** Guards against an accidental overlap: the text must hold the end of the answer, or the tool it calls. */
function says(text: string, message: ChatMessage): boolean {
  const lastLine = (message.content ?? "").trim().split("\n").at(-1)!.trim();
  if (lastLine !== "") return text.includes(lastLine.slice(-24));
  const calls = message.tool_calls;
  if (!Array.isArray(calls) || calls.length === 0) return true;
  const call = calls[calls.length - 1] as { name?: unknown; function?: { name?: unknown } };
  const name = call.function?.name ?? call.name;
  return typeof name === "string" && text.includes(name);
}

function commonPrefix(a: string, b: string): number {
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  return i;
}

/** Length of the longest end of `text` that stands in `within` at or behind `from`. */
function longestEnding(text: string, within: string, from: number): number {
  let [stands, fails] = [0, text.length + 1];
  while (fails - stands > 1) {
    const length = (stands + fails) >> 1;
    if (within.indexOf(text.slice(text.length - length), from) >= 0) stands = length;
    else fails = length;
  }
  return stands;
}

/** `text` without a special token cut in half at its end: "<|im" of two texts that go on differently. */
function wholeMarkup(text: string): string {
  const opened = Math.max(text.lastIndexOf("<"), text.lastIndexOf("["));
  const closed = Math.max(text.lastIndexOf(">"), text.lastIndexOf("]"));
  return opened > closed ? text.slice(0, opened) : text;
}

/** Length of the longest prefix of `head` that is a suffix of `tail` (Knuth, Morris and Pratt 1977). */
function longestBorder(head: string, tail: string): number {
  const failure = new Int32Array(head.length);
  for (let i = 1, k = 0; i < head.length; i++) {
    while (k > 0 && head[i] !== head[k]) k = failure[k - 1]!;
    if (head[i] === head[k]) k++;
    failure[i] = k;
  }
  let k = 0;
  for (let i = 0; i < tail.length; i++) {
    while (k > 0 && (k === head.length || tail[i] !== head[k])) k = failure[k - 1]!;
    if (tail[i] === head[k]) k++;
  }
  return k;
}
