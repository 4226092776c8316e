// Completions that the model as it is now writes for its prompts: the generation engine of `serve` on the decoder that is
// being trained, its adapter live, so that there is neither a copy of the weights nor another model. Tokens are drawn from the
// model's own distribution (temperature 1, no cuts), which is the one that the objective trains. What is drawn depends on
// the run's seed and the round's number alone. What completions are worth: rewards.node.ts.

import { GenerationEngine } from "../generate/engine.ts";
import type { Decoder } from "../models/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { randomBits } from "../util/rng.ts";

export interface WrittenCompletion {
  /** With the end-of-text token that was drawn, where one was. */
  readonly ids: readonly number[];
  /** Without special tokens. */
  readonly text: string;
  /** It was cut at the most tokens. */
  readonly cut: boolean;
}

export interface WritingOptions {
  readonly groupSize: number;
  readonly maxNewTokens: number;
  readonly seed: number;
  /** Number of this round of the run, from 0. */
  readonly round: number;
}

/** Streams of the seed: far from those of dropout, initialisation and shuffling. */
const writingStream = 0x5af80000;
const slots = 16;

/** `groupSize` completions of each prompt. */
export async function writeCompletions(
  decoder: Decoder,
  tokenizer: Tokenizer,
  prompts: readonly (readonly number[])[],
  { groupSize, maxNewTokens, seed, round }: WritingOptions,
): Promise<WrittenCompletion[][]> {
  const longest = Math.max(...prompts.map(({ length }) => length));
  const count = prompts.length * groupSize;
  const engine = new GenerationEngine(decoder, {
    slots: Math.min(slots, count),
    capacity: longest + maxNewTokens,
  });
  try {
    return await Promise.all(
      prompts.map((promptIds, i) =>
        Promise.all(
          Array.from({ length: groupSize }, async (_, k) => {
            const ends: number[] = [];
            const { tokenIds, finishReason } = await engine.generate({
              ...{ promptIds, maxNewTokens, stopIds: tokenizer.eosIds },
              sampling: { temperature: 1, seed: seedOf(seed, round, i * groupSize + k) },
              onStop: (id) => void ends.push(id),
            });
            const text = tokenizer.decode(tokenIds, { skipSpecialTokens: true });
            return { ids: [...tokenIds, ...ends], text, cut: finishReason === "length" };
          }),
        ),
      ),
    );
  } finally {
    await engine.close();
  }
}

/** 53 bits of (seed, round, place). */
function seedOf(seed: number, round: number, place: number): number {
  const bits = (half: number) => randomBits(seed, writingStream + round, 2 * place + half);
  return bits(0) * 2 ** 21 + (bits(1) >>> 11);
}
