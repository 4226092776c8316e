// Tokens as their texts, for log-probabilities: each is spelt once and kept. On the engine thread, whose answers need them.

import type { PromptLogprobs } from "../generate/prompt-logprobs.ts";
import type { TokenDecoder } from "../text/overlaid-decoder.ts";
import type { PromptPiece } from "./jobs.ts";

/** How tokens become text. */
export interface Speech {
  readonly decoder: TokenDecoder;
  /** Tokens spelt before, by id. */
  readonly spelt: Map<number, string>;
}

/** A token's text as it stands inside a text: SentencePiece drops the space of a first word. */
export function spell({ decoder, spelt }: Speech, id: number): string {
  let spelling = spelt.get(id);
  if (spelling === undefined) {
    const text = (ids: number[]) => decoder.decode(ids, { skipSpecialTokens: false });
    spelling = text([id, id]).slice(text([id]).length) || (decoder.tokenOf(id) ?? "");
    spelt.set(id, spelling);
  }
  return spelling;
}

/** Tells of the prompt's first token now, and of the others as their numbers come. */
export function promptTeller(
  speech: Speech,
  promptIds: Int32Array,
  tell: (piece: PromptPiece) => void,
): (told: PromptLogprobs) => void {
  const known = new Set<number>();
  const tellOf = ({ start, ...numbers }: PromptLogprobs) => {
    const ids = promptIds.slice(start, start + numbers.logprobs.length);
    const fresh = new Set<number>();
    for (const list of [ids, numbers.topIds]) for (const id of list) if (!known.has(id)) fresh.add(id);
    for (const id of fresh) known.add(id);
    tell({ ...numbers, ids, spellings: [...fresh].map((id) => [id, spell(speech, id)] as const) });
  };
  tellOf({
    start: 0,
    logprobs: Float64Array.of(Number.NaN),
    ranks: Int32Array.of(0),
    topIds: new Int32Array(0),
    topLogprobs: new Float64Array(0),
  });
  return tellOf;
}
