// What became of a data file's rows on their way to samples: counts, lengths, and what a reader of results should know.
// Made by dataset.node.ts, kept with the samples (sample-file.node.ts), judged by preflight.ts.

import type { RowId } from "./row.ts";
import type { Samples } from "./samples.ts";

export type OverLength = "error" | "drop" | "truncate";

export interface LengthBucket {
  /** Sequences longer than half of this and no longer than this, in tokens. */
  readonly upTo: number;
  readonly count: number;
}

export interface DatasetReport {
  readonly file: string;
  /** Name of the row format. */
  readonly format: string;
  readonly trainOn: "completions" | "assistant" | "all";
  /** What turned rows into text: the chat template's name, "headings" (Alpaca rows without one) or "as written". */
  readonly rendering: string;
  readonly rows: number;
  /** What is left to train on. */
  readonly samples: number;
  /** Rows longer than the sequence length. */
  readonly dropped: number;
  readonly truncated: number;
  /** Rows left out because no token of theirs is a target. */
  readonly withoutTargets: number;
  /** Samples whose targets hold no EOS: they do not teach the model to stop. */
  readonly withoutEos: number;
  /** Conversations in which the template's prompt for an answer differs from what precedes the answer. */
  readonly promptDisagrees: number;
  /** Samples, of those that were tried, that generation would prompt with other text than they were trained with. */
  readonly promptMismatches: readonly RowId[];
  /** Samples whose conversation the chat template shows only in part, and what it leaves out of the first few. */
  readonly droppedContent: { readonly samples: number; readonly shown: readonly string[] };
  readonly tokens: number;
  readonly targetTokens: number;
  /** Of all rows, before dropping and cutting. */
  readonly longestRow: { readonly tokens: number; readonly row: string };
  readonly lengths: readonly LengthBucket[];
  readonly sequenceLength: number;
  readonly ignoredKeys: Readonly<Record<string, number>>;
  /** SHA-256 of the data's bytes; "" when rows did not come from a file. */
  readonly dataHash: string;
}

export interface Dataset<List extends Samples = Samples> {
  readonly samples: List;
  readonly report: DatasetReport;
}

/** What a reader of results should know about the rows, where no preflight tells it. */
export function warningsOf(report: DatasetReport): string[] {
  const warnings: string[] = [];
  const warn = (message: string) => warnings.push(`${report.file}: ${message}`);
  const { rows } = report;
  if (report.dropped > 0)
    warn(
      `${report.dropped} of ${rows} rows are longer than ${report.sequenceLength} tokens and were dropped.`,
    );
  if (report.truncated > 0)
    warn(`${report.truncated} of ${rows} rows are longer than ${report.sequenceLength} tokens and were cut.`);
  if (report.withoutTargets > 0)
    warn(`${report.withoutTargets} of ${rows} rows have no target token and were left out.`);
  if (report.withoutEos > 0) {
    warn(
      `${report.withoutEos} of ${report.samples} samples never train the end-of-text token; a model trained on them may not stop.`,
    );
  }
  if (report.promptDisagrees > 0) {
    warn(
      `in ${report.promptDisagrees} conversations the chat template prompts for an answer with other text than precedes it in training.`,
    );
  }
  if (report.droppedContent.samples > 0) {
    warn(
      `the chat template leaves out a part of ${report.droppedContent.samples} conversations: ${report.droppedContent.shown.join("; ")}.`,
    );
  }
  if (Object.keys(report.ignoredKeys).length > 0)
    warn(`keys that nothing reads were ignored: ${ignoredKeysText(report.ignoredKeys)}.`);
  return warnings;
}

/** Keys as sentences list them. What a row names its keys is anyone's to write, hence the limits. */
export function ignoredKeysText(keys: Readonly<Record<string, number>>): string {
  const entries = Object.entries(keys);
  const shown = entries
    .slice(0, 12)
    .map(([key, count]) => `${JSON.stringify(key.slice(0, 60))} (${count} rows)`);
  return shown.join(", ") + (entries.length > 12 ? ` and ${entries.length - 12} more` : "");
}
