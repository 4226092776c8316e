// Decoding with a tokenizer that shares all ordinary tokens with another and differs in added ones, as that of an adapter
// does that was trained with a few new tokens: the other's decoder does the work, so that nothing is built anew. Only
// decodes; what a whole tokenizer knows is in tokenizer.ts.

import type { Tokenizer } from "./tokenizer.ts";

/** What it takes to turn ids into text, and to know where a text ends. */
export type TokenDecoder = Pick<Tokenizer, "decode" | "tokenOf" | "eosIds">;

/** A token that another tokenizer has not, or has otherwise; plain data. */
export interface OverlaidToken {
  readonly id: number;
  /** Absent: the id has no token. */
  readonly content?: string;
  readonly special: boolean;
}

/** What tells `own` apart from `base` in decoding; undefined where ordinary tokens or the decoder differ too. */
export function overlayOf(base: Tokenizer, own: Tokenizer): readonly OverlaidToken[] | undefined {
  if (base === own) return [];
  if (base.decoderText !== own.decoderText) return undefined;
  const [before, after] = [base.addedTokens, own.addedTokens];
  const tokens: OverlaidToken[] = [];
  for (let id = 0; id < Math.max(base.vocabSize, own.vocabSize); id++) {
    const content = own.tokenOf(id);
    const special = after.get(id)?.special === true;
    if (content === base.tokenOf(id) && special === (before.get(id)?.special === true)) continue;
    if (content !== undefined && !after.has(id)) return undefined;
    tokens.push({ id, content, special });
  }
  return tokens;
}

export class OverlaidDecoder implements TokenDecoder {
  private readonly tokens: ReadonlyMap<number, OverlaidToken>;

  constructor(
    private readonly base: TokenDecoder,
    tokens: readonly OverlaidToken[],
    readonly eosIds: readonly number[],
  ) {
    this.tokens = new Map(tokens.map((token) => [token.id, token]));
  }

  tokenOf(id: number): string | undefined {
    const token = this.tokens.get(id);
    return token ? token.content : this.base.tokenOf(id);
  }

  decode(ids: readonly number[], options: { skipSpecialTokens?: boolean } = {}): string {
    const skips = options.skipSpecialTokens ?? true;
    let text = "";
    let run: number[] = [];
    const flush = () => {
      if (run.length > 0) text += text === "" ? this.base.decode(run, options) : this.continued(run, options);
      run = [];
    };
    for (const id of ids) {
      const token = this.tokens.get(id);
      if (!token) run.push(id);
      else if (token.content !== undefined && !(token.special && skips)) {
        flush();
        text += token.content;
      }
    }
    flush();
    return text;
  }

  /** Text of ids inside a text: some decoders drop the space of a first word. */
  private continued(run: readonly number[], options: { skipSpecialTokens?: boolean }): string {
    const before = this.base.decode(run.slice(0, 1), options);
    return this.base.decode([run[0]!, ...run], options).slice(before.length);
  }
}
