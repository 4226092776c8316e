// The pieces of a conversation that a chat template must not lose, each with marks that can be followed through a
// rendering: a character before a text and one behind it, or one behind a word such as a tool's name. PieceMarker builds
// the marked copies of messages and tools, MarkedText finds a piece again. What a missing one means: dropped-content.ts.

import { type ChatMessage, THOUGHT_KEYS } from "./chat-messages.ts";

export type PieceKind = "text" | "thought" | "tool" | "tool call";

export interface Piece {
  readonly kind: PieceKind;
  /** Index of its message; undefined for tools. */
  readonly message: number | undefined;
  /** For people: its thought "Adding two and two." */
  readonly what: string;
  /** A thought between tags in a message's content. */
  readonly inContent: boolean;
  /** "word": a name or a key, marked behind; "whole": a text, marked on both sides. */
  readonly form: "whole" | "word";
  readonly open: string;
  readonly close: string;
  readonly text: string;
  /** Its text without white space. */
  readonly squeezed: string;
  /** How else it may be written, without white space: as JSON, HTML and Python write its characters. */
  readonly otherSpellings: readonly string[];
}

/** Private-use characters of plane 16, two for each piece; a conversation that holds some is not marked. */
const FIRST_MARK = 0x100000;
const MOST_PIECES = 32_000;
const MARKS = /[\u{100000}-\u{10fffd}]/u;
const EVERY_MARK = /[\u{100000}-\u{10fffd}]/gu;
/** What is longer is not looked into: arguments are nested a few levels deep. */
const DEEPEST = 64;

type Owner = Pick<Piece, "kind" | "message" | "what" | "inContent">;

export class PieceMarker {
  readonly pieces: Piece[] = [];
  /** False when marks could be mistaken: too many pieces, or text that holds marks itself. */
  reliable = true;

  message(message: ChatMessage, index: number): ChatMessage {
    const marked: Record<string, unknown> = { ...message };
    const owner = (kind: PieceKind, what: string, inContent = false): Owner => ({
      kind,
      message: index,
      what,
      inContent,
    });
    // The same thought under several names is one piece.
    const thoughts = new Map<string, string>();
    for (const key of THOUGHT_KEYS) {
      const thought = message[key];
      if (typeof thought !== "string") continue;
      if (!thoughts.has(thought)) {
        thoughts.set(thought, this.whole(thought, owner("thought", `its thought ${excerpt(thought)}`)));
      }
      marked[key] = thoughts.get(thought);
    }
    if (typeof message.content === "string")
      marked.content = this.content(message.content, message.role, owner);
    if (message.role === "assistant" && Array.isArray(message.tool_calls)) {
      marked.tool_calls = message.tool_calls.map((call: unknown) =>
        this.call(call, (name) => owner("tool call", `its tool call ${JSON.stringify(name)}`)),
      );
    }
    return marked as ChatMessage;
  }

  tool(tool: unknown): unknown {
    const name = nameOf(tool);
    const what = name === undefined ? "a tool without a name" : `the tool ${JSON.stringify(name)}`;
    const owner: Owner = { kind: "tool", message: undefined, what, inContent: false };
    if (name === undefined) return this.values(tool, owner, 0);
    return inner(tool, (described) => ({
      ...described,
      name: this.word(name, owner),
      ...(typeof described.description === "string" && {
        description: this.whole(described.description, owner),
      }),
      ...(isPlainObject(described.parameters) && {
        parameters: this.parameters(described.parameters, owner),
      }),
    }));
  }

  /** An answer's thoughts are pieces of their own: templates may write them anew between other tags. */
  private content(
    content: string,
    role: string,
    owner: (kind: PieceKind, what: string, inContent?: boolean) => Owner,
  ): string {
    const parts = role === "assistant" ? content.split(THOUGHT_TAGS) : [content];
    return parts
      .map((part, i) => {
        if (i % 2 === 1) return part;
        const thinks = /^[<[]\//.test(parts[i + 1] ?? "");
        return this.whole(
          part,
          thinks
            ? owner("thought", `its thought ${excerpt(part)}`, true)
            : owner("text", `its text ${excerpt(part)}`),
        );
      })
      .join("");
  }

  private call(call: unknown, ownerOf: (name: string) => Owner): unknown {
    const name = nameOf(call);
    if (name === undefined) return this.values(call, ownerOf("without a name"), 0);
    const owner = ownerOf(name);
    return inner(call, (called) => ({
      ...called,
      name: this.word(name, owner),
      ...("arguments" in called && {
        arguments:
          typeof called.arguments === "string"
            ? this.whole(called.arguments, owner)
            : this.values(called.arguments, owner, 0),
      }),
    }));
  }

  /** The names of a tool's parameters; what a template makes of their types is its own affair. */
  private parameters(schema: PlainObject, owner: Owner): PlainObject {
    const entries = entriesOf(schema.properties);
    if (!entries) return schema;
    const named = entries.map(([key, type]) => [this.word(key, owner), type] as const);
    return {
      ...schema,
      properties: schema.properties instanceof Map ? new Map(named) : Object.fromEntries(named),
    };
  }

  private values(value: unknown, owner: Owner, depth: number): unknown {
    if (typeof value === "string") return this.whole(value, owner);
    if (depth >= DEEPEST) return value;
    if (Array.isArray(value)) return value.map((item) => this.values(item, owner, depth + 1));
    const entries = entriesOf(value);
    if (!entries) return value;
    const marked = entries.map(
      ([key, item]) => [this.word(key, owner), this.values(item, owner, depth + 1)] as const,
    );
    return value instanceof Map ? new Map(marked) : Object.fromEntries(marked);
  }

  /** White space and tags around a text stay outside its marks: templates trim the one and look for the other. */
  private whole(text: string, owner: Owner): string {
    const [lead] = /^\s*(?:<[^<>\s]{1,40}>\s*)?/.exec(text)!;
    const rest = text.slice(lead.length);
    const trimmed = rest.trimEnd();
    const tag = trimmed.lastIndexOf("</");
    const closed = tag >= 0 && /^<\/[^<>\s]{1,40}>$/.test(trimmed.slice(tag));
    const core = closed ? trimmed.slice(0, tag).trimEnd() : trimmed;
    if (core === "") return text.trim() === "" ? text : this.around(text, text.trim(), owner);
    return this.around(text, core, owner, lead.length);
  }

  private around(text: string, core: string, owner: Owner, at = text.indexOf(core)): string {
    const piece = this.add(core, "whole", owner);
    return text.slice(0, at) + piece.open + core + piece.close + text.slice(at + core.length);
  }

  private word(word: string, owner: Owner): string {
    return word.trim() === "" ? word : word + this.add(word, "word", owner).close;
  }

  private add(text: string, form: Piece["form"], owner: Owner): Piece {
    const i = this.pieces.length;
    if (i >= MOST_PIECES || MARKS.test(text)) this.reliable = false;
    const code = FIRST_MARK + 2 * Math.min(i, MOST_PIECES);
    let squeezed: string | undefined;
    let others: string[] | undefined;
    const piece: Piece = {
      ...owner,
      form,
      open: String.fromCodePoint(code),
      close: String.fromCodePoint(code + 1),
      text,
      get squeezed() {
        squeezed ??= squeeze(text);
        return squeezed;
      },
      get otherSpellings() {
        others ??= [...new Set(spellingsOf(text).map(squeeze))].filter((words) => words !== this.squeezed);
        return others;
      },
    };
    this.pieces.push(piece);
    return piece;
  }
}

/** A marked rendering, with every mark's places looked up once. */
export class MarkedText {
  private readonly text: string;
  private readonly places = new Map<string, number[]>();

