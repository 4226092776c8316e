// Log-probabilities of a prompt's own tokens as answers tell of them: OpenAI's four lists, and vLLM's prompt_logprobs. The
// numbers stay in the arrays that the engine thread sent; objects are made one by one while they are written. How many of
// them the server holds at one time is bounded here.

import type { PromptPiece, TokenReport } from "./jobs.ts";
import { overloaded } from "./read-body.ts";

/** How an answer writes a token: its text, or its id. */
export type Spelling = (token: { readonly id: number; readonly token: string }) => string;

/** JSON has no infinity; OpenAI's and vLLM's number in its place. */
const leastLogprob = -9999;

export const finite = (logprob: number): number => Math.max(logprob, leastLogprob);

export class PromptTable {
  private readonly pieces: { readonly start: number; readonly piece: PromptPiece }[] = [];
  private readonly spellings = new Map<number, string>();
  /** Tokens told of so far. */
  length = 0;
  private finished!: () => void;
  /** Resolves with the last token, or when no more come. */
  readonly whole = new Promise<void>((resolve) => {
    this.finished = resolve;
  });

  constructor(private readonly promptTokens: number) {}

  add(piece: PromptPiece): void {
    for (const [id, token] of piece.spellings) this.spellings.set(id, token);
    this.pieces.push({ start: this.length, piece });
    this.length += piece.ids.length;
    if (this.length >= this.promptTokens) this.finish();
  }

  finish(): void {
    this.finished();
  }

  /** A token, with `count` likeliest ones; undefined of the first, which nothing stands before. */
  report(index: number, count: number): TokenReport | undefined {
    const { piece, at } = this.find(index);
    const logprob = piece.logprobs[at]!;
    if (Number.isNaN(logprob)) return undefined;
    const each = piece.topIds.length / piece.ids.length;
    const top = Array.from({ length: Math.min(count, each) }, (_, k) => {
      const id = piece.topIds[at * each + k]!;
      return { id, token: this.spell(id), logprob: piece.topLogprobs[at * each + k]! };
    });
    return { ...this.token(index), logprob, top };
  }

  token(index: number): { readonly id: number; readonly token: string } {
    const { piece, at } = this.find(index);
    const id = piece.ids[at]!;
    return { id, token: this.spell(id) };
  }

  /** As vLLM's prompt_logprobs has it: by id, with ranks. */
  ranked(index: number, count: number): Record<string, object> | null {
    const report = this.report(index, count);
    if (!report) return null;
    const { piece, at } = this.find(index);
    const rank = piece.ranks[at]!;
    const listed = report.top.map(({ id, token, logprob }, k) => [id, token, logprob, k + 1] as const);
    const own = [report.id, report.token, report.logprob, rank] as const;
    return Object.fromEntries(
      [...listed.filter(([id]) => id !== report.id), own].map(([id, token, logprob, place]) => [
        id,
        { logprob: finite(logprob), rank: place, decoded_token: token },
      ]),
    );
  }

  private spell(id: number): string {
    return this.spellings.get(id) ?? "";
  }

  private find(index: number): { readonly piece: PromptPiece; readonly at: number } {
    let [low, high] = [0, this.pieces.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.pieces[middle]!.start <= index) low = middle;
      else high = middle - 1;
    }
    const { start, piece } = this.pieces[low]!;
    return { piece, at: index - start };
  }
}

/** Numbers of prompts' tokens that the server holds at one time, until their answers are read. */
export class ScoreRoom {
  private held = 0;

  constructor(private readonly most: number) {}

  /** RequestError (429) where there is no room; what it returns gives the room back, and may be called twice. */
  hold(count: number): () => void {
    if (count > 0 && this.held > 0 && this.held + count > this.most)
      throw overloaded(`${this.held} log-probabilities of prompts are at work already`);
    this.held += count;
    let left = count;
    return () => {
      this.held -= left;
      left = 0;
    };
  }
}
