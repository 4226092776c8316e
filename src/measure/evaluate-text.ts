// What a model writes to the prompts of a data set, and how that scores against the references. Rows that share a
// prompt are one prompt with all their references, as data-to-text sets mean them: one generation, scored once.
// Losses are in evaluate.ts; both together, from a file, in measure.ts.

import type { ExampleRow } from "../data/index.ts";
import { type Rendering, renderPrompt } from "../data/render.ts";
import type { RowId } from "../data/row.ts";
import { type Collective, gatherValues, single } from "../distributed/collective.ts";
import { generateBatch } from "../generate/generate.ts";
import { KeyValueCache } from "../generate/kv-cache.ts";
import { greedy } from "../generate/sampler.ts";
import { type TextMetricName, textMetrics } from "../metrics/index.ts";
import { textRows } from "../metrics/text-metric.ts";
import type { Decoder } from "../models/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface TextPrompt {
  readonly text: string;
  readonly ids: readonly number[];
  /** Acceptable answers, each once. */
  readonly references: readonly string[];
  /** Every row that has this prompt. */
  readonly rows: readonly RowId[];
}

export interface TextPrediction extends TextPrompt {
  readonly prediction: string;
  readonly tokenIds: readonly number[];
  readonly finishReason: "stop" | "length";
}

type Answer = Pick<TextPrediction, "prediction" | "tokenIds" | "finishReason">;

/** The prompts of rows, in the order in which they first appear, and the number of rows with nothing to answer. */
export function groupPrompts(
  examples: readonly ExampleRow[],
  rendering: Rendering,
): { readonly prompts: TextPrompt[]; readonly withoutAnswer: number } {
  const groups = new Map<string, { text: string; ids: number[]; references: Set<string>; rows: RowId[] }>();
  let withoutAnswer = 0;
  for (const { id, example } of examples) {
    const rendered = renderPrompt(example, rendering);
    if (!rendered) {
      withoutAnswer++;
      continue;
    }
    const key = rendered.ids.join(" ");
    let group = groups.get(key);
    if (!group) groups.set(key, (group = { ...rendered, references: new Set(), rows: [] }));
    for (const reference of rendered.references) group.references.add(reference);
    group.rows.push(id);
  }
  const prompts = [...groups.values()].map((group) => ({ ...group, references: [...group.references] }));
  return { prompts, withoutAnswer };
}

export interface PredictOptions {
  readonly maxNewTokens: number;
  /** The ranks that share the prompts; this process alone when absent. */
  readonly collective?: Collective;
  readonly onProgress?: (done: number, total: number) => void;
}

const mostSlots = 32;
/** Bounds on what runs at a time: cache memory, and prompt tokens that may enter in one pass. */
const cacheBudgetBytes = 2 ** 30;
const passTokens = 8192;
/** Prompts of like length share a cache as long as the longest of them needs. */
const promptsPerSlot = 8;

/** Greedy answers to prompts, in their order. */
export async function predictTexts(
  decoder: Decoder,
  tokenizer: Tokenizer,
  prompts: readonly TextPrompt[],
  { maxNewTokens, onProgress, collective = single }: PredictOptions,
): Promise<TextPrediction[]> {
  const own: [index: number, answer: Answer][] = [];
  // The longest first: what does not fit in memory fails at once.
  const order = prompts.map((_, i) => i).sort((a, b) => prompts[b]!.ids.length - prompts[a]!.ids.length);
  let done = 0;
  for (let start = 0, turn = 0; start < order.length; turn++) {
    const longest = prompts[order[start]!]!.ids.length;
    const slotBytes = KeyValueCache.sizeBytes(decoder.backend, decoder.config, 1, longest + maxNewTokens);
    const fitting = Math.min(cacheBudgetBytes / slotBytes, passTokens / longest);
    const slots = Math.max(1, Math.min(mostSlots, Math.floor(fitting)));
    const group = order.slice(start, start + slots * promptsPerSlot);
    start += group.length;
    if (turn % collective.size !== collective.rank) continue;
    const requests = group.map((index) => ({
      promptIds: prompts[index]!.ids,
      maxNewTokens,
      stopIds: tokenizer.eosIds,
      sampling: greedy,
    }));
    await generateBatch(decoder, requests, {
      slots,
      onFinished(i, { tokenIds, finishReason }) {
        const prediction = tokenizer.decode(tokenIds, { skipSpecialTokens: true });
        own.push([group[i]!, { prediction, tokenIds: [...tokenIds], finishReason }]);
        onProgress?.(++done, prompts.length);
      },
    });
  }
  const predictions: TextPrediction[] = new Array(prompts.length);
  for (const [index, answer] of (await gatherValues(collective, own)).flat())
    predictions[index] = { ...prompts[index]!, ...answer };
  return predictions;
}

/** Scores by their names in reports. */
export function scoreTexts(
  names: readonly TextMetricName[],
  predictions: readonly Pick<TextPrediction, "prediction" | "references">[],
): Record<string, number> {
  const texts = predictions.map(({ prediction }) => prediction);
  const references = predictions.map((prediction) => prediction.references);
  const scores: Record<string, number> = {};
  for (const name of names) {
    const metric = textMetrics[name];
    Object.assign(scores, metric.combine(textRows(metric, texts, references)));
  }
  return scores;
}
