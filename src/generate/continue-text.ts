// From prompt ids to text while it is generated: certain characters only, and nothing of a stop text or of what may
// become one. What `generate`, `chat` and `serve` stream. Not here: choosing tokens (sampler.ts), batches
// (generate.ts), how bytes become characters (text/streaming-decode.ts).

import type { Decoder } from "../models/decoder.ts";
import type { TokenDecoder } from "../text/overlaid-decoder.ts";
import { StreamingDecoder } from "../text/streaming-decode.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { GenerationRequest, GenerationResult } from "./engine.ts";
import { generateBatch } from "./generate.ts";
import type { Sampling } from "./sampler.ts";

export interface ContinueOptions {
  readonly maxNewTokens: number;
  readonly sampling: Sampling;
  /** Texts that end generation; what comes out ends before them. */
  readonly stop?: readonly string[];
  /** Called with each piece of text as it becomes certain. */
  readonly onText?: (piece: string) => void;
  /** Turns true to end generation early. */
  readonly signal?: { readonly aborted: boolean };
  /** As a GenerationRequest's; told of a token before the text that it completes. */
  readonly onToken?: (...told: Parameters<NonNullable<GenerationRequest["onToken"]>>) => void;
  readonly onStop?: GenerationRequest["onStop"];
  readonly adapter?: GenerationRequest["adapter"];
  readonly logprobs?: number;
  readonly promptLogprobs?: number;
  readonly onPrompt?: GenerationRequest["onPrompt"];
}

export interface Continuation extends GenerationResult {
  /** All pieces joined. */
  readonly text: string;
}

/** Continues one prompt. `tokenIds` hold every token drawn, those of a stop text included. */
export function continueText(
  decoder: Decoder,
  tokenizer: Tokenizer,
  promptIds: readonly number[],
  options: ContinueOptions,
): Promise<Continuation> {
  const alone = async (request: GenerationRequest) => (await generateBatch(decoder, [request]))[0]!;
  return continueWith(alone, tokenizer, promptIds, options);
}

/** The same on an engine that others use too. */
export async function continueWith(
  generate: (request: GenerationRequest) => Promise<GenerationResult>,
  tokenizer: TokenDecoder,
  promptIds: readonly number[],
  options: ContinueOptions,
): Promise<Continuation> {
  const decoding = new StreamingDecoder(tokenizer, promptIds, { skipSpecialTokens: true });
  const gate = new StopGate(options.stop ?? [], options.onText ?? (() => {}));
  const { tokenIds, finishReason, ...rest } = await generate({
    promptIds,
    maxNewTokens: options.maxNewTokens,
    stopIds: tokenizer.eosIds,
    sampling: options.sampling,
    adapter: options.adapter,
    logprobs: options.logprobs,
    onStop: options.onStop,
    promptLogprobs: options.promptLogprobs,
    onPrompt: options.onPrompt,
    signal: options.signal,
    onToken(id, logprobs) {
      options.onToken?.(id, logprobs);
      return gate.push(decoding.push(id)) && !options.signal?.aborted;
    },
  });
  gate.push(decoding.finish());
  gate.end();
  return { ...rest, tokenIds, finishReason: gate.stopped ? "stop" : finishReason, text: gate.text };
}

/** Lets text through up to the first stop text, holding back an end that may be the beginning of one. */
export class StopGate {
  text = "";
  stopped = false;
  private held = "";

  constructor(
    private readonly stops: readonly string[],
    private readonly emit: (piece: string) => void,
  ) {}

  /** False once a stop text has come. */
  push(piece: string): boolean {
    if (this.stopped) return false;
    this.held += piece;
    const found = this.stops.map((stop) => this.held.indexOf(stop)).filter((at) => at >= 0);
    if (found.length > 0) {
      this.stopped = true;
      this.release(Math.min(...found));
      this.held = "";
      return false;
    }
    this.release(this.held.length - this.doubtful());
    return true;
  }

  /** No more text comes: what was held back is text after all. */
  end(): void {
    this.release(this.held.length);
  }

  /** Length of the longest end of the held text that begins a stop text. */
  private doubtful(): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, this.held.length); length > longest; length--) {
        if (this.held.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }

  private release(length: number): void {
    const piece = this.held.slice(0, length);
    this.held = this.held.slice(length);
    this.text += piece;
    if (piece !== "") this.emit(piece);
  }
}
