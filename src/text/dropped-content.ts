// What a chat template leaves out of a conversation: texts, thoughts, tools and tool calls that do not stand in what it
// rendered. Every piece is looked for between marks of its own (marked-pieces.ts) in a second rendering; where the
// template reacted to the marks, the piece's words are looked for in the first one. White space does not count, and
// neither does how JSON or HTML writes a character. Used by chat-template.ts.

import type { ChatMessage } from "./chat-messages.ts";
import { MarkedText, type Piece, PieceMarker, squeeze } from "./marked-pieces.ts";

/** A bound on searching for words, far beyond conversations that people hold; what lies behind it counts as missing. */
const MOST_LETTERS_SEARCHED = 2 ** 33;

export interface Conversation {
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly unknown[];
}

export interface Dropped extends Pick<Piece, "kind" | "message" | "inContent"> {
  /** For people: message 2 (assistant): its thought "Adding two and two." */
  readonly description: string;
}

/** Shorter texts and words stand in many a rendering by chance: they count only by their marks. */
const TELLING_LETTERS = { whole: 12, word: 4 };

/** `conversation` is what the template saw when it gave `rendered`; `render` gives what it makes of another, if anything. */
export function findDropped(
  conversation: Conversation,
  rendered: string,
  render: (marked: Conversation) => string | undefined,
): Dropped[] {
  const marker = new PieceMarker();
  const tools = conversation.tools.map((tool) => marker.tool(tool));
  const messages = conversation.messages.map((message, i) => marker.message(message, i));
  const { pieces } = marker;
  const marked = marker.reliable ? render({ messages, tools }) : undefined;
  const missing =
    marked === undefined ? pieces : missingBetweenMarks(pieces, new MarkedText(marked), conversation);
  if (missing.length === 0) return [];
  const found = findWords(pieces, rendered, conversation);
  const lost = missing.filter((piece) => {
    if (marked === undefined) return !found.has(piece);
    // Words of one piece may stand inside another, so they speak for it only when there is a place for all.
    return found.size < pieces.length || !tells(piece);
  });
  const dropped = new Map<string, Dropped>();
  for (const { kind, message, inContent, what } of lost) {
    const description =
      message === undefined
        ? what
        : `message ${message + 1} (${conversation.messages[message]!.role}): ${what}`;
    dropped.set(description, { kind, message, inContent, description });
  }
  return [...dropped.values()];
}

function tells({ form, squeezed }: Piece): boolean {
  return squeezed.length >= TELLING_LETTERS[form];
}

/** Pieces that the marked rendering does not show whole, or shows before the text of an earlier message. */
function missingBetweenMarks(
  pieces: readonly Piece[],
  text: MarkedText,
  conversation: Conversation,
): Piece[] {
  const missing: Piece[] = [];
  let from = 0;
  for (const piece of pieces) {
    const ordered = piece.kind === "text" && keepsItsPlace(piece, conversation);
    const at = text.find(piece, ordered ? from : 0);
    if (at === undefined) missing.push(piece);
    else if (ordered) from = at;
  }
  return missing;
}

/** Pieces whose words stand in the text, each message's behind those of the message before. */
function findWords(pieces: readonly Piece[], rendered: string, conversation: Conversation): Set<Piece> {
  const text = squeeze(rendered);
  const found = new Set<Piece>();
  let message: number | undefined;
  let [start, end] = [0, 0];
  let taken: Place[] = [];
  const wordEnds = new Map<string, number>();
  let searches = 0;
  for (const piece of pieces) {
    if (++searches * text.length > MOST_LETTERS_SEARCHED) break;
    const ordered = keepsItsPlace(piece, conversation);
    if (ordered && piece.message !== message) {
      message = piece.message;
      start = end;
      taken = [];
    }
    if (piece.form === "word") {
      // As many places as there are pieces, wherever they are: a name stands in a tool and in each of its calls.
      const place = placeOf(piece, text, wordEnds.get(piece.squeezed) ?? 0, []);
      if (place === undefined) continue;
      found.add(piece);
      wordEnds.set(piece.squeezed, place.end);
      continue;
    }
    const place = placeOf(piece, text, ordered ? start : 0, taken);
    if (place === undefined) continue;
    found.add(piece);
    if (!ordered) continue;
    taken.push(place);
    end = Math.max(end, place.end);
  }
  return found;
}

/** Tools and system messages may stand where the template wants them. */
function keepsItsPlace({ message }: Piece, { messages }: Conversation): boolean {
  return message !== undefined && messages[message]!.role !== "system";
}

interface Place {
  readonly start: number;
  readonly end: number;
}

/** The first place of the piece's words from `from` on; two texts of one message are two places. */
function placeOf(piece: Piece, text: string, from: number, taken: readonly Place[]): Place | undefined {
  const first = placeOfWords(piece.squeezed, text, from, taken);
  if (first) return first;
  for (const words of piece.otherSpellings) {
    const place = placeOfWords(words, text, from, taken);
    if (place) return place;
  }
  return undefined;
}

function placeOfWords(words: string, text: string, from: number, taken: readonly Place[]): Place | undefined {
  let start = text.indexOf(words, from);
  while (start >= 0) {
    const end = start + words.length;
    const other = taken.find((place) => start < place.end && place.start < end);
    if (!other) return { start, end };
    start = text.indexOf(words, other.end);
  }
  return undefined;
}