  constructor(rendered: string) {
    this.text = unescapeMarks(rendered);
    for (const { 0: mark, index } of this.text.matchAll(EVERY_MARK)) {
      const places = this.places.get(mark);
      if (places) places.push(index);
      else this.places.set(mark, [index]);
    }
  }

  /** Where the piece stands whole, from `from` on; undefined where it does not. */
  find(piece: Piece, from: number): number | undefined {
    const { form, open, close } = piece;
    const closes = this.places.get(close) ?? [];
    if (form === "word") return closes.find((at) => at >= from);
    let next = 0;
    for (const at of this.places.get(open) ?? []) {
      if (at < from) continue;
      while (next < closes.length && closes[next]! < at) next++;
      if (next === closes.length) return undefined;
      const shown = this.text.slice(at + open.length, closes[next]);
      if (shown === piece.text) return at;
      const words = squeeze(shown);
      if (words === piece.squeezed || piece.otherSpellings.includes(words)) return at;
    }
    return undefined;
  }
}

/** Tags around thoughts: <think>, [THINK], <seed:think>, <reasoning>. */
const THOUGHT_TAGS = /(<\/?(?:[a-z]{1,16}:)?(?:think|thinking|thought|reason|reasoning)>|\[\/?THINK\])/i;

/** Without white space, which templates trim and add. */
export function squeeze(text: string): string {
  return text.replace(/\s+/g, "");
}

function spellingsOf(text: string): string[] {
  const json = JSON.stringify(text).slice(1, -1);
  const ascii = json.replace(
    /[\u0080-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  const python = json.replaceAll('\\"', '"').replaceAll("'", "\\'");
  const html = text.replace(/[&<>"']/g, (letter) => HTML[letter]!);
  return [json, ascii, html, python, python.replaceAll("\\'", "'")];
}

const HTML: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&#34;",
  "'": "&#39;",
};

function excerpt(text: string): string {
  const line = text.trim().slice(0, 400).replace(/\s+/g, " ");
  return JSON.stringify(line.length > 60 ? `${line.slice(0, 57)}...` : line);
}

/** Marks that a template wrote as JSON in ASCII or as Python prints values, as they were. */
function unescapeMarks(text: string): string {
  const plain = text.replace(/\\U(0010[0-9a-f]{4})/gi, (_, code: string) =>
    String.fromCodePoint(Number.parseInt(code, 16)),
  );
  return plain.replace(/\\u(db[c-f][0-9a-f])\\u(d[c-f][0-9a-f]{2})/gi, (_, high: string, low: string) =>
    String.fromCharCode(Number.parseInt(high, 16), Number.parseInt(low, 16)),
  );
}

type PlainObject = Readonly<Record<string, unknown>>;

function isPlainObject(value: unknown): value is PlainObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Of an object in either of the forms that exact-json.ts gives it; numbers and others have none. */
function entriesOf(value: unknown): [string, unknown][] | undefined {
  if (value instanceof Map) return [...(value as Map<string, unknown>)];
  return isPlainObject(value) ? Object.entries(value) : undefined;
}

/** Calls and tools are {"function": {"name", ...}} or {"name", ...}. */
function nameOf(value: unknown): string | undefined {
  if (!isPlainObject(value)) return undefined;
  const { name } = isPlainObject(value.function) ? value.function : value;
  return typeof name === "string" ? name : undefined;
}

/** The object with its named part replaced. */
function inner(value: unknown, replace: (named: PlainObject) => PlainObject): unknown {
  const record = value as PlainObject;
  return isPlainObject(record.function) ? { ...record, function: replace(record.function) } : replace(record);
}
