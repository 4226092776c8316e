// Who takes part in the next pass, and with which tokens, so that a request's answer does not depend on whose rows share
// its passes. Devices compute few rows in one way and many in another (RowsAlike): a pass is of answers, a token each, or
// of prompts, which are cut into pieces by a grid of their own and enter in whole pieces, or of short prompts, whole and
// together no more than few rows. Not here: the pass, and what is added to one of too few prompts' tokens
// (forward-turns.ts).

import type { RowsAlike } from "../backend/backend.ts";

/** A request that has tokens to feed in. */
export interface Feeding {
  /** Tokens of its prompt, and how many of them are in. */
  readonly promptTokens: number;
  readonly fedTokens: number;
  /** Its prompt is in: one token goes in at a time. */
  readonly answering: boolean;
  /** The pass in which it last took part; 0: in none. */
  readonly servedIn: number;
}

export interface Turn<Request> {
  readonly run: Request;
  /** Tokens of each piece, in order. */
  readonly pieces: readonly number[];
}

export interface Pass<Request> {
  readonly turns: readonly Turn<Request>[];
  /** Of prompts; else of answers. */
  readonly prompts: boolean;
  /** Its rows are computed as many are. */
  readonly many: boolean;
}

/** Whether a prompt's rows are few: where few rows and many are both alike, it is then computed as few are. */
export function isShort(promptTokens: number, { few, many }: RowsAlike): boolean {
  return many && promptTokens <= few;
}

/** Tokens of the piece that comes after `fed` of a prompt's tokens: a function of the prompt alone. */
export function pieceAfter(length: number, fed: number, { few, piece }: RowsAlike): number {
  const rest = length - fed;
  // A few tokens that are left over are no piece of their own.
  return rest <= piece + Math.min(few, piece / 4) ? rest : piece;
}

/**
 * The tokens of the piece that comes after `fed` of these, where it is a whole one with others behind it: what they begin
 * with may then be held for, or taken over from, another text.
 */
export function sharedPiece(
  ids: readonly number[],
  fed: number,
  alike: RowsAlike,
): readonly number[] | undefined {
  const { piece } = alike;
  const whole = fed + piece < ids.length && pieceAfter(ids.length, fed, alike) === piece;
  return whole ? ids.slice(fed, fed + piece) : undefined;
}

/** All such pieces of a text, in order. */
export function* sharedPieces(ids: readonly number[], alike: RowsAlike): Generator<readonly number[]> {
  let fed = 0;
  for (let piece = sharedPiece(ids, fed, alike); piece; piece = sharedPiece(ids, fed, alike)) {
    yield piece;
    fed += piece.length;
  }
}

/**
 * The next pass over `runs`, at least one. Answers that wait since the last pass of prompts (`lastMany`) come first.
 * `room`: how many tokens of prompts a pass takes, one piece at least.
 */
export function chooseTurns<Request extends Feeding>(
  runs: readonly Request[],
  alike: RowsAlike,
  room: number,
  lastMany: number,
): Pass<Request> {
  const few = runs.filter(({ answering }) => answering);
  const many = runs.filter(({ answering }) => !answering);
  const waiting = few.some(({ servedIn }) => servedIn <= lastMany);
  if (few.length > 0 && (many.length === 0 || waiting))
    return { turns: fewTurns(few, alike), prompts: false, many: false };
  const short = ({ promptTokens }: Request) => isShort(promptTokens, alike);
  const [first] = many;
  if (first && short(first))
    return { turns: shortTurns(many.filter(short), alike), prompts: true, many: false };
  const long = many.filter((run) => !short(run));
  return { turns: manyTurns(long, alike, room), prompts: true, many: true };
}

/** Those who have waited longest; when not all fit, in passes of about the same size. */
function fewTurns<Request extends Feeding>(few: readonly Request[], alike: RowsAlike): Turn<Request>[] {
  const most = Math.ceil(few.length / Math.ceil(few.length / alike.few));
  const longest = [...few].sort((a, b) => a.servedIn - b.servedIn).slice(0, most);
  return longest.map((run) => ({ run, pieces: [1] }));
}

/** As many short prompts, one after the other, as are few rows together. */
function shortTurns<Request extends Feeding>(runs: readonly Request[], alike: RowsAlike): Turn<Request>[] {
  const turns: Turn<Request>[] = [];
  let taken = 0;
  for (const run of runs) {
    taken += run.promptTokens;
    if (taken > alike.few) break;
    turns.push({ run, pieces: [run.promptTokens] });
  }
  return turns;
}

/** As many whole pieces as fit; as few requests as the head, which takes a row of each, has a few rows. */
function manyTurns<Request extends Feeding>(
  many: readonly Request[],
  alike: RowsAlike,
  room: number,
): Turn<Request>[] {
  const turns: Turn<Request>[] = [];
  let taken = 0;
  for (const run of many) {
    if (turns.length === (alike.many ? alike.few : 1)) break;
    const pieces: number[] = [];
    for (let fed = run.fedTokens; fed < run.promptTokens; ) {
      const tokens = pieceAfter(run.promptTokens, fed, alike);
      const first = taken === 0;
      if (!first && (taken + tokens > room || !alike.many)) break;
      pieces.push(tokens);
      taken += tokens;
      fed += tokens;
    }
    if (pieces.length > 0) turns.push({ run, pieces });
  }
  return turns;
}
