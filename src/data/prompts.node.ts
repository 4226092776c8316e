// Rows as prompts whose completions a model writes itself: a prompt's tokens, its text, and the whole row, which rewards may
// look at. Any row that evaluation could ask ({"prompt", "completion"}, conversations, instructions), and rows of a prompt
// alone, as text or as messages. What a row has as its answer is not looked at. Rows that are learnt from: dataset.node.ts.

import { UserError } from "../util/errors.ts";
import { mayHoldTurns, readConversation, withSystem } from "./conversation.ts";
import { readRenamed } from "./data-source.ts";
import type { DatasetReport, OverLength } from "./dataset-report.ts";
import { formatOf } from "./index.ts";
import { openDataFile } from "./read-rows.node.ts";
import { beginText, type Rendering, renderPrompt, TRAINING_DATE } from "./render.ts";
import { type Row, type RowId, type RowValue, rowLabel, toolsAt } from "./row.ts";

export interface PromptRow {
  readonly id: RowId;
  readonly text: string;
  readonly ids: readonly number[];
  /** The row as plain JSON. */
  readonly value: unknown;
}

export interface Prompts {
  readonly rows: readonly PromptRow[];
  readonly report: DatasetReport;
}

export interface PromptOptions extends Rendering {
  /** Tokens that a completion may take of a sequence. */
  readonly maxNewTokens: number;
  readonly sequenceLength: number;
  readonly overLength: OverLength;
  /** As in DatasetOptions (dataset.node.ts). */
  readonly limit?: number;
  readonly columns?: Readonly<Record<string, string>>;
  readonly wholeName?: boolean;
}

/** UserError for rows without a prompt, and for those that leave no room for a completion unless they are dropped. */
export async function loadPrompts(path: string, options: PromptOptions): Promise<Prompts> {
  const { limit = Number.POSITIVE_INFINITY, columns } = options;
  const file = await openDataFile(path, options.wholeName);
  const all: PromptRow[] = [];
  for await (const piece of file.rows()) {
    for (const row of piece.slice(0, limit - all.length))
      all.push(readRenamed(row, columns, (each) => promptOf(each, options)));
    if (all.length >= limit) break;
  }
  const { sequenceLength, maxNewTokens, overLength } = options;
  const most = sequenceLength - maxNewTokens;
  const fits = ({ ids }: PromptRow) => ids.length <= most;
  const rows = all.filter(fits);
  const longest = all.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
  const told = `${rowLabel(longest.id)} has ${longest.ids.length} tokens, which with --max-new-tokens ${maxNewTokens} are more than --sequence-length ${sequenceLength}`;
  if (overLength !== "drop" && rows.length < all.length) {
    throw new UserError(
      `${file.name}: ${all.length - rows.length} of ${all.length} prompts leave no room for a completion: ${told}. Raise --sequence-length, lower --max-new-tokens, or pass --over-length drop.`,
    );
  }
  if (rows.length === 0) throw new UserError(`${file.name}: no prompt is left: ${told}.`);
  return { rows, report: reportOf(file.name, file.hash, rows, all, options) };
}

function promptOf({ id, value }: Row, rendering: Rendering): PromptRow {
  const where = rowLabel(id);
  try {
    const { text, ids } =
      textPrompt(value, rendering) ?? turnsPrompt(value, where, rendering) ?? asked(value, where, rendering);
    if (ids.length === 0) throw new UserError(`${where}: the prompt has no token; expected at least one.`);
    return { id, text, ids, value: plainOf(value) };
  } catch (error) {
    if (!(error instanceof UserError) || error.message.startsWith(where)) throw error;
    throw new UserError(`${where}: ${error.message}`);
  }
}

interface Prompt {
  readonly text: string;
  readonly ids: readonly number[];
}

function textPrompt({ prompt, messages }: RowValue, { tokenizer }: Rendering): Prompt | undefined {
  if (typeof prompt !== "string" || mayHoldTurns(messages) || /^\s*\[\s*\{/.test(prompt)) return undefined;
  return { text: prompt, ids: beginText(tokenizer, prompt) };
}

/** Turns of which the last is not the assistant's, or is left out. */
function turnsPrompt(row: RowValue, where: string, rendering: Rendering): Prompt | undefined {
  const key = ["prompt", "messages"].find((name) => mayHoldTurns(row[name]));
  if (key === undefined) return undefined;
  const { template, tokenizer } = rendering;
  if (template === undefined) {
    throw new UserError(
      `${where}: the prompt is a conversation, and this model has no chat template; pass --chat-template.`,
    );
  }
  const { messages } = withSystem(
    readConversation(row, key, where, () => {}),
    row,
    where,
  );
  const asking = messages.at(-1)!.role === "assistant" ? messages.slice(0, -1) : messages;
  if (asking.length === 0) throw new UserError(`${where}: nobody says anything before the assistant.`);
  const text = template.render(asking, {
    tools: toolsAt(row, "tools", where),
    addGenerationPrompt: true,
    date: rendering.date ?? TRAINING_DATE,
  });
  return { text, ids: tokenizer.encode(text, { addSpecialTokens: false }) };
}

/** Rows of the other formats, asked as evaluation asks them. */
function asked(row: RowValue, where: string, rendering: Rendering): Prompt {
  const example = formatOf(row, where).toExample(row, where, () => {});
  const prompt = renderPrompt(example, rendering);
  if (prompt) return prompt;
  throw new UserError(
    `${where}: holds nothing to ask; expected "prompt" (a text or messages), "messages" or another row with an answer.`,
  );
}

/** As JSON.parse would have it, but for integers beyond 2^53, which are bigint. */
function plainOf(value: unknown): unknown {
  if (value instanceof Number) return value.valueOf();
  if (Array.isArray(value)) return value.map(plainOf);
  if (typeof value !== "object" || value === null) return value;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  return Object.fromEntries(entries.map(([key, held]) => [key, plainOf(held)]));
}

function reportOf(
  file: string,
  dataHash: string,
  rows: readonly PromptRow[],
  all: readonly PromptRow[],
  { sequenceLength, template }: PromptOptions,
): DatasetReport {
  const buckets = new Map<number, number>();
  for (const { ids } of all) {
    const bucket = 2 ** Math.ceil(Math.log2(ids.length));
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
  }
  const longest = all.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
  return {
    ...{
      file,
      dataHash,
      format: "prompts",
      trainOn: "completions",
      rendering: template?.name ?? "as written",
    },
    ...{ rows: all.length, samples: rows.length, dropped: all.length - rows.length, truncated: 0 },
    ...{ withoutTargets: 0, withoutEos: 0, promptDisagrees: 0, promptMismatches: [] },
    droppedContent: { samples: 0, shown: [] },
    tokens: rows.reduce((sum, { ids }) => sum + ids.length, 0),
    targetTokens: 0,
    longestRow: { tokens: longest.ids.length, row: rowLabel(longest.id) },
    lengths: [...buckets].sort(([a], [b]) => a - b).map(([upTo, count]) => ({ upTo, count })),
    sequenceLength,
    ignoredKeys: {},
  };
}
