// Decodes ids as they are generated: each push returns the text that became certain, never half a UTF-8
// character. Not a tokenizer of its own: it asks Tokenizer.decode for a short window of recent ids, because a
// decoder may treat the first piece of a text differently (a SentencePiece one drops its leading space).

import type { TokenDecoder } from "./overlaid-decoder.ts";

const REPLACEMENT = "\ufffd";

export class StreamingDecoder {
  private readonly ids: number[] = [];
  /** Ids before this are no longer needed as context. */
  private contextStart = 0;
  /** Ids before this have been emitted. */
  private emittedEnd = 0;

  /** `promptIds` give the first generated ids their context; their text is not emitted. */
  constructor(
    private readonly tokenizer: TokenDecoder,
    promptIds: readonly number[] = [],
    private readonly options: { skipSpecialTokens?: boolean } = {},
  ) {
    // A few ids of context settle whether a leading space counts.
    this.ids.push(...promptIds.slice(-6));
    this.emittedEnd = this.ids.length;
  }

  /** The text that this id completes; "" while a character is still missing bytes. */
  push(id: number): string {
    this.ids.push(id);
    const before = this.decode(this.contextStart, this.emittedEnd);
    const after = this.decode(this.contextStart, this.ids.length);
    if (after.length <= before.length || after.endsWith(REPLACEMENT)) return "";
    this.contextStart = this.emittedEnd;
    this.emittedEnd = this.ids.length;
    return after.slice(before.length);
  }

  /** What is left when generation ends; incomplete bytes come out as U+FFFD. */
  finish(): string {
    const before = this.decode(this.contextStart, this.emittedEnd);
    const after = this.decode(this.contextStart, this.ids.length);
    this.contextStart = this.emittedEnd = this.ids.length;
    return after.slice(before.length);
  }

  private decode(start: number, end: number): string {
    return this.tokenizer.decode(this.ids.slice(start, end), this.options);
  }
}
