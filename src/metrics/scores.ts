// Scores by their names in reports, which way each is better, and the names that options take for them. A metric may
// give several scores (rouge: rouge1, rouge2, rougeL); its own name then stands for the one that people mean by it. Not
// here: how a score comes about (index.ts and the metrics themselves, session/evaluate.ts for losses).

import { type TextMetricName, textMetrics } from "./index.ts";

export interface Score {
  /** In reports, such as exactMatch. */
  readonly name: string;
  /** The metric of generated answers that gives it; absent for what losses give. */
  readonly metric?: TextMetricName;
  /** Less is better. */
  readonly falls: boolean;
}

const falling = new Set(["perplexity", "bytePerplexity", "loss"]);

/** Whether less of this score is better. */
export function falls(name: string): boolean {
  return falling.has(name);
}

/** Which of a metric's several scores its name means. */
const meant: Partial<Record<TextMetricName, string>> = { rouge: "rougeL" };

/** Names of the scores that a metric gives. */
export function scoresOf(metric: TextMetricName): string[] {
  const { combine, row } = textMetrics[metric];
  return Object.keys(combine([row("a", ["a"])]));
}

/** Scores of an evaluation's losses and, where preferences are trained, of its rewards. */
const ofLosses = ["loss", "perplexity", "rewardAccuracy", "rewardMargin"];

const byOption: ReadonlyMap<string, Score> = new Map(
  [
    ...ofLosses.flatMap((name): [string, Score][] => {
      const score = { name, falls: falls(name) };
      return [
        [name, score],
        [inKebab(name), score],
      ];
    }),
    ...(Object.keys(textMetrics) as TextMetricName[]).flatMap((metric): [string, Score][] => {
      const scores = scoresOf(metric).map((name): Score => ({ name, metric, falls: falls(name) }));
      const own = scores.find(({ name }) => name === meant[metric]) ?? scores[0]!;
      return [[metric, own], ...scores.map((score): [string, Score] => [score.name, score])];
    }),
  ].filter(([name], i, all) => all.findIndex(([other]) => other === name) === i),
);

/** What an option may name: exact-match and exactMatch, rouge, rouge1, ... */
export const scoreOptions: readonly string[] = [...byOption.keys()];

/** The score of one of scoreOptions. */
export function scoreNamed(option: string): Score {
  return byOption.get(option)!;
}

function inKebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
